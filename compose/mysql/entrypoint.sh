#!/bin/sh
# Makes the data folder on the first start, then becomes the server, so that SIGTERM reaches it.
set -eu
umask 027
config=/etc/devenv/my.cnf
data=/var/lib/mysql/data/db
fresh=/var/lib/mysql/data/db.new
# Whose keys are in the data folder. It comes with a copy of the data, but no other environment's is the same.
mark=/var/lib/mysql/data/owner
owner='${secret.owner}'

# The server itself would make three RSA keys for TLS, a quarter of a second of its start; where there is no openssl, it does.
make_certificate() {
    command -v openssl > /dev/null || return 0
    # The certificate is its own authority. Where that fails, the server makes its own.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=devenv-mysql \
        -keyout "$data/server-key.pem" -out "$data/server-cert.pem" 2> /dev/null &&
        cp "$data/server-cert.pem" "$data/ca.pem" || rm -f "$data"/*.pem
}

# Under its final name the folder is complete, because only a rename brings it there; what an interrupted
# first start left is under the other name, and is made anew.
if [ ! -d "$data" ]; then
    # Process 1 ignores signals that it does not ask for, and a shell acts on them only in `wait`.
    trap 'exit 143' TERM
    rm -rf "$fresh"
    # With an empty init file: account statements are refused while the system tables are being made.
    mysqld --defaults-file="$config" --datadir="$fresh" --init-file=/dev/null --initialize-insecure &
    wait $!
    # The rename must not reach the disk before the files do.
    sync -f "$fresh"
    echo "$owner" > "$mark"
    mv "$fresh" "$data"
    trap - TERM
fi

# Another environment's data: its private keys and the server's id go, and the server makes its own. The accounts
# are accounts.sql's business.
if ! echo "$owner" | cmp -s "$mark"; then
    rm -f "$data"/*.pem "$data/auto.cnf"
    make_certificate
    echo "$owner" > "$mark.new"
    mv "$mark.new" "$mark"
fi

# Debian links MySQL with tcmalloc, which keeps what a start needs once. The C library's own malloc, with one arena
# and giving back what is free, takes 121 MB in place of 156, and no more CPU under load.
export LD_PRELOAD=libc.so.6 MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=131072
exec mysqld --defaults-file="$config"
