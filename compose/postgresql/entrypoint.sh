#!/bin/sh
# Create the data folder on the first start, set the accounts, then run the server.
set -eu
umask 077
data=/srv/postgresql/data/db
fresh=/srv/postgresql/data/db.new

# Debian keeps each version's programs in a folder of its own. Other images have them in PATH.
for bin in /usr/lib/postgresql/*/bin; do
    [ ! -x "$bin/postgres" ] || PATH="$bin:$PATH"
done

# Process 1 ignores signals without a trap, and a shell acts on them only in `wait`.
trap 'exit 143' TERM INT

# Only a rename gives the folder its final name, so a folder of that name is complete. An interrupted first start leaves
# it under the other name, and the next start recreates it.
if [ ! -d "$data" ]; then
    rm -rf "$fresh"
    # Text sorts by its bytes, as in OpenStack's own tests; upper() and lower() know all letters. A copy of the data
    # needs less room with small segments of the log.
    initdb --pgdata="$fresh" --username=devenv --auth=reject --encoding=UTF8 --locale=C --lc-ctype=C.UTF-8 \
        --wal-segsize=1 --no-sync --no-instructions > /dev/null &
    wait $!
    # The files must reach the disk before the rename does.
    sync -f "$fresh"
    mv "$fresh" "$data"
fi

version=$(postgres --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
if [ "$(cat "$data/PG_VERSION")" != "$version" ]; then
    echo "cannot use the data: PostgreSQL $(cat "$data/PG_VERSION") wrote it, and this is PostgreSQL $version;" \
        "'devenv reset postgresql' starts with new data" >&2
    exit 1
fi

# All processes of an earlier start are gone, and their numbers may belong to others by now.
rm -f "$data/postmaster.pid"
# In this mode the server reads statements from its input and listens nowhere.
set -- -D "$data" -c config_file=/etc/devenv/postgresql.conf
# It must not log the statements, which hold passwords, if one of them fails.
postgres --single "$@" -c log_min_error_statement=panic postgres < /etc/devenv/accounts.sql > /dev/null

# The server must not be process 1. It would then inherit what `devenv exec` leaves behind, take it for its own, and end
# all connections when it fails.
postgres "$@" &
server=$!
# At this signal the server ends its connections. At SIGTERM it would wait for them.
trap 'kill -INT "$server"' TERM INT
# A signal ends `wait` early.
while code=0; wait "$server" || code=$?; kill -0 "$server" 2> /dev/null; do :; done
exit "$code"
