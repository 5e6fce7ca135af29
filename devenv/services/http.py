"""Talk to servers over HTTP: one request for a probe, kept connections for a provisioner."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any, NamedTuple

from devenv.errors import NotReady
from devenv.services import base
from devenv.services.base import ANSWER_SECONDS, CONNECT_SECONDS, Provisioner, Refused, Target, no_connection

_THREADS = 32


class Answer(NamedTuple):
    status: int
    text: str


def request(method: str, url: str, body: Mapping[str, Any] | None = None) -> Answer:
    """Send one request for a probe, directly, whatever proxy the environment names. Raise NotReady."""
    # `requests` takes longer to import than a probe takes.
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=base.PROBE_CONNECT_SECONDS)
    try:
        connection.connect()
        connection.sock.settimeout(base.PROBE_ANSWER_SECONDS)
        data = json.dumps(body) if body else None
        connection.request(method, where.path or "/", data, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(errors="replace"))
    except (OSError, HTTPException) as error:
        raise NotReady(no_connection(error, "not answering yet")) from error
    finally:
        connection.close()


class HttpProvisioner(Provisioner):
    """A provisioner of a service with an HTTP interface. It keeps its connections and what it has read once."""

    def __init__(self, target: Target) -> None:
        import requests

        super().__init__(target)
        self._session = requests.Session()
        # Neither a proxy nor the user's netrc may come between devenv and 127.0.0.1.
        self._session.trust_env = False
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=_THREADS))
        self._lock = RLock()
        self._known: dict[str, Any] = {}

    def close(self) -> None:
        self._session.close()

    def _once(self, key: str, read: Callable[[], Any]) -> Any:
        """Return what the first caller of this run reads under the key."""
        with self._lock:
            return self._known[key] if key in self._known else self._known.setdefault(key, read())

    def _ask(self, method: str, path: str, body: object = None, accept: str = "", **more: Any) -> Any:
        """Return the answer. From status 400 on raise Refused, unless "HTTP <status>: <reason>" contains `accept`."""
        import requests

        timeout = (CONNECT_SECONDS, ANSWER_SECONDS)
        try:
            answer = self._session.request(method, self.target.url + path, json=body, timeout=timeout, **more)
        except requests.RequestException as error:
            refused = "refused" in str(error)
            raise Refused("connection refused" if refused else f"no answer ({type(error).__name__})") from error
        if not answer.ok:
            # Servers name their words "message" or "reason".
            told = re.search(r'"(?:message|reason)": *"((?:[^"\\]|\\.)+)', answer.text)
            reason = f"HTTP {answer.status_code}: {told[1] if told else answer.text}"
            if not accept or accept not in reason:
                raise Refused(reason)
        return answer
