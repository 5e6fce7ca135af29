"""Bring connections into another network namespace: `python way_in.py PROCESS PORT ADDRESS ADDRESS_PORT`.

It listens on 127.0.0.1:PORT in its own namespace, and connects to ADDRESS in that of the process.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
from contextlib import suppress

_CLONE_NEWNET = 0x40000000


def enter(process: str) -> None:
    """Put new sockets of this process into the namespace of another; those that it has stay where they are."""
    namespace = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy what is read until its end, and hand the end on."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def serve(client: socket.socket, address: tuple[str, int]) -> None:
    with client, suppress(OSError), socket.create_connection(address) as server:
        back = threading.Thread(target=pump, args=(server, client), daemon=True)
        back.start()
        pump(client, server)
        back.join()


def main() -> None:
    process, port, address, address_port = sys.argv[1:]
    listener = socket.create_server(("127.0.0.1", int(port)))
    enter(process)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, (address, int(address_port))), daemon=True).start()


if __name__ == "__main__":
    main()
