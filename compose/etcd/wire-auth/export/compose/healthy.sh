# Whether root can log in, which is so once all accounts are made.
ETCDCTL_USER='root:${secret.root_password}' exec etcdctl user list
