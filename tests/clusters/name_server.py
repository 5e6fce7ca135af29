"""Answer names of Services and pods as a cluster's name server does: `python name_server.py ADDRESS STATE`.

It knows NAME.NAMESPACE.svc.cluster.local and HOST.NAME.NAMESPACE.svc.cluster.local, asks the API server about them and
keeps answers for a second. STATE is the cluster's folder. It uses the standard library alone: it runs on a node.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

_SECONDS = 1.0
_DOMAIN = ["svc", "cluster", "local"]


class Names:
    """The addresses of names, from the API server."""

    def __init__(self, address: str, state: Path) -> None:
        self._api = f"https://{address}:6443/api/v1"
        self._token = (state / "tokens.csv").read_text().partition(",")[0]
        self._tls = ssl.create_default_context(cafile=state / "api.crt")
        self._known: dict[str, tuple[float, list[str] | None]] = {}

    def addresses(self, name: str) -> list[str] | None:
        """Return the addresses of a name, which can be none; None if nobody has the name."""
        until, found = self._known.get(name, (0.0, None))
        if until < time.monotonic():
            found = self._look(name.lower().split("."))
            self._known[name] = time.monotonic() + _SECONDS, found
        return found

    def _look(self, parts: list[str]) -> list[str] | None:
        host = parts.pop(0) if len(parts) == 6 else ""
        if len(parts) != 5 or parts[2:] != _DOMAIN:
            return None
        service, namespace = parts[:2]
        try:
            address = self._get(f"namespaces/{namespace}/services/{service}")["spec"].get("clusterIP", "None")
            if address != "None" and not host:
                return [address]
            subsets = self._get(f"namespaces/{namespace}/endpoints/{service}").get("subsets", ())
        except OSError:  # It has no such Service, or it does not answer.
            return None
        ready = [address for subset in subsets for address in subset.get("addresses", ())]
        return [address["ip"] for address in ready if host in ("", address.get("hostname"))]

    def _get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._api}/{path}", headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, context=self._tls, timeout=3) as answer:
            return dict(json.load(answer))


def answer(names: Names, query: bytes) -> bytes:
    """Return the answer to one query; IPv4 addresses alone."""
    end, parts = 12, []
    while size := query[end]:
        parts.append(query[end + 1 : end + 1 + size].decode())
        end += size + 1
    (kind,) = struct.unpack("!H", query[end + 1 : end + 3])
    found = names.addresses(".".join(parts))
    told = found if found and kind == 1 else []
    # An answer with authority; 3 means that there is no such name.
    header = struct.pack("!HHHHH", 0x8580 | (3 if found is None else 0), 1, len(told), 0, 0)
    records = (b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(address) for address in told)
    return query[:2] + header + query[12 : end + 5] + b"".join(records)


def main() -> None:
    address, state = sys.argv[1:]
    names, listener = Names(address, Path(state)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, 53))

    def serve(query: bytes, client: Any) -> None:
        listener.sendto(answer(names, query), client)

    while True:
        threading.Thread(target=serve, args=listener.recvfrom(512), daemon=True).start()


if __name__ == "__main__":
    main()
