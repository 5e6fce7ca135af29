-- The server runs this at every start, before it accepts connections. One statement per line.

-- An attribute of root says whose data this is. If it is another environment's (or this one's with older secrets), drop
-- all accounts that MySQL does not need, in one statement. The attribute is set after that, so a server that is killed
-- in between does it again.
SET SESSION group_concat_max_len = 16777216;
SET @owner = (SELECT User_attributes ->> '$.metadata.owner' FROM mysql.user WHERE User = 'root' AND Host = 'localhost');
SET @others = (SELECT GROUP_CONCAT(QUOTE(User), '@', QUOTE(Host)) FROM mysql.user WHERE CONCAT(User, '@', Host) NOT IN ('root@localhost', 'mysql.sys@localhost', 'mysql.session@localhost', 'mysql.infoschema@localhost'));
SET @statement = IF(@owner <> '${secret.owner}' AND @others IS NOT NULL, CONCAT('DROP USER ', @others), 'DO 0');
PREPARE disown FROM @statement;
EXECUTE disown;
DEALLOCATE PREPARE disown;

-- Create the accounts if they are missing, and set their passwords.
CREATE USER IF NOT EXISTS 'devenv'@'%';
ALTER USER 'devenv'@'%' IDENTIFIED BY '${secret.password}';
GRANT ALL PRIVILEGES ON *.* TO 'devenv'@'%' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS devenv CHARACTER SET utf8mb4;
ALTER USER 'root'@'localhost' IDENTIFIED BY '${secret.root_password}' ATTRIBUTE '{"owner": "${secret.owner}"}';
