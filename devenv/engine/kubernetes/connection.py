"""Send requests to a cluster's API, repeat those that it could not answer, and turn its failures into devenv's errors.

Every request may be sent twice: an answer can get lost. Names of objects are fixed, so a repeated one finds what the
first has made.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, TypeVar
from urllib.parse import unquote_plus

from devenv.engine.http import NoAnswer, Query, Refused, chunks_of, log_answer, target
from devenv.engine.kubernetes.account import ServiceAccount
from devenv.engine.kubernetes.login import SCHEME, Login, find_login, parts
from devenv.engine.kubernetes.proxy import KubectlProxy
from devenv.errors import NoEngine, NoSpace, ServiceFailed, tells_of_full_disk
from devenv.keepalive import KeptConnections

# Seconds that the API may take for one request; its own limit is 60.
TIMEOUT = 70.0
# Seconds for which devenv repeats a request that the API cannot take now, or whose answer got lost.
PATIENCE = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
JSON = "application/json"
# How a change is sent that names only what differs, and what the API answers to what is there already, or is not there.
MERGE = "application/merge-patch+json"
CONFLICT, GONE = 409, 404
RIGHTS_HINT = "ask who runs the cluster for it; 'devenv help kubernetes' has a Role with all that devenv needs"
_LOGIN_HINT = "log in again, until 'kubectl get pods' works"
_REACH_HINT = "'devenv --engine kubernetes doctor' checks the cluster; 'kubectl get pods' has to work"
# What a node says, with status 500, of a pod whose container does not run yet, or not any more.
NO_CONTAINER = re.compile(r"container not found|pod does not exist")
_WAIT_HINT = "'devenv wait' returns once it runs"
# What the API says to whoever wants to create something in a namespace that does not exist.
_NO_NAMESPACE = re.compile(r'^namespaces "[^"]*" not found')
# Words of a login that fails, and of a way on which no API will answer soon: kubectl's (in Go's words), or Python's.
_NO_LOGIN = re.compile(r"credential|exec plugin|token|oauth", re.IGNORECASE)
_NO_API = re.compile(
    r"\bdial\b|refused|no such host|not known|no route|unreachable|certificate|\btls:|HTTPS client|no Kubernetes API",
    re.IGNORECASE,
)

# The API group of each resource that devenv uses, and those that have no namespace.
_GROUPS = {
    **dict.fromkeys(
        ("pods", "services", "endpoints", "secrets", "configmaps", "persistentvolumeclaims", "events"), "api/v1"
    ),
    **dict.fromkeys(("namespaces", "nodes", "persistentvolumes", "resourcequotas", "limitranges"), "api/v1"),
    **dict.fromkeys(("deployments", "statefulsets", "replicasets"), "apis/apps/v1"),
    "jobs": "apis/batch/v1",
    "networkpolicies": "apis/networking.k8s.io/v1",
    "storageclasses": "apis/storage.k8s.io/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "selfsubjectaccessreviews": "apis/authorization.k8s.io/v1",
}
_CLUSTER_WIDE = {"namespaces", "nodes", "persistentvolumes", "storageclasses", "selfsubjectaccessreviews"}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_Answer = TypeVar("_Answer")


class ApiRefused(Refused):
    """The API refused. `verb` and `resource` are the right that the request needs, `after` seconds it asks to wait.

    `repeated` says that it may have carried out the request before, at an attempt whose answer got lost.
    """

    repeated = False

    def __init__(self, status: int, words: str, verb: str, resource: str, after: float) -> None:
        super().__init__(status, words)
        self.verb, self.resource, self.after = verb, resource, after

    @property
    def passes(self) -> bool:
        """Return whether the API may take the same request soon."""
        return self.status == 429 or self.status >= 500

    @property
    def lacks_right(self) -> bool:
        """Return whether the login lacks a right. A quota or an admission rule refuses with the same status."""
        return self.status == 403 and bool(re.search(r"\bcannot \w+ resource\b", str(self)))


class Cluster:
    """One namespace of one cluster, by one login. Thread-safe. Nothing is asked and started before the first use."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.way = ServiceAccount() if login.inside else KubectlProxy(login.context)
        self._connections = KeptConnections(lambda: _Lazy(self.way.connection))
        # Called before each request that changes something; what it raises stops the request (see central.py).
        self.guard: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        return self.login.url

    @property
    def context(self) -> str:
        return self.login.context

    @property
    def namespace(self) -> str:
        return self.login.namespace

    @property
    def inside(self) -> bool:
        """Return whether this process runs in a pod of the cluster: it then reaches services by their names."""
        return self.login.inside

    def path(self, resource: str, name: str = "", sub: str = "") -> str:
        """Return the path of a resource ("pods"), of one object, or of a part of that ("log")."""
        scope = "" if resource in _CLUSTER_WIDE else f"/namespaces/{self.namespace}"
        return "/".join(part for part in (f"/{_GROUPS[resource]}{scope}", resource, name, sub) if part)

    def ask(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        kind: str = JSON,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
        guarded: bool = True,
        known: bool = True,
    ) -> Any:
        """Return the answer to a request, decoded from JSON. `body` is JSON, too, of this `kind`.

        If the API cannot take the request now, or its answer gets lost, devenv sends it again for `patience` seconds.
        Unless the API is `known` to be there, a way that leads nowhere and a login that fails are final. Raises Refused
        (ApiRefused), and OSError if no answer comes.
        """

        def once() -> Any:
            if self.guard and guarded and method != "GET":
                self.guard()
            with self._answer(method, path, query, body, kind, timeout) as answer:
                return _decoded(b"".join(chunks_of(answer, answer.read)))

        try:
            return _patiently(once, patience, known)
        except ApiRefused as error:
            if error.repeated and error.status == 404 and method == "DELETE":
                return {}
            taken = error.repeated and error.status == 409 and method == "POST"
            if taken and (made := self._made(path, body, timeout)):
                return made
            raise

    def stream(self, method: str, path: str, query: Query | None = None) -> Generator[bytes, None, None]:
        """Send a request; yield its answer as it comes, without an end if the query says `follow` or `watch`.

        Raises what `ask` raises; OSError, too, if the answer breaks off.
        """
        with ExitStack() as lent:
            answer = _patiently(
                lambda: lent.enter_context(self._answer(method, path, query, None, JSON, TIMEOUT)), PATIENCE
            )
            if (query or {}).get("follow") or (query or {}).get("watch"):
                # Nothing may happen for hours.
                self._wait_for_ever(answer)
            # Python before 3.11.8 and 3.12.2 does not count what read1 reads of an answer of known length.
            yield from chunks_of(answer, answer.read1 if answer.chunked else answer.read)

    def close(self) -> None:
        """End what runs for the connection. It begins again at the next use."""
        self._connections.close()
        self.way.close()

    def _made(self, path: str, body: Any, timeout: float) -> Any:
        """Return the object at which a repeated request to create it failed, if that is this very object."""
        wanted = body["metadata"]
        if not wanted.get("name"):
            return None
        with self._answer("GET", f"{path}/{wanted['name']}", None, None, JSON, timeout) as answer:
            found = _decoded(b"".join(chunks_of(answer, answer.read)))
        labels = found["metadata"].get("labels") or {}
        return found if wanted.get("labels") and wanted["labels"].items() <= labels.items() else None

    @contextmanager
    def _answer(
        self, method: str, path: str, query: Query | None, body: Any, kind: str, timeout: float
    ) -> Iterator[HTTPResponse]:
        """Send a request and lend its answer."""
        where, began = target(path, query), time.monotonic()
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Accept": JSON, **({"Content-Type": kind} if sent else {}), **self.way.headers}
        connection = self._connections.take(timeout)
        try:
            connection.request(method, where, sent, headers)
            answer = connection.getresponse()
        except HTTPException as error:
            connection.close()
            raise NoAnswer("it hung up without an answer") from error
        except BaseException:
            connection.close()
            raise
        log_answer(method, unquote_plus(where), answer.status, time.monotonic() - began)
        try:
            if answer.status >= 400:
                data = b"".join(chunks_of(answer, answer.read))
                raise refusal_of(
                    answer.status, data, right_for(method, path, query), answer.headers.get("Retry-After", "")
                )
            yield answer
        finally:
            self._connections.give_back(connection, answer)

    @staticmethod
    def _wait_for_ever(answer: HTTPResponse) -> None:
        raw = getattr(getattr(answer.fp, "raw", None), "_sock", None)
        if isinstance(raw, socket.socket):
            raw.settimeout(None)


