#!/bin/sh
# Create a home, refuse data of a later version, then become the server.
set -eu
umask 027

# The home is in memory: each environment has its own cookie, and copied data must not bring another one's. The server
# and its command line tools accept only a file that no other user can read.
mkdir -p "$HOME"
cd "$HOME"
rm -f .erlang.cookie
(umask 377 && echo '${secret.cookie}' > .erlang.cookie)

# On the data of a later series (4.3 for 4.0), the server waits forever and says nothing. Its plugins stand beside its
# programs in every image, and one of them carries its version.
plugins=$(dirname "$(readlink -f "$(command -v rabbitmq-server)")")/../plugins
series=$(ls "$plugins" 2> /dev/null | sed -n 's/^rabbit-\([0-9]*\.[0-9]*\).*/\1/p')
mark=/var/lib/rabbitmq/data/series
if [ -n "$series" ]; then
    wrote=$(cat "$mark" 2> /dev/null || echo "$series")
    if [ "$(printf '%s\n' "$wrote" "$series" | sort -V | tail -n 1)" != "$series" ]; then
        echo "cannot use the data: RabbitMQ $wrote wrote it, and this is RabbitMQ $series;" \
            "'devenv reset rabbitmq' starts with new data" >&2
        exit 1
    fi
    mkdir -p /var/lib/rabbitmq/data
    echo "$series" > "$mark"
fi

# In devenv's image, plugins that are not the management's lie apart: the server would read all of them at each boot,
# for a second. Link the enabled ones, and what their own descriptions name. Other images have all in one place.
apart=$plugins/../apart
link() {
    for folder in "$apart/$1"-*; do
        [ -d "$folder" ] && [ ! -e "/tmp/plugins/$${folder##*/}" ] || continue
        ln -s "$folder" /tmp/plugins/
        for name in $(grep -o 'rabbitmq_[a-z0-9_]*' "$folder/ebin/$1.app"); do link "$name"; done
    done
}
if [ -d "$apart" ]; then
    mkdir -p /tmp/plugins
    for name in $(tr -cs 'a-z0-9_' ' ' < /etc/devenv/enabled_plugins); do link "$name"; done
    export RABBITMQ_PLUGINS_DIR="$plugins:/tmp/plugins"
fi

# Use nothing of the image's own configuration: neither its files, which would win, nor an environment file.
export RABBITMQ_CONFIG_FILE=/etc/devenv/rabbitmq.conf
export RABBITMQ_CONFIG_FILES=/nonexistent
export RABBITMQ_ADVANCED_CONFIG_FILE=/nonexistent
export RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_ENABLED_PLUGINS_FILE=/etc/devenv/enabled_plugins
export RABBITMQ_MNESIA_BASE=/var/lib/rabbitmq/data/mnesia
export RABBITMQ_LOG_BASE=/tmp
export RABBITMQ_LOGS=-

# Erlang's own ports stay inside the container: only a cookie with little randomness protects them.
export ERL_EPMD_ADDRESS=127.0.0.1

# Measured against Erlang's defaults: ready after 1.9 s of CPU instead of 2.4, and 110 MB resident instead of 145.
# - Use few threads that do not spin for work, and small tables, on any number of cores: the load here is small. One
#   scheduler would save another 0.15 s and 6 MB, but one busy process could then stop all others.
# - Map the compiled code once. Erlang would map it twice, writable and executable, and count it twice.
# - Name the node, or RabbitMQ starts a second Erlang just to start its port mapper.
# - End as soon as all applications have stopped. Erlang would wait another second for output (user_sup:terminate/2)
#   after the supervisor that this watches has ended.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 +SDcpu 1:1 +SDio 2 +sbwt none +P 131072 +Q 16384 +JMsingle true \
    -sname $RABBITMQ_NODENAME -kernel inet_dist_use_interface {127,0,0,1} \
    -kernel inet_dist_listen_min 25672 -kernel inet_dist_listen_max 25672 \
    -eval spawn(fun()->monitor(process,kernel_safe_sup),(receive{_,_,_,_,_}->halt(0)end)end)."

exec rabbitmq-server
