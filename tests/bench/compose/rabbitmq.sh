#!/bin/sh
# What the official image's entrypoint does: the default user goes into the configuration, then the server.
set -eu
chown rabbitmq:rabbitmq /var/lib/rabbitmq
mkdir -p /etc/rabbitmq/conf.d
cat > /etc/rabbitmq/conf.d/10-defaults.conf <<CONF
loopback_users.guest = false
log.console = true
default_user = openstack
default_pass = $RABBITMQ_PASSWORD
CONF
export RABBITMQ_LOGS=-
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups rabbitmq-server
