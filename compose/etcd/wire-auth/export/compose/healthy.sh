# Check that root can log in, which works once all accounts exist.
ETCDCTL_USER='root:${secret.root_password}' exec etcdctl user list
