# Create the accounts beside the server: only a running server can create them.
accounts() {
    until etcdctl endpoint health > /dev/null 2>&1; do sleep 0.1; done
    sh /etc/devenv/accounts.sh > /dev/null
}
accounts &
exec etcd "$@"
