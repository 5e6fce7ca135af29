"""Bring a service up with pifpaf; print when it was ready. Leaves no process behind.

Runs in a Python that has pifpaf (and so psutil), on Linux, and imports nothing else of ours. Erlang's port mapper is a
daemon that outlives its server: this process is made the parent of all that its children leave, and ends them by id.
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
# A program whose absence means that pifpaf cannot start the service, and what tells the server's name and version.
PROGRAMS = {
    "rabbitmq": ("rabbitmq-server", ["rabbitmqctl", "version"], "RabbitMQ {}"),
    "etcd": ("etcdctl", ["etcd", "--version"], "etcd {}"),
    "mysql": ("mysql_install_db", ["mysqld", "--version"], "MariaDB {}"),
}
# The first port to try, and how far from it the second one is that the server takes.
PORTS = {"rabbitmq": (15682, 20000), "etcd": (12379, 1)}


def main():
    # Nothing listens anywhere but on loopback: neither Erlang's port mapper nor its distribution.
    os.environ["ERL_EPMD_ADDRESS"] = "127.0.0.1"
    os.environ["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] = "-kernel inet_dist_use_interface {127,0,0,1}"
    # Where Erlang writes a dump when it cannot start: nowhere.
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
    """The command that pifpaf runs when the service is ready prints the time."""
    arguments = [sys.executable, "-m", "pifpaf", "run", service, *ports(service), "--", "date", "+%s.%N"]
    # In a folder of our own: pifpaf leaves its data where it was if it is interrupted.
    with tempfile.TemporaryDirectory(prefix="devenv-bench-") as folder:
        try:
            code = subprocess.run(arguments, env={**os.environ, "TMPDIR": folder}).returncode
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            end_children()
    if code:
        sys.exit(code)


def ports(service):
    """Options for ports that nobody has."""
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
    """End what is left, by id: all of it are this process's own descendants."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            child.terminate()
        for child in psutil.wait_procs(children, timeout=FAREWELL)[1]:
            child.kill()


if __name__ == "__main__":
    main()