class _Lazy(HTTPConnection):
    """A connection that another function opens: KeptConnections asks for one that is not open yet."""

    def __init__(self, opened: Callable[[float], HTTPConnection]) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._opened = opened

    def connect(self) -> None:
        connection = self._opened(TIMEOUT)
        self.sock, self.host, self.port = connection.sock, connection.host, connection.port


def open_cluster(context: str = "", namespace: str = "", url: str = "") -> Cluster:
    """Return the cluster of a context and a namespace, or of a `url` on record, if it is one, once its API answers.

    Raises NoEngine if it does not, or refuses the login; ConfigError for names that nothing has.
    """
    before = parts(url) if url.startswith(SCHEME) else ("", "")
    cluster = Cluster(find_login(context or before[0], namespace or before[1]))
    with asking(cluster, "use the cluster"):
        # Everybody may ask for it who can log in. A cluster that is not there at all is not waited for.
        cluster.ask("GET", "/version", known=False)
    return cluster


# ---- again ---------------------------------------------------------------------------------------------------------


class Tries:
    """How long to wait between attempts, for `patience` seconds in all."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._end, self._pause = time.monotonic() + patience, _FIRST_PAUSE

    def wait(self, after: float = 0.0) -> float | None:
        """Return the seconds until the next attempt, at least `after`; None if the time would be over by then."""
        wait = max(self._pause, after)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return wait if time.monotonic() + wait <= self._end else None


def _patiently(attempt: Callable[[], _Answer], patience: float, known: bool = True) -> _Answer:
    """Try until it works, the API says no, or the time is over. Unless it is `known`, it has to be there."""
    tries, lost = Tries(patience), False
    while True:
        try:
            return attempt()
        except ApiRefused as error:
            error.repeated = lost
            wait = tries.wait(error.after) if error.passes else None
            if wait is None:
                raise
            lost = lost or error.status >= 500
        except OSError as error:
            lost, wait = True, tries.wait() if known or _may_come_back(error) else None
            if wait is None:
                raise
        time.sleep(wait)


def _may_come_back(error: OSError) -> bool:
    """Return whether an API is there that could not answer: it hung up, say, or something before it was busy."""
    return not (_NO_API.search(str(error)) or _NO_LOGIN.search(str(error)))


# ---- what requests and answers look like ---------------------------------------------------------------------------


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise NoAnswer("what answers is no Kubernetes API") from error


def refusal_of(status: int, data: bytes, right: tuple[str, str], after: str = "") -> Refused | NoAnswer:
    """Return the error for an answer; `after` is what it says of another try.

    The API refuses with a Status; what stands before it, in other words.
    """
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    pause = float(after) if re.fullmatch(r"\d{1,4}", after) else 0.0
    if isinstance(content, dict) and content.get("kind") == "Status":
        return ApiRefused(status, str(content.get("message") or content.get("reason") or ""), *right, pause)
    words = " ".join(data.decode(errors="replace").split())[:300]
    if status < 500 or NO_CONTAINER.search(words):
        return ApiRefused(status, words, *right, pause)
    # kubectl answers so when the cluster does not answer it, or when a login fails.
    return NoAnswer(words or f"HTTP {status}")


def right_for(method: str, path: str, query: Query | None = None) -> tuple[str, str]:
    """Return the verb and the resource of the right that a request needs, as a Role names them."""
    found = re.match(r"/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/[^/]+(?=/))?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", path)
    if not found:
        return method.lower(), path
    resource, name, sub = found.groups()
    verb = _VERBS.get(method) or ("watch" if (query or {}).get("watch") else "get" if name else "list")
    verb = "deletecollection" if verb == "delete" and not name else verb
    return verb, f"{resource}/{sub}" if sub else resource


# ---- how it fails --------------------------------------------------------------------------------------------------


@contextmanager
def asking(cluster: Cluster, what: str, hint: str = "") -> Iterator[None]:
    """Turn any failure of the cluster while it does `what` into one of devenv's errors."""
    try:
        yield
    except Refused as error:
        raise failure(cluster, what, error, hint) from error
    except OSError as error:
        reason = _reason(error)
        raise NoEngine(
            f"cannot {what}: {cluster.login.words} does not answer ({reason})", hint=_hint_for(reason)
        ) from error


