"""The engine's failures as devenv's, and the credentials that a client is left with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests
import urllib3.exceptions

from devenv.connection import _forget_missing_helpers, asking, endpoint_in_use, unless_gone, unless_taken
from devenv.errors import Cancelled, DevenvError, NoEngine, NotOurs, ServiceFailed


def refusal(status: int, words: str = "the engine's words") -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    kind = docker.errors.NotFound if status == 404 else docker.errors.APIError
    return kind("refused", response, explanation=words)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refusal(500), ServiceFailed, "the engine's words"),
        (refusal(404), ServiceFailed, "the engine's words"),
        (docker.errors.BuildError("no such file", iter(())), ServiceFailed, "no such file"),
        (docker.errors.DockerException("Credentials store error"), ServiceFailed, "Credentials store error"),
        (docker.errors.InvalidRepository("odd name"), ServiceFailed, "odd name"),
        (requests.ConnectionError("('Connection aborted.', ConnectionRefusedError(111))"), NoEngine, "refused"),
        (requests.ReadTimeout("Read timed out."), NoEngine, "timed out"),
        (urllib3.exceptions.ProtocolError("Connection broken"), NoEngine, "Connection broken"),
        (urllib3.exceptions.ReadTimeoutError(None, "/x", "Read timed out."), NoEngine, "timed out"),  # type: ignore
        (BrokenPipeError(32, "Broken pipe"), NoEngine, "Broken pipe"),
        (ConnectionResetError(104, "Connection reset by peer"), NoEngine, "reset by peer"),
        (TimeoutError("timed out"), NoEngine, "timed out"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_failure_of_the_engine_is_one_of_ours(error: Exception, kind: type[DevenvError], words: str) -> None:
    with pytest.raises(kind, match=r"^cannot do it: ") as caught, asking("do it", "a hint"):
        raise error
    assert type(caught.value) is kind and caught.value.__cause__ is error
    assert words in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint == "a hint" if kind is ServiceFailed else "devenv doctor" in caught.value.hint


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
    for error in (refusal(404), refusal(409, "removal of container x is already in progress")):
        with asking("remove it"), unless_gone():
            raise error
    with pytest.raises(ServiceFailed), asking("remove it"), unless_gone():
        raise refusal(409, "it is in use")


# ---- credentials -------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One credential helper."""
    (tmp_path / "docker-credential-here").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"auths": {"r": {"auth": "x"}}}, {"auths": {"r": {"auth": "x"}}}),
        ({"credsStore": "gone"}, {}),
        ({"credsStore": "here"}, {"credsStore": "here"}),
        ({"credsStore": ""}, {"credsStore": ""}),
        ({"credHelpers": None}, {"credHelpers": None}),
        ({"credHelpers": {"a": "gone", "b": "here", "c": "gone"}}, {"credHelpers": {"b": "here"}}),
        ({"credsStore": "here", "credHelpers": {"a": "gone"}}, {"credsStore": "here", "credHelpers": {}}),
    ],
)
def test_credential_helpers_that_are_not_installed_are_forgotten(before: dict[str, Any], after: dict[str, Any]) -> None:
    _forget_missing_helpers(before)
    assert before == after


# ---- contexts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ['{"Name": "odd"', "[]", '{"Name": "odd"}', ""])
def test_a_docker_context_that_cannot_be_read_is_a_clear_error(
    content: str, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docker.context.config import get_context_id

    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "odd")
    folder = own_world / "docker/contexts/meta" / get_context_id("odd")
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(content)
    with pytest.raises(NoEngine, match="context") as caught:
        endpoint_in_use()
    assert "docker context ls" in caught.value.hint
