
-- For ${component.name}. In a grant, and nowhere else, the database's name is a pattern: `a_b` would be `axb` too.
CREATE DATABASE IF NOT EXISTS `${output.DATABASE}` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '${output.USER}'@'%';
ALTER USER '${output.USER}'@'%' IDENTIFIED BY '${output.PASSWORD}';
SET @statement = CONCAT('GRANT ALL PRIVILEGES ON `', REPLACE('${output.DATABASE}', '_', '\\_'), "`.* TO '${output.USER}'@'%'");
PREPARE permit FROM @statement;
EXECUTE permit;
DEALLOCATE PREPARE permit;
