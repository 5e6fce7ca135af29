#!/bin/sh
# Create the data folder on the first start, then become the server, so that SIGTERM reaches it.
set -eu
umask 027
config=/etc/devenv/my.cnf
data=/var/lib/mysql/data/db
fresh=/var/lib/mysql/data/db.new
# Says whose keys are in the data folder. A copy of the data brings another environment's mark, which differs.
mark=/var/lib/mysql/data/owner
owner='${secret.owner}'

# Names a file with the statements that load the named time zones: devenv's image has one, and official images have the
# program that writes it. Without either, the server knows offsets only.
time_zones() {
    ready=/usr/share/mariadb/time_zones.sql written=/tmp/time_zones.sql
    if [ -f "$ready" ]; then
        echo "$ready"
    elif mariadb-tzinfo-to-sql /usr/share/zoneinfo > "$written" 2> /dev/null; then
        echo "$written"
    else
        : > "$written"
        echo "$written"
    fi
}

# The server would create an RSA key for TLS itself at each start, in a second. Without openssl, it does.
make_certificate() {
    command -v openssl > /dev/null || return 0
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=devenv-mariadb \
        -keyout "$data/server-key.pem" -out "$data/server-cert.pem" 2> /dev/null || rm -f "$data"/*.pem
}

# Only a rename gives the folder its final name, so a folder of that name is complete. An interrupted first start leaves
# it under the other name, and the next start recreates it.
if [ ! -d "$data" ]; then
    # Process 1 ignores signals without a trap, and a shell acts on them only in `wait`.
    trap 'exit 143' TERM
    rm -rf "$fresh"
    # --force: without looking up the host's name.
    mariadb-install-db --defaults-file="$config" --datadir="$fresh" --skip-test-db --force \
        --auth-root-authentication-method=normal --extra-file="$(time_zones)" > /dev/null &
    wait $!
    rm -f /tmp/time_zones.sql
    # The files must reach the disk before the rename does.
    sync -f "$fresh"
    echo "$owner" > "$mark"
    mv "$fresh" "$data"
    trap - TERM
fi

# Remove the private key from another environment's data. accounts.sql removes the accounts.
if ! echo "$owner" | cmp -s "$mark"; then
    rm -f "$data"/*.pem
    echo "$owner" > "$mark.new"
    mv "$mark.new" "$mark"
fi
[ -f "$data/server-cert.pem" ] || make_certificate

set -- --defaults-file="$config" --init-file=/etc/devenv/accounts.sql
if [ -f "$data/server-cert.pem" ]; then
    set -- "$@" --ssl-cert="$data/server-cert.pem" --ssl-key="$data/server-key.pem"
fi
exec mariadbd "$@"
