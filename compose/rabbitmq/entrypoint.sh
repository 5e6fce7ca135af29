#!/bin/sh
# Makes a home that the server owns in the volume, then becomes the server.
set -eu
umask 027

# The volume's root belongs to root: the cookie, which must be its reader's own, and the data go below it.
export HOME=/var/lib/rabbitmq/home
mkdir -p "$HOME"
cd "$HOME"

# Nothing of the image's own configuration: neither files nor, in the official image, an environment file.
export RABBITMQ_CONFIG_FILE=/etc/devenv/rabbitmq.conf
export RABBITMQ_ENABLED_PLUGINS_FILE=/etc/devenv/enabled_plugins
export RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_MNESIA_BASE=/var/lib/rabbitmq/data
export RABBITMQ_LOG_BASE=/tmp
export RABBITMQ_LOGS=-

exec rabbitmq-server
