# Create the accounts once, set their passwords and roles, and require logins from then on.
export ETCDCTL_USER='root:${secret.root_password}'
etcdctl user list > /dev/null 2>&1 || unset ETCDCTL_USER

account() {
    echo "$2" | etcdctl user add "$1" --interactive=false 2> /dev/null ||
        echo "$2" | etcdctl user passwd "$1" --interactive=false
    etcdctl role add "$1" 2> /dev/null
    [ -z "$3" ] || etcdctl role grant-permission "$1" --prefix=true readwrite "$3"
    etcdctl user grant-role "$1" "$1"
}

# Components add their accounts at the end of this file, before etcd requires logins.
trap 'etcdctl auth enable' EXIT
account root '${secret.root_password}' ''
