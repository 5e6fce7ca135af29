"""What is asked of the engine, and what its answers become; the docker library is stood in for."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests
from builders import service

from devenv.engine import Engine
from devenv.errors import Cancelled, NotOurs, PortTaken, ServiceFailed
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE, ContainerOptions

ONE = service("one", options=ContainerOptions(nofile=4096))


def refusal(status: int, words: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("refused", response, explanation=words)


class Client:
    """In place of docker.APIClient: keeps what it was asked, answers what `answers` holds by method."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._lock = threading.Lock()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def ask(*arguments: Any, **more: Any) -> Any:
            with self._lock:
                self.asked.append((method, arguments, more))
            answer = self.answers.get(method, {})
            answer = answer(*arguments, **more) if callable(answer) else answer
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask

    def last(self, method: str) -> dict[str, Any]:
        return [more for name, _, more in self.asked if name == method][-1]


def engine(**answers: Any) -> tuple[Engine, Client]:
    client = Client(**{"create_container": {"Id": "c1"}, "create_endpoint_config": lambda **more: more, **answers})
    return Engine(client, "unix:///x"), client  # type: ignore[arg-type]


# ---- looking -----------------------------------------------------------------------------------------------------

IMAGES = [
    {
        "RepoTags": ["docker.io/library/mysql:8"],
        "RepoDigests": ["docker.io/library/mysql@sha256:1"],
        "Size": 7,
        "Id": "i7",
    },
    {"RepoTags": ["localhost/devenv/base:1"], "RepoDigests": None, "Size": 8, "Id": "i8"},
    {"RepoTags": None, "RepoDigests": [], "Size": 9, "Id": "i9"},
]


def test_images_go_by_their_familiar_names() -> None:
    asked, _ = engine(images=IMAGES)
    assert asked.images() == {"mysql:8": "i7", "mysql@sha256:1": "i7", "devenv/base:1": "i8"}
    assert asked.has_image("mysql:8") and not asked.has_image("mysql:9")
    assert asked.image_sizes() == {"mysql:8": 7, "devenv/base:1": 8}


def listed(identity: str, networks: dict[str, str], status: str = "Up 2 minutes") -> dict[str, Any]:
    return {
        "Id": identity,
        "Names": ["/devenv-e-one"],
        "Labels": {LABEL_SERVICE: "one"},
        "State": "running" if status.startswith("Up") else "exited",
        "Image": "one:1",
        "Status": status,
        "NetworkSettings": {"Networks": {name: {"NetworkID": found} for name, found in networks.items()}},
    }


def test_containers_are_observed_with_their_networks_and_volumes_with_their_services() -> None:
    asked, _ = engine(
        containers=[listed("2", {"gone": ""}, "Exited (3) 1 second ago"), listed("1", {"a": "id-a", "b": "id-b"})],
        networks=[{"Id": "id-a"}],
        volumes={
            "Volumes": [
                {"Name": "data", "Labels": {LABEL_ENVIRONMENT: "e", LABEL_SERVICE: "one"}},
                {"Name": "anonymous", "Labels": {LABEL_ENVIRONMENT: "e"}},
            ]
        },
        images=IMAGES,
    )
    found = asked.observe("e")
    assert (found.containers["one"].id, found.containers["one"].networks) == ("1", ("id-a", "id-b"))
    assert [(c.id, c.networks, c.exit_code) for c in found.extra] == [("2", (), 3)]
    assert found.networks == ("id-a",)
    assert found.volumes == {"data": "one"}


@pytest.mark.parametrize("answer", [{"Volumes": None}, {"Volumes": []}])
def test_an_engine_without_anything_is_observed(answer: dict[str, Any]) -> None:
    found = engine(containers=[], networks=[], volumes=answer, images=[])[0].observe("e")
    assert (found.containers, found.networks, found.volumes, found.images) == ({}, (), {}, {})


# ---- making ------------------------------------------------------------------------------------------------------


def test_a_new_network_goes_by_its_id() -> None:
    asked, client = engine(create_network={"Id": "n1"})
    assert asked.create_network("devenv-e", "e") == "n1"
    assert client.last("create_network")["labels"] == {LABEL_ENVIRONMENT: "e"}


@pytest.mark.parametrize("what", ["network", "container"])
def test_a_name_that_somebody_else_has_is_not_ours(what: str) -> None:
    taken = refusal(409, "the name is in use")
    asked, _ = engine(create_network=taken, create_container=taken)
    act = (
        (lambda: asked.create_network("devenv-env-one", "e"))
        if what == "network"
        else lambda: asked.create(ONE, "e", "n")
    )
    with pytest.raises(NotOurs, match="cannot create devenv-env-one: "):
        act()


def test_a_volume_that_somebody_else_has_is_not_ours() -> None:
    asked, _ = engine(create_volume={"Labels": None})
    with pytest.raises(NotOurs, match="cannot use volume v"):
        asked.ensure_volume("v", "e", "one")


def test_a_container_is_created_on_the_network_by_id_with_its_files_and_folders() -> None:
    packed: dict[str, bytes] = {}
    asked, client = engine(
        create_volume={"Labels": {LABEL_ENVIRONMENT: "e"}},
        put_archive=lambda _, path, data: packed.update({path: data}),
    )
    one = replace(ONE, files={"/etc/devenv/my.cnf": b"[x]"}, volumes={"v": "/var/lib/x"}, ports={80: 8080})
    assert asked.create(one, "e", "n1") == "c1"
    ((_, (networks,), _),) = [call for call in client.asked if call[0] == "create_networking_config"]
    assert networks == {"n1": {"aliases": ["one"]}}
    assert client.last("create_host_config")["network_mode"] == "n1"
    assert client.last("create_host_config")["port_bindings"] == {80: ("127.0.0.1", 8080)}
    with tarfile.open(fileobj=io.BytesIO(packed["/etc/devenv"])) as archive:
        assert [(e.name, e.mode) for e in archive] == [("my.cnf", 0o444)]
    with tarfile.open(fileobj=io.BytesIO(packed["/var/lib/x"])) as archive:
        assert [(e.name, e.mode, e.isdir()) for e in archive] == [("data", 0o1777, True)]


