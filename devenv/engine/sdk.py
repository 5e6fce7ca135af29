"""Use the docker library: for engines behind TLS, and for what is more than a request and an answer.

Only this module imports docker. That takes a tenth of a second, so connection.py imports this module when needed.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

import docker
import docker.errors
import requests
import urllib3.exceptions
from docker.context import ContextAPI
from docker.utils import config, kwargs_from_env

from devenv.engine.http import (
    CHUNK,
    TIMEOUT,
    WORK_TIMEOUT,
    Body,
    Client,
    NoAnswer,
    Query,
    Refused,
    encoded,
    in_lines,
    log_answer,
    target,
    words_of,
)

_HIDING = threading.Lock()
# Seconds between two looks whether a container whose log somebody follows has ended.
_LOOK_SECONDS = 1.0


class Sdk(Client):
    """A client of any engine that the docker library can reach.

    `origin` is where devenv found the URL (see connection.py); settings of the same place apply. `version` is the
    API's, or "auto". Like all of its methods, it raises Refused, and OSError if nothing answers.
    """

    def __init__(self, url: str, origin: str, version: str = "auto") -> None:
        with _translated():
            self._client = _made(version=version, timeout=int(TIMEOUT), **_arguments(url, origin))
        self._client.hooks["response"].append(_logged)

    @cached_property
    def podman(self) -> bool:
        with _translated():
            return "podman" in str(self._client.version().get("Components")).lower()

    def stream(
        self, method: str, path: str, query: Query | None = None, body: Body = None, timeout: float = TIMEOUT
    ) -> Generator[bytes, None, None]:
        with self._answer(method, path, query, body, {}, timeout) as answer:
            yield from answer.iter_content(CHUNK)

    def lines(
        self, path: str, query: Query, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Generator[bytes, None, None]:
        with self._answer("POST", path, query, body, headers or {}, WORK_TIMEOUT) as answer:
            yield from in_lines(answer.iter_content(CHUNK))

    @contextmanager
    def _answer(
        self, method: str, path: str, query: Query | None, body: Body, headers: Mapping[str, str], timeout: float
    ) -> Iterator[requests.Response]:
        data, kind = encoded(body)
        url = f"{self._client.base_url}/v{self._client.api_version}{target(path, query)}"
        headers = {**kind, **headers}
        with (
            _translated(),
            self._client.request(method, url, data=data, headers=headers, timeout=timeout, stream=True) as answer,
        ):
            if answer.status_code >= 400:
                raise Refused(answer.status_code, words_of(answer.content))
            yield answer

    def follow(
        self, container: str, tail: int | Literal["all"], ended: Callable[[], bool] | None = None
    ) -> Iterator[bytes]:
        """Yield a container's log as it comes, until the container ends.

        `ended` tells that, in a thread, for an engine that may forget to end the log.
        """
        over = threading.Event()
        with _translated():
            lines = self._client.logs(container, stream=True, follow=True, tail=tail)
            if ended:
                threading.Thread(target=_end, args=(lines, ended, over), daemon=True).start()
            try:
                yield from lines
            finally:
                over.set()
                # The library's own way to close it leaves the socket open.
                lines._response.close()  # type: ignore[attr-defined]

    def execute(
        self, container: str, command: Sequence[str], tty: bool, environment: Mapping[str, str] | None = None
    ) -> tuple[str, Any, bytes]:
        """Start a command in a container with its input attached.

        Return the exec's id, the raw socket, and what the socket gave before this returned.
        """
        with _translated():
            variables = dict(environment) if environment else None
            made = self._client.exec_create(container, list(command), stdin=True, tty=tty, environment=variables)
            run = str(made["Id"])
            stream = self._client.exec_start(run, tty=tty, socket=True)
        early = _read_already(stream)
        return run, _as_socket(stream), early


def _end(lines: Any, ended: Callable[[], bool], over: threading.Event) -> None:
    """End a log once its container has ended, and the engine had time to send the rest."""
    while not over.wait(_LOOK_SECONDS):
        if ended():
            if not over.wait(_LOOK_SECONDS):
                with suppress(OSError):
                    lines.close()
            return


def _read_already(stream: Any) -> bytes:
    """Return what the library has read beyond the engine's answer: the first output of a quick command.

    It hands the socket on without that.
    """
    raw = getattr(stream, "_sock", stream)
    before = raw.gettimeout()
    # With an empty buffer, `peek` asks the socket, and must not wait there.
    raw.setblocking(False)
    try:
        return bytes(stream._response.raw._fp.fp.peek())
    except ssl.SSLWantReadError:
        return b""
    finally:
        raw.settimeout(before)


def _as_socket(stream: Any) -> Any:
    """Return the stream that the library opened for a command as a socket, which the caller can close."""
    raw = getattr(stream, "_sock", stream)
    if type(raw) is not socket.socket:  # with TLS, whose state cannot be in two places
        # The library's reader would keep it open.
        stream._response.raw._fp.fp.close()
        return raw
    # The library's answer also holds on to its socket, and would keep it open.
    ours = raw.dup()
    raw.close()
    stream.close()
    return ours


def _logged(answer: requests.Response, *_: object, **__: object) -> None:
    """Log an answer without the query: a build's query holds the user's proxies, which may have passwords."""
    asked, path = answer.request, urlsplit(answer.url).path
    log_answer(asked.method or "", path, answer.status_code, answer.elapsed.total_seconds())


class _Direct(docker.APIClient):
    """The library's client, also for its first request: neither a proxy nor REQUESTS_CA_BUNDLE comes between.

    With that variable, `requests` would not look at the engine's own ca.pem.
    """

    @property
    def trust_env(self) -> bool:
        return False

    @trust_env.setter
    def trust_env(self, _: bool) -> None: ...


def _made(**arguments: Any) -> docker.APIClient:
    """Make the library's client, also where it stumbles over docker's config.json: nothing here needs that."""
    try:
        return _Direct(**arguments)
    except (docker.errors.InvalidConfigFile, ValueError, TypeError, AttributeError):
        # Nobody else in this process can use the file either, so hiding it for a moment does no harm.
        with _HIDING:
            find, config.find_config_file = config.find_config_file, lambda config_path=None: None
            try:
                return _Direct(**arguments)
            finally:
                config.find_config_file = find


def _arguments(url: str, origin: str) -> dict[str, Any]:
    if origin == "DOCKER_HOST":
        return dict(kwargs_from_env())
    if origin.startswith("context"):
        try:
            return dict(ContextAPI.kwargs_from_context(environment=os.environ))
        except Exception as error:  # the library raises bare exceptions for files that it cannot read
            raise NoAnswer(f"cannot read its context: {error}") from error
    return {"base_url": url}


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the library's errors into those that every client raises."""
    try:
        yield
    except docker.errors.APIError as error:
        raise Refused(error.status_code or 0, str(error.explanation or error)) from error
    except docker.errors.DockerException as error:
        raise Refused(0, str(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        # The library's words may hold a request's query, and that of a build the user's proxies.
        raise NoAnswer(re.sub(r"\?\S+", "", str(error))) from error
