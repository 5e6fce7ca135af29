"""How devenv finds and reaches an engine, and turns the engine's failures into its own."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests
import urllib3.exceptions
from fake_http_engine import HttpEngine, http_engine

from devenv.engine.connection import (
    Connection,
    asking,
    endpoint_in_use,
    open_connection,
    passed_over,
    unless_taken,
)
from devenv.engine.http import HttpClient, NoAnswer, Refused, unless_gone
from devenv.engine.sdk import Sdk, _translated
from devenv.errors import Cancelled, DevenvError, NoEngine, NotOurs, ServiceFailed


def refusal(status: int, words: str = "the engine's words") -> Refused:
    return Refused(status, words)


def of_the_library(status: int) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    kind = docker.errors.NotFound if status == 404 else docker.errors.APIError
    return kind("refused", response, explanation="the engine's words")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refusal(500), ServiceFailed, "the engine's words"),
        (refusal(404), ServiceFailed, "the engine's words"),
        (refusal(500, "two\nlines"), ServiceFailed, "two lines"),
        (of_the_library(500), ServiceFailed, "the engine's words"),
        (of_the_library(404), ServiceFailed, "the engine's words"),
        (docker.errors.BuildError("no such file", iter(())), ServiceFailed, "no such file"),
        (docker.errors.DockerException("Credentials store error"), ServiceFailed, "Credentials store error"),
        (docker.errors.InvalidRepository("odd name"), ServiceFailed, "odd name"),
        (requests.ConnectionError("('Connection aborted.', ConnectionRefusedError(111))"), NoEngine, "refused"),
        (requests.ReadTimeout("Read timed out."), NoEngine, "timed out"),
        (urllib3.exceptions.ProtocolError("Connection broken"), NoEngine, "Connection broken"),
        (urllib3.exceptions.ReadTimeoutError(None, "/x", "Read timed out."), NoEngine, "timed out"),  # type: ignore
        (NoAnswer("it stopped in the middle"), NoEngine, "it stopped in the middle"),
        (FileNotFoundError(2, "No such file or directory"), NoEngine, "no such socket"),
        (PermissionError(13, "Permission denied"), NoEngine, "permission denied"),
        (ConnectionRefusedError(111, "Connection refused"), NoEngine, "connection refused"),
        (BrokenPipeError(32, "Broken pipe"), NoEngine, "Broken pipe"),
        (ConnectionResetError(104, "Connection reset by peer"), NoEngine, "reset by peer"),
        (TimeoutError("timed out"), NoEngine, "timed out"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_failure_of_the_engine_is_one_of_ours(error: Exception, kind: type[DevenvError], words: str) -> None:
    with pytest.raises(kind, match=r"^cannot do it: ") as caught, asking("do it", "a hint"), _translated():
        raise error
    assert type(caught.value) is kind
    assert words in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint == "a hint" if kind is ServiceFailed else "devenv doctor" in caught.value.hint


def test_a_refusal_of_which_nothing_more_is_known_says_where_to_look() -> None:
    with pytest.raises(ServiceFailed) as caught, asking("do it"):
        raise refusal(500)
    assert "'devenv doctor'" in caught.value.hint


def test_the_librarys_words_are_told_without_the_query_of_a_request() -> None:
    words = "Max retries exceeded with url: /v1.41/build?buildargs=s3cret (Caused by NewConnectionError('no route'))"
    with pytest.raises(NoEngine) as caught, asking("do it"), _translated():
        raise requests.ConnectionError(words)
    assert "s3cret" not in str(caught.value) and "no route" in str(caught.value)


@pytest.mark.parametrize("error", [NotOurs("cannot x"), Cancelled(), KeyboardInterrupt(), ZeroDivisionError()])
def test_what_is_no_failure_of_the_engine_comes_out_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, asking("do it"):
        raise error
    assert caught.value is error


def test_a_name_that_is_taken_is_not_ours() -> None:
    with (
        pytest.raises(NotOurs, match=r"^cannot create devenv-x: ") as caught,
        asking("create it"),
        unless_taken("devenv-x"),
    ):
        raise refusal(409)
    assert "docker inspect devenv-x" in caught.value.hint and caught.value.exit_code == 7


@pytest.mark.parametrize("status", [400, 404, 500])
def test_other_refusals_are_not_about_the_name(status: int) -> None:
    with pytest.raises(ServiceFailed, match="the engine's words"), asking("create it"), unless_taken("devenv-x"):
        raise refusal(status)


def test_what_is_gone_already_is_as_gone_as_if_we_had_done_it() -> None:
    with asking("remove it"), unless_gone():
        raise refusal(404)
    with pytest.raises(ServiceFailed), asking("remove it"), unless_gone():
        raise refusal(409, "it is in use")


# ---- where the engine is -----------------------------------------------------------------------------------------


@pytest.fixture
def docker_folder(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder with the docker command line's settings; unset DOCKER_HOST."""
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.delenv("DOCKER_CERT_PATH", raising=False)
    folder = own_world / "docker"
    folder.mkdir(parents=True)
    return folder


