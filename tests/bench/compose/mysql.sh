#!/bin/sh
# "Initializing the Data Directory" of the MySQL manual, then the server. `--init-file` makes the accounts
# before the first connection; the official image's entrypoint starts a temporary server for that.
set -eu
data=/var/lib/mysql/db
if [ ! -d "$data" ]; then
    mysqld --no-defaults --initialize-insecure --user=mysql --datadir="$data"
fi
cat > /tmp/accounts.sql <<SQL
CREATE DATABASE IF NOT EXISTS keystone;
CREATE USER IF NOT EXISTS 'keystone'@'%' IDENTIFIED BY '$MYSQL_PASSWORD';
GRANT ALL PRIVILEGES ON keystone.* TO 'keystone'@'%';
SQL
# No folder for a socket or for exported files in the image; nothing here uses either.
exec mysqld --no-defaults --user=mysql --datadir="$data" --init-file=/tmp/accounts.sql \
    --socket=/tmp/mysqld.sock --mysqlx-socket=/tmp/mysqlx.sock --secure-file-priv=NULL
