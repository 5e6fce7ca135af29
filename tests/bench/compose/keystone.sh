#!/bin/sh
# The steps of Keystone's installation guide, in its order, on the first start; then its WSGI application.
set -eu
mkdir -p /etc/keystone
chown keystone:keystone /var/lib/keystone
cat > /etc/keystone/keystone.conf <<CONF
[database]
connection = mysql+pymysql://keystone:$KEYSTONE_PASSWORD@mysql/keystone
[token]
provider = fernet
[fernet_tokens]
key_repository = /var/lib/keystone/fernet-keys
[fernet_receipts]
key_repository = /var/lib/keystone/fernet-keys
[credential]
key_repository = /var/lib/keystone/credential-keys
CONF
run_as_keystone="setpriv --reuid=keystone --regid=keystone --init-groups"

if [ ! -e /var/lib/keystone/bootstrapped ]; then
    keystone-manage fernet_setup --keystone-user keystone --keystone-group keystone
    keystone-manage credential_setup --keystone-user keystone --keystone-group keystone
    $run_as_keystone keystone-manage db_sync
    keystone-manage bootstrap --bootstrap-password "$KEYSTONE_PASSWORD" --bootstrap-region-id RegionOne \
        --bootstrap-admin-url http://keystone:5000/v3/ --bootstrap-internal-url http://keystone:5000/v3/ \
        --bootstrap-public-url http://keystone:5000/v3/
    touch /var/lib/keystone/bootstrapped
fi

exec $run_as_keystone python3 /bench/serve.py
