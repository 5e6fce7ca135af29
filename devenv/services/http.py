"""Talk to servers over HTTP: one request for a probe, kept connections for a provisioner."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from devenv.errors import NotReady
from devenv.services import base
from devenv.services.base import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    Denied,
    NoAnswer,
    Provisioner,
    Refused,
    Target,
    no_connection,
)

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPMessage, HTTPResponse


# What servers answer to a login that they do not know, or that may not do this.
_DENIED = (401, 403)


class Answer(NamedTuple):
    status: int
    text: str
    headers: HTTPMessage

    @property
    def ok(self) -> bool:
        """Return whether the server did what it was asked to do."""
        return self.status < 400

    @property
    def reason(self) -> str:
        """Return "HTTP <status>: <the server's words>"; servers name these "message" or "reason"."""
        told = re.search(r'"(?:message|reason)": *"((?:[^"\\]|\\.)+)', self.text)
        return f"HTTP {self.status}: {told[1] if told else self.text}"

    def json(self) -> Any:
        return json.loads(self.text)


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header that logs a user in."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def request(
    method: str, url: str, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] = MappingProxyType({})
) -> Answer:
    """Send one request for a probe, directly, whatever proxy the environment names. Raise NotReady."""
    # Imported when needed, as below: a probe that uses another protocol needs none of it.
    from http.client import HTTPConnection, HTTPException

    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=base.PROBE_CONNECT_SECONDS)
    try:
        connection.connect()
        connection.sock.settimeout(base.PROBE_ANSWER_SECONDS)
        return _exchanged(connection, method, where.path or "/", body, headers)[1]
    except (OSError, HTTPException) as error:
        raise NotReady(no_connection(error, "not answering yet")) from error
    finally:
        connection.close()


class HttpProvisioner(Provisioner):
    """A provisioner of a service with an HTTP interface. It keeps its connections and what it has read once."""

    def __init__(self, target: Target) -> None:
        from http.client import HTTPConnection

        from devenv.keepalive import KeptConnections

        super().__init__(target)
        self._connections = KeptConnections(lambda: HTTPConnection(target.host, target.port, timeout=CONNECT_SECONDS))
        self._lock = RLock()
        self._known: dict[str, Any] = {}

    def close(self) -> None:
        self._connections.close()

    def _once(self, key: str, read: Callable[[], Any]) -> Any:
        """Return what the first caller of this run reads under the key."""
        with self._lock:
            return self._known[key] if key in self._known else self._known.setdefault(key, read())

    def _ask(
        self, method: str, path: str, body: object = None, accept: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer. From status 400 on raise Refused, unless "HTTP <status>: <reason>" contains `accept`."""
        answer = self._answer(method, urlsplit(self.target.url).path + path, body, headers or {})
        if not answer.ok and (not accept or accept not in answer.reason):
            raise (Denied if answer.status in _DENIED else Refused)(answer.reason)
        return answer

    def _answer(self, method: str, where: str, body: object, headers: Mapping[str, str]) -> Answer:
        from http.client import HTTPException

        try:
            connection = self._connections.take(ANSWER_SECONDS)
            try:
                raw, answer = _exchanged(connection, method, where, body, headers)
            except BaseException:
                connection.close()
                raise
        except ConnectionRefusedError as error:
            raise NoAnswer("connection refused") from error
        except (OSError, HTTPException) as error:
            raise NoAnswer(f"no answer ({type(error).__name__})") from error
        self._connections.give_back(connection, raw)
        return answer


def _exchanged(
    connection: HTTPConnection, method: str, where: str, body: object, headers: Mapping[str, str]
) -> tuple[HTTPResponse, Answer]:
    """Send a request on an open connection; return the answer, raw and read."""
    data = None if body is None else json.dumps(body)
    connection.request(method, where, data, {**headers, **({"Content-Type": "application/json"} if data else {})})
    raw = connection.getresponse()
    return raw, Answer(raw.status, raw.read().decode(errors="replace"), raw.headers)
