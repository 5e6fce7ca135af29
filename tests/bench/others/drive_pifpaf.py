"""Bring a service up with pifpaf; print when it was ready. Leave no process behind.

This runs on Linux, in a Python that has pifpaf (and so psutil), and imports nothing of devenv. Erlang's port mapper is
a daemon that outlives its server: this process adopts all processes that its children leave, and ends them by id.
"""

import ctypes
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import psutil

PR_SET_CHILD_SUBREAPER = 36
FAREWELL = 10
# A program without which pifpaf cannot start the service, the command that prints the version, and the server's name.
PROGRAMS = {
    "rabbitmq": ("rabbitmq-server", ["rabbitmqctl", "version"], "RabbitMQ {}"),
    "etcd": ("etcdctl", ["etcd", "--version"], "etcd {}"),
    "mysql": ("mysql_install_db", ["mysqld", "--version"], "MariaDB {}"),
}
# The first port to try, and the distance to the server's second port.
PORTS = {"rabbitmq": (15682, 20000), "etcd": (12379, 1)}


def main():
    # Erlang's port mapper and its distribution listen on loopback only.
    os.environ["ERL_EPMD_ADDRESS"] = "127.0.0.1"
    os.environ["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] = "-kernel inet_dist_use_interface {127,0,0,1}"
    # Erlang writes no dump when it cannot start.
    os.environ["ERL_CRASH_DUMP_SECONDS"] = "0"
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit("cannot run pifpaf: this system does not let a process adopt what its children leave")
    try:
        about() if sys.argv[1] == "--about" else bring_up(sys.argv[1])
    finally:
        end_children()


def about():
    found = {"pifpaf": importlib.metadata.version("pifpaf")}
    for service, (program, command, words) in PROGRAMS.items():
        if shutil.which(program) and shutil.which(command[0]):
            output = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
            if version := re.search(r"\d+\.\d+\.\d+", output):
                found[service] = words.format(version[0])
    print(json.dumps(found))


def bring_up(service):
    """Have pifpaf run a command that prints the time when the service is ready."""
    arguments = [sys.executable, "-m", "pifpaf", "run", service, *ports(service), "--", "date", "+%s.%N"]
    # In a folder that goes afterwards: an interrupted pifpaf leaves its data behind.
    with tempfile.TemporaryDirectory(prefix="devenv-bench-") as folder:
        try:
            code = subprocess.run(arguments, env={**os.environ, "TMPDIR": folder}).returncode
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            end_children()
    if code:
        sys.exit(code)


def ports(service):
    """Return options for ports that nobody has."""
    if service not in PORTS:
        return []
    first, distance = PORTS[service]
    port = next(port for port in range(first, first + 1000, 2) if free(port) and free(port + distance))
    return ["--port", str(port), *(["--peer-port", str(port + distance)] if service == "etcd" else [])]


def free(port):
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def end_children():
    """End all processes that are left, by id: they are this process's own descendants."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            child.terminate()
        for child in psutil.wait_procs(children, timeout=FAREWELL)[1]:
            child.kill()


if __name__ == "__main__":
    main()