# ---- starting ----------------------------------------------------------------------------------------------------


def limits(client: Client) -> list[tuple[str, int, int]]:
    return [(limit.name, limit.soft, limit.hard) for limit in client.last("create_host_config")["ulimits"]]


RLIMIT = refusal(500, "error setting rlimits for ready process: error setting rlimit type 7: operation not permitted")


def test_an_engine_that_refuses_the_limit_on_files_is_not_asked_for_it_again() -> None:
    asked, client = engine(start=RLIMIT)
    asked.create(ONE, "e", "n")
    assert limits(client) == [("nofile", 4096, 4096)]
    # However many services find out at the same time: each has to be made anew.
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: asked.start(f"c{n}", "one"), range(4))) == [False] * 4
    asked.create(ONE, "e", "n")
    assert limits(client) == []


def test_a_container_that_starts_is_started() -> None:
    asked, client = engine()
    assert asked.start("c1", "one") is True
    asked.create(ONE, "e", "n")
    assert limits(client) == [("nofile", 4096, 4096)]


def test_a_paused_container_goes_on() -> None:
    asked, client = engine(start=refusal(500, "cannot start a paused container, try unpause instead"))
    assert asked.start("c1", "one") is True
    assert client.asked[-1][:2] == ("unpause", ("c1",))


@pytest.mark.parametrize(
    "words", ["Bind for 127.0.0.1:3306 failed: port is already allocated", "address already in use"]
)
def test_a_port_that_was_taken_meanwhile_is_not_ours(words: str) -> None:
    asked, _ = engine(start=refusal(500, words))
    with pytest.raises(PortTaken, match=f"cannot publish a port of one: .*{words}") as caught:
        asked.start("c1", "one")
    assert "devenv.yaml" in caught.value.hint


def test_any_other_refusal_to_start_names_the_service() -> None:
    asked, _ = engine(start=refusal(500, "no such program"))
    with pytest.raises(ServiceFailed, match="cannot start one: no such program") as caught:
        asked.start("c1", "one")
    assert "devenv logs one" in caught.value.hint


# ---- building ----------------------------------------------------------------------------------------------------


def test_a_failed_build_shows_the_end_of_the_failing_step() -> None:
    stream = [
        {"stream": "Step 1/2 : FROM x\n"},
        {"stream": "fine\n"},
        {"stream": "STEP 2/2: RUN y\n"},
        {"stream": "\x1b[91mno such package\n\x1b[0m"},
        {"error": "returned 100"},
    ]
    told: list[str] = []
    with pytest.raises(ServiceFailed, match="cannot build image i:1: STEP 2/2: RUN y failed: returned 100") as caught:
        engine(build=stream)[0].build("i:1", io.BytesIO(), {}, {}, told.append)
    assert caught.value.detail == ("STEP 2/2: RUN y", "no such package")
    assert told[:4] == ["Step 1/2 : FROM x", "fine", "STEP 2/2: RUN y", "no such package"]


def test_an_interrupt_ends_a_build_in_the_middle_of_a_step() -> None:
    def interrupted(text: str) -> None:
        if text == "2":
            raise Cancelled

    stream = ({"stream": text} for text in ["Step 1/1 : RUN x", "1", "2", "3"])
    with pytest.raises(Cancelled):
        engine(build=stream)[0].build("i:1", io.BytesIO(), {}, {}, interrupted)
    assert next(stream) == {"stream": "3"}


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [("mysql:8", "mysql", "8"), ("r:5000/a/b:1", "r:5000/a/b", "1"), ("mysql@sha256:1", "mysql@sha256:1", None)],
)
def test_an_image_is_pulled_by_tag_or_digest(reference: str, name: str, tag: str | None) -> None:
    asked, client = engine(pull=[{"status": "Pulling"}, {"id": "x"}])
    told: list[str] = []
    asked.pull(reference, told.append)
    ((_, arguments, more),) = client.asked
    assert (arguments, more["tag"], told) == ((name,), tag, ["Pulling", ""])


def test_a_pull_that_fails_half_way_is_a_clear_error() -> None:
    with pytest.raises(ServiceFailed, match="cannot pull image mysql:8: no space left"):
        engine(pull=[{"error": "no space left"}])[0].pull("mysql:8", lambda _: None)


def test_an_image_that_is_in_use_is_not_removed() -> None:
    assert engine()[0].remove_image("i") is True
    assert engine(remove_image=refusal(409, "in use"))[0].remove_image("i") is False
    with pytest.raises(ServiceFailed):
        engine(remove_image=refusal(500, "oops"))[0].remove_image("i")


def test_an_image_is_imported_with_its_labels(tmp_path: Path) -> None:
    (tmp_path / "base.tar").touch()
    asked, client = engine()
    asked.import_image("devenv/base:1", tmp_path / "base.tar", {"a": "b"})
    assert client.last("import_image_from_data") == {
        "repository": "devenv/base",
        "tag": "1",
        "changes": ['LABEL a="b"'],
    }
