"""An HTTP proxy before a cluster's API that has bad days: it refuses, hangs up, is slow, or goes away for good."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.clusters.cluster import BIN
from tests.clusters.way_in import pump

# The kinds of fault, beside the status of a refusal. What is GONE does not listen, and open connections break.
HANG_UP, SLOW, GONE = "hang up", "slow", "gone"
_SLOW_SECONDS = 0.3


class Faults:
    """Passes requests on to a real API. Of those that match `at` ("POST .*/pods$"), each `every`-th meets the `fault`.

    `count` is how many matched.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.fault: int | str = ""
        self.every, self.at, self.count = 1, "", 0
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.back()

    def set(self, fault: int | str = "", every: int = 1, at: str = "") -> None:
        """Begin to count again, with another fault."""
        with self._lock:
            self.fault, self.every, self.at, self.count = fault, every, at, 0

    def back(self) -> None:
        """Listen, and have no faults."""
        self.set()
        if not self._server:
            handler = type("Handler", (_Handler,), {"faults": self})
            self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
            self.port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def away(self) -> None:
        """Listen no more, and break open connections."""
        with self._lock:
            server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def next(self, request: str) -> int | str:
        """Count a request; return the fault that it meets."""
        with self._lock:
            if not re.search(self.at, request):
                return ""
            self.count += 1
            fault = self.fault if self.count % self.every == 0 else ""
        if fault == GONE:
            self.away()
        return fault

    def splice(self, client: socket.socket, head: bytes) -> None:
        """Send a request to the API, and carry bytes both ways until one side ends."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as server:
            self._open += [client, server]
            server.sendall(head)
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            pump(server, client)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Nothing of what follows an upgrade may wait in a buffer.
    rbufsize = 0
    faults: Faults

    def do_GET(self) -> None:
        self.close_connection = True
        fault = self.faults.next(f"{self.command} {self.path}")
        if fault in (HANG_UP, GONE):
            return
        if isinstance(fault, int):
            self._refuse(fault)
            return
        if fault == SLOW:
            time.sleep(_SLOW_SECONDS)
        if "Upgrade" not in self.headers:
            # The API then ends the connection with its answer: nobody has to know where that ends.
            del self.headers["Connection"]
            self.headers["Connection"] = "close"
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        self.faults.splice(self.connection, f"{self.requestline}\r\n{fields}\r\n".encode())

    do_POST = do_DELETE = do_PATCH = do_PUT = do_GET

    def _refuse(self, status: int) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        words = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "a bad day", "code": status}
        data = json.dumps(words).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def faults_before(kubeconfig: Path, folder: Path) -> Iterator[tuple[Faults, Path]]:
    """Stand before the API of a kubeconfig; yield the proxy, and a kubeconfig with the same contexts that names it."""
    command = [BIN / "kubectl", f"--kubeconfig={kubeconfig}", "proxy", "--port=0", "--reject-paths=^$"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kubectl:
        try:
            assert kubectl.stdout
            faults = Faults(int(kubectl.stdout.readline().rpartition(":")[2]))
            yield faults, _naming(faults.port, kubeconfig, folder / "kubeconfig-with-faults")
            faults.away()
        finally:
            kubectl.terminate()


def _naming(port: int, kubeconfig: Path, path: Path) -> Path:
    config = yaml.safe_load(kubeconfig.read_text())
    config["clusters"] = [{"name": "local", "cluster": {"server": f"http://127.0.0.1:{port}"}}]
    config["users"] = [{"name": user["name"], "user": {}} for user in config["users"]]
    path.write_text(yaml.safe_dump(config))
    return path
