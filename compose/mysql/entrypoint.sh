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

# The server would create three RSA keys for TLS itself, in a quarter of a second. Without openssl, it does.
make_certificate() {
    command -v openssl > /dev/null || return 0
    # The certificate is its own authority. If openssl fails, the server creates its own.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=devenv-mysql \
        -keyout "$data/server-key.pem" -out "$data/server-cert.pem" 2> /dev/null &&
        cp "$data/server-cert.pem" "$data/ca.pem" || rm -f "$data"/*.pem
}

# Names a file with the statements that load the named time zones: devenv's image has one, and official images have the
# program that writes it. Without either, the server knows offsets only.
time_zones() {
    ready=/usr/share/mysql/time_zones.sql written=/tmp/time_zones.sql
    if [ -f "$ready" ]; then
        echo "$ready"
    elif { echo 'USE mysql;'; mysql_tzinfo_to_sql /usr/share/zoneinfo; } > "$written" 2> /dev/null; then
        echo "$written"
    else
        echo /dev/null
    fi
}

# Where no control group limits memory, as with some rootless engines, the server refuses to be aware of its container.
aware=ON
[ -e /sys/fs/cgroup/memory.max ] || [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] || aware=OFF

# Only a rename gives the folder its final name, so a folder of that name is complete. An interrupted first start leaves
# it under the other name, and the next start recreates it.
if [ ! -d "$data" ]; then
    # Process 1 ignores signals without a trap, and a shell acts on them only in `wait`.
    trap 'exit 143' TERM
    rm -rf "$fresh"
    # Not with accounts.sql: MySQL refuses account statements while it creates the system tables.
    mysqld --defaults-file="$config" --datadir="$fresh" --init-file="$(time_zones)" --initialize-insecure \
        --loose-container-aware="$aware" &
    wait $!
    rm -f /tmp/time_zones.sql
    # The files must reach the disk before the rename does.
    sync -f "$fresh"
    echo "$owner" > "$mark"
    mv "$fresh" "$data"
    trap - TERM
fi

# Remove private keys and the server's id from another environment's data; the server creates its own. accounts.sql
# removes the accounts.
if ! echo "$owner" | cmp -s "$mark"; then
    rm -f "$data"/*.pem "$data/auto.cnf"
    make_certificate
    echo "$owner" > "$mark.new"
    mv "$mark.new" "$mark"
fi

# Debian links MySQL with tcmalloc, which keeps the memory that only the start needs. The C library's own malloc, with
# one arena, returns free memory: 121 MB instead of 156, and no more CPU under load.
export LD_PRELOAD=libc.so.6 MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=131072
exec mysqld --defaults-file="$config" --loose-container-aware="$aware"
