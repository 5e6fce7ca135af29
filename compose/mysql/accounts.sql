-- Run by the server at every start, before it takes connections. One statement per line.

-- Whose data these are is an attribute of root's. Of another environment's accounts (or this one's from before its
-- secrets were made anew) none may let anybody in: all go that MySQL does not need, in one statement. The mark is
-- set after that, so a server that is killed in between does it again.
SET SESSION group_concat_max_len = 16777216;
SET @owner = (SELECT User_attributes ->> '$.metadata.owner' FROM mysql.user WHERE User = 'root' AND Host = 'localhost');
SET @others = (SELECT GROUP_CONCAT(QUOTE(User), '@', QUOTE(Host)) FROM mysql.user WHERE CONCAT(User, '@', Host) NOT IN ('root@localhost', 'mysql.sys@localhost', 'mysql.session@localhost', 'mysql.infoschema@localhost'));
SET @statement = IF(@owner <> '${secret.owner}' AND @others IS NOT NULL, CONCAT('DROP USER ', @others), 'DO 0');
PREPARE disown FROM @statement;
EXECUTE disown;
DEALLOCATE PREPARE disown;

-- Idempotent, and it sets the passwords anew.
CREATE USER IF NOT EXISTS 'devenv'@'%';
ALTER USER 'devenv'@'%' IDENTIFIED BY '${secret.password}';
GRANT ALL PRIVILEGES ON *.* TO 'devenv'@'%' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS devenv CHARACTER SET utf8mb4;
ALTER USER 'root'@'localhost' IDENTIFIED BY '${secret.root_password}' ATTRIBUTE '{"owner": "${secret.owner}"}';