def context(folder: Path, name: str, content: str) -> None:
    file = folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)


def at(url: str) -> str:
    return json.dumps({"Name": "c", "Metadata": {}, "Endpoints": {"docker": {"Host": url, "SkipTLSVerify": False}}})


def test_our_place_of_contexts_is_the_docker_librarys(docker_folder: Path) -> None:
    from docker.context import ContextAPI

    (docker_folder / "config.json").write_text('{"currentContext": "c"}')
    context(docker_folder, "c", at("unix:///run/c.sock"))
    assert ContextAPI.get_current_context().Host == "unix:///run/c.sock"
    assert endpoint_in_use() == ("unix:///run/c.sock", "context c")


def test_docker_context_goes_before_the_current_one(docker_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (docker_folder / "config.json").write_text('{"currentContext": "c"}')
    context(docker_folder, "d", at("ssh://d"))
    monkeypatch.setenv("DOCKER_CONTEXT", "d")
    assert endpoint_in_use() == ("ssh://d", "context d")


@pytest.mark.parametrize("settings", ['{"currentContext": "default"}', "{}", "[]", "{", '{"currentContext": ""}', None])
def test_without_a_context_it_is_a_socket(
    docker_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str | None
) -> None:
    if settings is not None:
        (docker_folder / "config.json").write_text(settings)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    url, origin = endpoint_in_use()
    assert url.startswith("unix:///") and not origin.startswith("context")


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Act as a user who may not open everything."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    yield
    os.seteuid(before)


@dataclass
class Sockets:
    """A folder with all places of sockets: docker.sock, podman.sock, and below own/ those of the user."""

    folder: Path
    opened: ExitStack

    def listen(self, name: str, state: str = "answers") -> str:
        """Make a socket at which somebody answers, nobody does ("stale"), or only root may knock ("denied")."""
        path, server = self.folder / name, socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        path.chmod(0o600 if state == "denied" else 0o666)
        if state == "stale":
            server.close()
        else:
            server.listen()
            self.opened.enter_context(server)
        return str(path)


@pytest.fixture
def sockets(docker_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sockets]:
    with tempfile.TemporaryDirectory(prefix="devenv-") as folder, ExitStack() as opened:
        (Path(folder) / "own/podman").mkdir(parents=True)
        Path(folder).chmod(0o755)
        monkeypatch.setattr("devenv.engine.connection._DEFAULT_SOCKET", f"{folder}/docker.sock")
        monkeypatch.setattr("devenv.engine.connection._ROOTFUL_PODMAN", f"{folder}/podman.sock")
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{folder}/own")
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        yield Sockets(Path(folder), opened)


@pytest.mark.parametrize("state", ["stale", "denied"])
@pytest.mark.parametrize("answers", ["own/docker.sock", "own/podman/podman.sock", "podman.sock"])
def test_a_socket_that_lets_nobody_in_hides_none_that_does(sockets: Sockets, state: str, answers: str) -> None:
    sockets.listen("docker.sock", state)
    sockets.listen(answers)
    with ordinary_user():
        assert endpoint_in_use()[0] == f"unix://{sockets.folder}/{answers}"
        reason = "permission denied" if state == "denied" else "connection refused"
        assert passed_over(endpoint_in_use()[0]) == [f"{sockets.folder}/docker.sock ({reason})"]


def test_the_first_socket_that_lets_somebody_in_is_the_engines(sockets: Sockets) -> None:
    for name in ("docker.sock", "own/docker.sock", "podman.sock"):
        sockets.listen(name)
    assert endpoint_in_use() == (f"unix://{sockets.folder}/docker.sock", "default")
    assert passed_over(endpoint_in_use()[0]) == []


@pytest.mark.parametrize("variable", [None, "", "/nonexistent"])
def test_a_users_own_socket_is_found_without_the_variable(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", variable)
    tried: list[str] = []
    monkeypatch.setattr("devenv.engine.connection._fault", lambda path: tried.append(path) or "no such socket")
    endpoint_in_use()
    assert "/run/user/4000000/docker.sock" in tried and "/run/user/4000000/podman/podman.sock" in tried
    assert all(path.startswith("/") for path in tried)


def test_sockets_in_folders_that_nobody_may_enter_are_passed_over(sockets: Sockets) -> None:
    sockets.listen("own/podman/podman.sock")
    (sockets.folder / "own").chmod(0o700)
    with ordinary_user():
        url, _ = endpoint_in_use()
        assert passed_over("") == [
            f"{sockets.folder}/own/docker.sock (permission denied)",
            f"{sockets.folder}/own/podman/podman.sock (permission denied)",
        ]
    assert url == f"unix://{sockets.folder}/docker.sock"


def test_where_none_lets_us_in_the_hint_names_the_group_and_all_that_were_tried(sockets: Sockets) -> None:
    sockets.listen("docker.sock", "denied")
    sockets.listen("own/docker.sock", "stale")
    sockets.listen("podman.sock", "denied")
    with ordinary_user(), pytest.raises(NoEngine, match=r"/docker\.sock \(default\): permission denied$") as caught:
        open_connection()
    assert "group docker" in caught.value.hint or "usermod -aG docker" in caught.value.hint
    tried = f"{sockets.folder}/own/docker.sock (connection refused), {sockets.folder}/podman.sock (permission denied)"
    assert caught.value.hint.endswith(f"; devenv also tried {tried}")


@pytest.mark.parametrize("how", ["DOCKER_HOST", "a context"])
def test_an_engine_that_was_named_and_does_not_answer_is_replaced_by_no_other(
    sockets: Sockets, docker_folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    sockets.listen("docker.sock")
    dead = sockets.listen("dead.sock", "stale")
    if how == "DOCKER_HOST":
        monkeypatch.setenv("DOCKER_HOST", f"unix://{dead}")
    else:
        monkeypatch.setenv("DOCKER_CONTEXT", "c")
        context(docker_folder, "c", at(f"unix://{dead}"))
    with pytest.raises(NoEngine, match=f"cannot reach a container engine at unix://{dead}") as caught:
        open_connection()
    assert "tried" not in caught.value.hint


@pytest.mark.parametrize("content", ['{"Name": "odd"', "[]", '{"Name": "odd"}', "", '{"Endpoints": {"docker": 3}}'])
def test_a_docker_context_that_cannot_be_read_is_a_clear_error(
    content: str, docker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "odd")
    context(docker_folder, "odd", content)
    with pytest.raises(NoEngine, match="context") as caught:
        endpoint_in_use()
    assert "docker context ls" in caught.value.hint


# ---- how devenv reaches it ---------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> Iterator[HttpEngine]:
    with http_engine() as fake:
        fake.answers["GET /version"] = lambda _: (200, {"ApiVersion": "1.41"})
        fake.answers["GET /info"] = (200, {"ID": "x"})
        yield fake


def test_a_socket_is_spoken_to_directly(engine: HttpEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    # docker's own command line also ignores these for sockets.
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    connection = open_connection()
    assert isinstance(connection.client, HttpClient) and connection.client.ask("GET", "/info") == {"ID": "x"}


def test_the_docker_library_answers_like_our_own_client(engine: HttpEngine) -> None:
    sdk = Sdk(engine.url, "default", "1.41")
    assert sdk.ask("GET", "/info") == {"ID": "x"}
    with pytest.raises(Refused, match="no answer to GET /gone") as caught:
        sdk.ask("GET", "/gone")
    assert caught.value.status == 404
    engine.answers["POST /a"] = (200, b"")
    assert sdk.ask("POST", "/a", {"filters": {"label": "a"}}, {"Name": "b"}) is None
    asked = engine.last("POST /a")
    assert (asked.json, asked.kind) == ({"Name": "b"}, "application/json")
    assert asked.query == {"filters": ['{"label": ["a"]}']}
    sdk.ask("POST", "/a", body=iter([b"1", b"2"]))
    assert engine.last("POST /a").body == b"12" and engine.last("POST /a").whole
    sdk._client.close()


@pytest.mark.parametrize(
    ("url", "origin", "tls"),
    [
        ("tcp://127.0.0.1:1", "DOCKER_HOST", "1"),
        ("tcp://127.0.0.1:1", "context c", ""),
        ("https://127.0.0.1:1", "DOCKER_HOST", ""),
        ("banana", "DOCKER_HOST", ""),
    ],
)
def test_all_else_is_left_to_the_docker_library(
    url: str, origin: str, tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []
    monkeypatch.setattr("devenv.engine.sdk.Sdk", lambda *arguments: made.append(arguments))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", tls)
    Connection(url, origin)
    assert made == [(url, origin, "auto")]


def test_nothing_at_the_socket_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(NoEngine, match=r"cannot reach .* \(DOCKER_HOST\): no such socket") as caught:
        open_connection()
    assert f"unix://{tmp_path}/none" in caught.value.message


def test_an_engine_that_is_too_old_says_so(engine: HttpEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.api = "1.12"
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    with pytest.raises(NoEngine, match=r"its API 1\.12 is older than 1\.24"):
        open_connection()
