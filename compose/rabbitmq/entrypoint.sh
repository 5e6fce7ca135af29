#!/bin/sh
# Makes a home in the volume, then becomes the server.
set -eu
umask 027

# The server must own the folder of its cookie; the volume's `data` folder belongs to root and is open to all.
mkdir -p "$HOME"
cd "$HOME"

# Nothing of the image's own configuration: neither its files nor an environment file.
export RABBITMQ_CONFIG_FILE=/etc/devenv/rabbitmq.conf
export RABBITMQ_ADVANCED_CONFIG_FILE=/nonexistent
export RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_ENABLED_PLUGINS_FILE=/etc/devenv/enabled_plugins
export RABBITMQ_MNESIA_BASE=/var/lib/rabbitmq/data/mnesia
export RABBITMQ_LOG_BASE=/tmp
export RABBITMQ_LOGS=-

# Erlang's own ports, which a cookie of little randomness guards, stay inside the container.
export ERL_EPMD_ADDRESS=127.0.0.1

# Two schedulers, however many cores there are: each one takes memory, and the load here is small.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}"

exec rabbitmq-server
