#!/bin/sh
# Makes a home that the server owns in the volume, then becomes the server.
set -eu
umask 027

# The volume's root belongs to root: the cookie, which must be its reader's own, and the data go below it.
export HOME=/var/lib/rabbitmq/home
mkdir -p "$HOME"
cd "$HOME"

# Nothing of the image's own configuration: neither its files nor an environment file.
export RABBITMQ_CONFIG_FILE=/etc/devenv/rabbitmq.conf
export RABBITMQ_ADVANCED_CONFIG_FILE=/dev/null/none
export RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_ENABLED_PLUGINS_FILE=/etc/devenv/enabled_plugins
export RABBITMQ_MNESIA_BASE=/var/lib/rabbitmq/data
export RABBITMQ_LOG_BASE=/tmp
export RABBITMQ_LOGS=-

# Never a cluster: Erlang's own ports, which a cookie of little randomness guards, stay inside the container,
# and the data do not depend on a host name.
export RABBITMQ_NODENAME=rabbit@localhost
export ERL_EPMD_ADDRESS=127.0.0.1

# Two schedulers, however many cores there are: each one takes memory, and the load here is small.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}"

exec rabbitmq-server
