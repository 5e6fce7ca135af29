-- The server runs this at every start, before it accepts connections. One statement per line.

-- A row says whose data this is. If it is another environment's (or this one's with older secrets), or nobody's yet, drop all accounts that MariaDB does not need. The row is set after that, so a server that is killed in between does it again.
CREATE TABLE IF NOT EXISTS mysql.devenv_owner (id INT PRIMARY KEY, owner VARCHAR(64) NOT NULL) ENGINE=Aria TRANSACTIONAL=1;
SET SESSION group_concat_max_len = 16777216;
SET @owner = (SELECT owner FROM mysql.devenv_owner);
SET @others = (SELECT GROUP_CONCAT(QUOTE(User), '@', QUOTE(Host)) FROM mysql.global_priv WHERE Host <> '' AND CONCAT(User, '@', Host) NOT IN ('root@localhost', 'mariadb.sys@localhost'));
EXECUTE IMMEDIATE IF(@owner <=> '${secret.owner}' OR @others IS NULL, 'DO 0', CONCAT('DROP USER ', @others));

-- Create the accounts if they are missing, and set their passwords.
CREATE USER IF NOT EXISTS 'devenv'@'%';
ALTER USER 'devenv'@'%' IDENTIFIED BY '${secret.password}';
GRANT ALL PRIVILEGES ON *.* TO 'devenv'@'%' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS devenv CHARACTER SET utf8mb4;
ALTER USER 'root'@'localhost' IDENTIFIED BY '${secret.root_password}';
REPLACE INTO mysql.devenv_owner VALUES (1, '${secret.owner}');