def failure(cluster: Cluster, what: str, error: Refused, hint: str = "") -> NoEngine | ServiceFailed:
    """Return devenv's error for a refusal. Without a right, it names the verb, the resource and the namespace."""
    if error.status == 401:
        return NoEngine(f"cannot {what}: {cluster.login.words} refuses the login ({error})", hint=_LOGIN_HINT)
    if isinstance(error, ApiRefused) and error.lacks_right:
        return ServiceFailed(
            f"cannot {error.verb} {error.resource} in namespace {cluster.namespace}: {error}",
            hint=f"this login needs the verb {error.verb} on {error.resource}: {RIGHTS_HINT}",
        )
    kind = NoSpace if tells_of_full_disk(str(error)) else ServiceFailed
    return kind(f"cannot {what}: {error}", hint or _hint_of(str(error), cluster.namespace))


def _hint_of(refusal: str, namespace: str) -> str:
    if _NO_NAMESPACE.search(refusal):
        return f"choose another one with --namespace, or make it: 'kubectl create namespace {namespace}'"
    return _WAIT_HINT if NO_CONTAINER.search(refusal) else _REACH_HINT


def _hint_for(reason: str) -> str:
    return _LOGIN_HINT if _NO_LOGIN.search(reason) else _REACH_HINT


def _reason(error: OSError) -> str:
    """Return the cause of an error in few words."""
    text = str(error)
    usual = ("timed out", "timed out"), ("refused", "connection refused"), ("EOF", "it hung up without an answer")
    for pattern, reason in (*usual, ("x509:", "")):
        if pattern in text:
            return reason or text[text.index(pattern) :][:200]
    return text.splitlines()[0][:200] if text else type(error).__name__
