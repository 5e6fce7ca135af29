#!/bin/sh
# Has testcontainers and pifpaf in a folder of their own, with the servers that pifpaf starts, on Debian 12:
#
#   sh tests/bench/others/set_up.sh FOLDER
#   . FOLDER/environment && make bench
#
# Nothing is installed on the host: Python's packages go into a virtual environment, Debian's are unpacked. They keep
# some absolute paths, which are changed here.
set -eu
[ $# = 1 ] || { echo "usage: sh $0 FOLDER" >&2; exit 2; }
mkdir -p "$1/packages" "$1/root" "$1/relocated"
folder=$(cd "$1" && pwd)
root=$folder/root

"${PYTHON:-python3}" -m venv "$folder/python"
# testcontainers' RabbitMqContainer needs pika, and does not say so.
"$folder/python/bin/pip" install --quiet testcontainers pika pifpaf

cd "$folder/packages"
apt-get download --quiet=2 -o APT::Sandbox::User=root rabbitmq-server etcd-server etcd-client mariadb-server mariadb-server-core \
    mariadb-client-core libaio1 liburing2 erlang-base erlang-crypto erlang-eldap erlang-inets erlang-mnesia \
    erlang-os-mon erlang-parsetools erlang-public-key erlang-runtime-tools erlang-ssl erlang-syntax-tools \
    erlang-tools erlang-xmerl erlang-asn1
for package in *.deb; do dpkg -x "$package" "$root"; done

# Erlang is started by two scripts, each with its folder in it.
sed -i "s|ROOTDIR=/usr/lib/erlang$|ROOTDIR=$root/usr/lib/erlang|" \
    "$root/usr/lib/erlang/bin/erl" "$root"/usr/lib/erlang/erts-*/bin/erl
# MariaDB finds its messages and its system tables from its base folder.
for program in sbin/mysqld bin/mysql_install_db; do
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@" --basedir=%s\n' \
        "$root/usr/lib/$(uname -m)-linux-gnu" "$root/usr/$program" "$root/usr" > "$folder/relocated/${program#*/}"
done
chmod +x "$folder"/relocated/*

cat > "$folder/environment" <<VARIABLES
export DEVENV_BENCH_TESTCONTAINERS=$folder/python/bin/python
export DEVENV_BENCH_PIFPAF=$folder/python/bin/python
export DEVENV_BENCH_PIFPAF_PATH=$folder/relocated:$root/usr/lib/rabbitmq/bin:$root/usr/bin
VARIABLES
echo "set up; before the bench: . $folder/environment"
