-- Run by the server at every start, before it takes connections. One statement per line.
-- Idempotent, and it sets the passwords anew: restored data may hold those of another environment.
ALTER USER 'root'@'localhost' IDENTIFIED BY '${secret.root_password}';
CREATE USER IF NOT EXISTS 'devenv'@'%';
ALTER USER 'devenv'@'%' IDENTIFIED BY '${secret.password}';
GRANT ALL PRIVILEGES ON *.* TO 'devenv'@'%' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS devenv CHARACTER SET utf8mb4;
