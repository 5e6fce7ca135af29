"""Requests to the engine, and what devenv makes of the answers; a fake client carries the requests."""

from __future__ import annotations

import io
import json
import platform
import tarfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import service

from devenv.engine.docker import Docker
from devenv.engine.http import TIMEOUT, Body, Client, Query, Refused
from devenv.engine.protocol import ContainerState
from devenv.engine.tar import pack
from devenv.errors import (
    AddressPoolExhausted,
    Cancelled,
    ConfigError,
    LimitRefused,
    NoEngine,
    NoSpace,
    NotOurs,
    PortTaken,
    ServiceFailed,
)
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER, LABEL_PORTS, LABEL_SERVICE, ContainerOptions

OWN = {LABEL_ENVIRONMENT: "e", LABEL_OWNER: "t"}
ONE = service("one", options=ContainerOptions(nofile=4096))
CREATE = "POST /containers/create"


class Turns(list[Any]):
    """Answers of an engine in turn; the last stays."""

    def next(self) -> Any:
        return self.pop(0) if len(self) > 1 else self[0]


class Requests(Client):
    """Keeps every request. Answers with what `answers` holds by "METHOD /path", else with an id."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        # Answers that change after a request, by that request.
        self.then: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, Query, Any]] = []
        # Timeouts in seconds, of the last request of each kind.
        self.limits: dict[str, float] = {}
        self._lock = threading.Lock()

    def stream(
        self, method: str, path: str, query: Query | None = None, body: Body = None, timeout: float = 0
    ) -> Iterator[bytes]:
        what = f"{method} {path}"
        with self._lock:
            self.asked.append((what, query or {}, body if isinstance(body, dict | bytes) else b"".join(body or ())))
            self.limits[what] = timeout
        answer = self.answers.get(what, {"Id": "c1", "Labels": OWN})
        self.answers.update(self.then.get(what, {}))
        answer = answer.next() if isinstance(answer, Turns) else answer
        if isinstance(answer, Exception):
            raise answer
        yield answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def lines(
        self, path: str, query: Query, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Generator[bytes, None, None]:
        self.headers = headers or {}
        yield from b"".join(self.stream("POST", path, query, body)).splitlines(keepends=True)

    @property
    def whats(self) -> list[str]:
        return [what for what, _, _ in self.asked]

    def last(self, what: str) -> Any:
        """Return the body of the last such request."""
        return [body for asked, _, body in self.asked if asked == what][-1]

    def query(self, what: str) -> Query:
        return [query for asked, query, _ in self.asked if asked == what][-1]


def engine(answers: dict[str, Any] | None = None) -> tuple[Docker, Requests]:
    client = Requests(answers or {})
    return Docker(SimpleNamespace(client=client, url="unix:///x")), client  # type: ignore[arg-type]


def says(*messages: Mapping[str, Any]) -> bytes:
    """Return what an engine tells of its work: a message a line."""
    return b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)


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


def test_podmans_images_are_listed_again_if_one_goes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devenv.engine.images._PAUSE_SECONDS", 0)
    asked, client = engine({"GET /images/json": Refused(500, "retrieving label for image: no such image")})
    client.podman = True
    client.then = {"GET /images/json": {"GET /images/json": IMAGES}}
    assert "mysql:8" in asked.images()
    asked, client = engine({"GET /images/json": Refused(500, "the store is broken")})
    client.podman = True
    with pytest.raises(ServiceFailed, match="cannot list images: the store is broken"):
        asked.images()
    assert client.whats == ["GET /images/json"] * 10
    asked, client = engine({"GET /images/json": Refused(500, "the store is broken")})
    with pytest.raises(ServiceFailed):
        asked.images()
    assert len(client.whats) == 1


def test_images_go_by_their_familiar_names() -> None:
    asked, _ = engine({"GET /images/json": IMAGES})
    assert asked.images() == {"mysql:8": "i7", "mysql@sha256:1": "i7", "devenv/base:1": "i8"}
    assert asked.image_sizes() == {"mysql:8": 7, "mysql@sha256:1": 7, "devenv/base:1": 8}
    assert [image["RepoTags"] for image in asked.devenv_images()] == [["mysql:8"], ["devenv/base:1"], []]
    asked, _ = engine({"GET /images/i7/json": IMAGES[0]})
    assert asked.inspect_image("i7")["RepoDigests"] == ["mysql@sha256:1"]


@pytest.mark.parametrize(
    ("answer", "used"),
    [
        ({"memory_stats": {"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 1}}}, 70),
        ({"memory_stats": {"usage": 100, "stats": {"inactive_file": 40}}}, 60),
        ({"memory_stats": {"usage": 100}}, 100),  # Podman
        ({"memory_stats": {}}, None),  # it has just ended
        (b"", None),
        (Refused(404, "no such container"), None),
    ],
)
def test_memory_is_told_without_the_cache_of_files(answer: Any, used: int | None) -> None:
    asked, client = engine({"GET /containers/c1/stats": answer})
    assert asked.memory("c1") == used
    # Without that, an engine measures for a second or more.
    assert client.query("GET /containers/c1/stats") == {"stream": False, "one-shot": True}


ONE_KNOWN = [{"Name": "a", "UsageData": {"Size": 5}}, {"Name": "b", "UsageData": {"Size": -1}}, {"Name": "c"}]


@pytest.mark.parametrize(
    ("answer", "sizes"),
    [
        ({"Volumes": ONE_KNOWN}, {"a": 5}),
        ({"VolumeUsage": {"TotalSize": 5, "Items": ONE_KNOWN}}, {"a": 5}),  # from version 1.52 on
        ({"Volumes": None}, {}),
        ({}, {}),
    ],
)
def test_sizes_of_volumes_are_told_by_every_version_of_the_api(answer: Any, sizes: dict[str, int]) -> None:
    assert engine({"GET /system/df": answer})[0].volume_sizes() == sizes


@pytest.mark.parametrize("label", ['{"80": "x"}', '{"x": 1}', '{"²": 1}', "[]", "no json", '{"80": 8080}'])
def test_a_label_that_devenv_did_not_write_counts_as_empty(label: str) -> None:
    one = listed("c1", {})
    one["Labels"][LABEL_PORTS] = label
    asked, _ = engine({"GET /containers/json": [one], "GET /networks": [], "GET /volumes": {"Volumes": []}})
    assert asked.environments({"e": "t"})["e"].containers["one"].ports == ({80: 8080} if "8080" in label else {})


def listed(identity: str, networks: dict[str, str], status: str = "Up 2 minutes") -> dict[str, Any]:
    return {
        "Id": identity,
        "Names": ["/devenv-e-one"],
        "Labels": {**OWN, LABEL_SERVICE: "one"},
        "State": "running" if status.startswith("Up") else "exited",
        "Image": "one:1",
        "Status": status,
        "NetworkSettings": {"Networks": {name: {"NetworkID": found} for name, found in networks.items()}},
    }


def test_containers_are_observed_with_their_networks_and_volumes_with_their_services() -> None:
    of_one = {**OWN, LABEL_SERVICE: "one"}
    exited, running = listed("2", {"gone": ""}, "Exited (3) 1 second ago"), listed("1", {"a": "id-a", "b": "id-b"})
    volumes = [{"Name": "devenv-e-one-data", "Labels": of_one}, {"Name": "anonymous", "Labels": OWN}]
    asked, client = engine(
        {
            "GET /containers/json": [exited, running],
            "GET /networks": [{"Id": "id-a", "Name": "devenv-e", "Labels": OWN}],
            "GET /volumes": {"Volumes": volumes},
            "GET /images/json": IMAGES,
        }
    )
    found = asked.observe("e", "t")
    assert (found.containers["one"].id, found.containers["one"].networks) == ("1", ("id-a", "id-b"))
    assert [(c.id, c.networks, c.exit_code) for c in found.extra] == [("2", (), 3)]
    assert found.networks == ("id-a",)
    assert found.volumes == {"devenv-e-one-data": "one"}
    label = {"filters": {"label": f"{LABEL_ENVIRONMENT}=e"}}
    assert client.query("GET /containers/json") == {"all": True, **label}
    assert client.query("GET /networks") == client.query("GET /volumes") == label


@pytest.mark.parametrize("networks", [{}, None], ids=["none", "null, as Podman 5.8 says"])
def test_a_container_that_somebody_took_off_its_network_is_observed(networks: Any) -> None:
    alone = {**listed("1", {}), "NetworkSettings": {"Networks": networks}}
    asked, _ = engine({"GET /containers/json": [alone], "GET /networks": [], "GET /volumes": {"Volumes": []}})
    assert asked.environments({"e": "t"})["e"].containers["one"].networks == ()


def test_what_carries_no_token_of_ours_is_a_stranger() -> None:
    forged = [{LABEL_ENVIRONMENT: "e", LABEL_SERVICE: "one"}, {**OWN, LABEL_SERVICE: "one", LABEL_OWNER: "other"}]
    containers = [{**listed(f"c{n}", {}), "Names": [f"/c{n}"], "Labels": labels} for n, labels in enumerate(forged)]
    asked, _ = engine(
        {
            "GET /containers/json": [*containers, listed("1", {}, "Exited (0) 1 second ago")],
            "GET /networks": [{"Id": f"id{n}", "Name": f"n{n}", "Labels": labels} for n, labels in enumerate(forged)],
            "GET /volumes": {"Volumes": [{"Name": f"v{n}", "Labels": labels} for n, labels in enumerate(forged)]},
            "GET /images/json": IMAGES,
        }
    )
    found = asked.observe("e", "t")
    assert ({name: c.id for name, c in found.containers.items()}, found.extra) == ({"one": "1"}, ())
    assert (found.networks, found.volumes, found.owner) == ((), {}, "t")
    assert sorted(found.strangers) == [
        f"{kind} {kind[0]}{n}" for kind in ("container", "network", "volume") for n in (0, 1)
    ]


def test_a_state_goes_by_dockers_word_for_it() -> None:
    stopped = {**listed("1", {}, "Exited (3) 1 second ago"), "State": "stopped"}
    asked, _ = engine(
        {
            "GET /containers/json": [stopped],
            "GET /networks": [],
            "GET /volumes": {"Volumes": []},
            "GET /images/json": [],
            "GET /containers/1/json": {"State": {"Status": "stopped", "ExitCode": 3, "OOMKilled": True}},
        }
    )
    assert asked.observe("e", "t").containers["one"].state == "exited"
    assert asked.state("1") == ContainerState("exited", 3, out_of_memory=True)


@pytest.mark.parametrize(
    ("podman", "end"), [(False, {"until": "12.500000"}), (True, {"stream": False})], ids=["docker", "podman"]
)
def test_events_are_those_that_happened_by_now(podman: bool, end: dict[str, Any]) -> None:
    said = b'{"Action": "create"}\n{"Action": "start"}\n'
    asked, client = engine({"GET /events": said, "GET /info": {"SystemTime": "1970-01-01T00:00:12.5Z"}})
    client.podman = podman
    assert [event["Action"] for event in asked.events("e")] == ["create", "start"]
    assert client.query("GET /events") == {"since": 1, "filters": {"label": f"{LABEL_ENVIRONMENT}=e"}, **end}


def test_only_our_own_volumes_are_left_over() -> None:
    volumes = [
        {"Name": "ours", "Labels": OWN},
        {"Name": "data", "Labels": {**OWN, LABEL_SERVICE: "one"}},
        {"Name": "forged", "Labels": {LABEL_ENVIRONMENT: "e"}},
    ]
    asked, client = engine({"GET /volumes": {"Volumes": volumes}})
    assert asked.leftover_volumes("e", "t") == ("ours",)
    assert client.query("GET /volumes")["filters"] == {"label": f"{LABEL_ENVIRONMENT}=e", "dangling": "true"}


@pytest.mark.parametrize("answer", [{"Volumes": None}, {"Volumes": []}])
def test_an_engine_without_anything_is_observed(answer: dict[str, Any]) -> None:
    nothing = {f"GET /{path}": [] for path in ("containers/json", "networks", "images/json")}
    found = engine({**nothing, "GET /volumes": answer})[0].observe("e", "")
    assert (found.containers, found.networks, found.volumes, found.images) == ({}, (), {}, {})


@pytest.mark.parametrize(
    ("network", "reached"), [("host", True), ("container:0123", True), ("", True), ("bridge", False), ("ci", False)]
)
def test_a_container_that_is_not_on_the_hosts_network_cannot_reach_services(
    monkeypatch: pytest.MonkeyPatch, network: str, reached: bool
) -> None:
    monkeypatch.setattr("devenv.engine.observe.own_container", lambda: "0123abcd")
    asked, _ = engine({"GET /containers/0123abcd/json": {"HostConfig": {"NetworkMode": network}}})
    if reached:
        return asked.check_reach()
    with pytest.raises(ConfigError, match="cannot reach services from container 0123abcd") as caught:
        asked.check_reach()
    assert "--network host" in caught.value.hint and network in caught.value.hint


def test_a_container_that_the_engine_does_not_know_may_reach_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devenv.engine.observe.own_container", lambda: "0123abcd")
    engine({"GET /containers/0123abcd/json": Refused(404, "no such container")})[0].check_reach()


def test_outside_of_a_container_nothing_is_asked_about_the_way_to_services() -> None:
    asked, client = engine()
    asked.check_reach()
    assert client.whats == []


# ---- making ------------------------------------------------------------------------------------------------------


def test_a_new_network_goes_by_its_id() -> None:
    asked, client = engine({"POST /networks/create": {"Id": "n1"}})
    assert asked.create_network("devenv-e", OWN) == "n1"
    assert client.last("POST /networks/create")["Labels"] == OWN


@pytest.mark.parametrize(
    "words",
    [
        "could not find an available, non-overlapping IPv4 address pool among the defaults",
        "all predefined address pools have been fully subnetted",
        "could not find free subnet from subnet pools",
    ],
)
def test_an_engine_without_addresses_is_told_apart_from_others_that_refuse(words: str) -> None:
    asked, client = engine({"POST /networks/create": Refused(500, words)})
    with pytest.raises(AddressPoolExhausted, match=f"cannot create network devenv-e: {words}") as caught:
        asked.create_network("devenv-e", OWN)
    assert "docker network prune" in caught.value.hint
    client.answers["POST /networks/create"] = Refused(500, "plugin not found")
    with pytest.raises(ServiceFailed) as caught:
        asked.create_network("devenv-e", OWN)
    assert type(caught.value) is ServiceFailed


@pytest.mark.parametrize("words", ["write /x: no space left on device", "OS error 28: No space left on device"])
def test_a_full_disk_is_told_apart_from_other_refusals(words: str) -> None:
    asked, _ = engine({CREATE: Refused(500, words), "POST /images/load": {"error": words}})
    for act in (lambda: asked.create(ONE, OWN, "n"), lambda: asked.load_images([b""])):
        with pytest.raises(NoSpace, match="cannot ") as caught:
            act()
        assert caught.value.disk_full and caught.value.exit_code == 5
    with pytest.raises(ServiceFailed) as other:
        engine({CREATE: Refused(500, "no")})[0].create(ONE, OWN, "n")
    assert not other.value.disk_full


@pytest.mark.parametrize("what", ["network", "container"])
def test_a_name_that_somebody_else_has_is_not_ours(what: str) -> None:
    taken, other = Refused(409, "the name is in use"), {"Id": "x", "Labels": {**OWN, LABEL_OWNER: "other"}}
    there = {"GET /networks/devenv-env-one": other, "GET /containers/devenv-env-one/json": {"Config": other, "Id": "x"}}
    asked, _ = engine({"POST /networks/create": taken, CREATE: taken, **there})
    act = (
        (lambda: asked.create_network("devenv-env-one", OWN))
        if what == "network"
        else lambda: asked.create(ONE, OWN, "n")
    )
    with pytest.raises(NotOurs, match="cannot create devenv-env-one: "):
        act()


# How Docker and Podman refuse a name that is taken.
TAKEN = [
    Refused(409, "it is there"),
    Refused(500, "network name devenv-e already used: network already exists"),
    Refused(500, 'the container name "devenv-env-one" is already in use by 0123: that name is already in use'),
]


@pytest.mark.parametrize("taken", TAKEN)
def test_a_network_that_a_killed_devenv_asked_for_is_taken(taken: Refused) -> None:
    late = {"Id": "n1", "Labels": OWN}
    asked, _ = engine({"POST /networks/create": taken, "GET /networks/devenv-e": late})
    assert asked.create_network("devenv-e", OWN) == "n1"


@pytest.mark.parametrize("taken", TAKEN)
def test_a_container_that_a_killed_devenv_asked_for_is_made_anew(taken: Refused) -> None:
    asked, client = engine({"GET /containers/devenv-env-one/json": {"Id": "late", "Config": {"Labels": OWN}}})
    client.answers[CREATE] = taken
    client.then["DELETE /containers/late"] = {CREATE: {"Id": "c2"}}
    assert asked.create(ONE, OWN, "n") == "c2"


def test_a_volume_is_filled_where_a_killed_devenv_asked_for_the_same() -> None:
    asked, client = engine({"GET /containers/v-fill/json": {"Id": "late", "Config": {"Labels": OWN}}})
    client.answers[CREATE] = Refused(409, "it is there")
    client.then["DELETE /containers/late"] = {CREATE: {"Id": "c2"}}
    asked.fill_volume("v", "i:1", "/data", OWN, "one")
    assert client.whats[-3:] == ["DELETE /containers/late", CREATE, "DELETE /containers/c2"]


def test_a_container_of_somebody_elses_that_is_named_like_the_one_to_fill_a_volume_stays() -> None:
    asked, client = engine({"GET /containers/v-fill/json": {"Id": "x", "Config": {"Labels": {}}}})
    client.answers[CREATE] = Refused(409, "it is there")
    with pytest.raises(NotOurs, match="cannot create v-fill"):
        asked.fill_volume("v", "i:1", "/data", OWN, "one")
    assert not [what for what in client.whats if what.startswith("DELETE")]


@pytest.mark.parametrize("labels", [None, {LABEL_ENVIRONMENT: "e"}, {**OWN, LABEL_OWNER: "other"}])
def test_a_volume_that_somebody_else_has_is_not_ours(labels: dict[str, str] | None) -> None:
    asked, client = engine({"POST /volumes/create": {"Labels": labels}})
    with pytest.raises(NotOurs, match="cannot use volume v"):
        asked.create(replace(ONE, volumes={"v": "/data"}), OWN, "n")
    assert CREATE not in client.whats


def test_a_container_is_created_on_the_network_by_id_with_its_files_and_folders() -> None:
    asked, client = engine({"HEAD /containers/c1/archive": Refused(404, "no such file")})
    one = replace(ONE, files={"/etc/devenv/my.cnf": b"[x]"}, volumes={"v": "/var/lib/x"}, ports={80: 8080})
    assert asked.create(one, OWN, "n1") == "c1"
    assert client.query(CREATE) == {"name": one.container}
    wanted = client.last(CREATE)
    host = wanted["HostConfig"]
    assert wanted["NetworkingConfig"]["EndpointsConfig"] == {"n1": {"Aliases": ["one"]}}
    assert host["NetworkMode"] == "n1"
    assert wanted["ExposedPorts"] == {"80/tcp": {}}
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    assert host["Mounts"] == [
        {"Type": "volume", "Source": "v", "Target": "/var/lib/x"},
        {"Type": "volume", "Target": "/etc/devenv", "VolumeOptions": {"Labels": OWN}},
    ]
    packed = {query["path"]: body for what, query, body in client.asked if what == "PUT /containers/c1/archive"}
    with tarfile.open(fileobj=io.BytesIO(packed["/etc/devenv"])) as archive:
        assert [(e.name, e.mode) for e in archive] == [("my.cnf", 0o444)]
    with tarfile.open(fileobj=io.BytesIO(packed["/var/lib/x"])) as archive:
        assert [(e.name, e.mode, e.isdir()) for e in archive] == [("data", 0o1777, True)]


def test_a_folder_that_the_image_or_the_volume_has_is_not_copied() -> None:
    asked, client = engine()
    asked.create(replace(ONE, volumes={"v": "/var/lib/x"}), OWN, "n1")
    assert client.query("HEAD /containers/c1/archive") == {"path": "/var/lib/x/data"}
    assert "PUT /containers/c1/archive" not in client.whats


def test_what_a_service_does_not_set_is_left_to_its_image() -> None:
    asked, client = engine()
    asked.create(service("one", options=ContainerOptions()), OWN, "n1")
    wanted = client.last(CREATE)
    assert set(wanted) == {"Image", "Labels", "HostConfig", "NetworkingConfig", "Healthcheck"}
    assert set(wanted["HostConfig"]) == {"NetworkMode", "LogConfig"}


def test_every_setting_of_a_service_reaches_the_engine() -> None:
    options = ContainerOptions(
        user="u",
        hostname="h",
        working_dir="/w",
        entrypoint=("e",),
        command=("c", "d"),
        environment=(("A", "1"), ("B", "x=y")),
        tmpfs=("/tmp",),
        read_only=True,
        init=True,
        cap_drop=("ALL",),
        security_opt=("no-new-privileges",),
        nofile=9,
        pids_limit=8,
        mem_limit=7,
        shm_size=6,
        stop_signal="SIGINT",
    )
    asked, client = engine()
    asked.create(service("one", options=options), OWN, "n1")
    wanted = client.last(CREATE)
    host = wanted["HostConfig"]
    assert [wanted[key] for key in ("User", "Hostname", "WorkingDir", "StopSignal")] == ["u", "h", "/w", "SIGINT"]
    assert (list(wanted["Entrypoint"]), list(wanted["Cmd"]), wanted["Env"]) == (["e"], ["c", "d"], ["A=1", "B=x=y"])
    assert (host["Tmpfs"], host["ReadonlyRootfs"], host["Init"]) == ({"/tmp": "mode=1777"}, True, True)
    assert (list(host["CapDrop"]), list(host["SecurityOpt"])) == (["ALL"], ["no-new-privileges"])
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 9, "Hard": 9}]
    assert [host[key] for key in ("PidsLimit", "Memory", "ShmSize")] == [8, 7, 6]


def test_a_volume_is_filled_by_a_container_that_is_never_started() -> None:
    asked, client = engine()
    asked.fill_volume("v", "i:1", "/data", OWN, "one")
    assert client.whats == ["POST /volumes/create", CREATE, "DELETE /containers/c1"]
    # The engine copies during this request, however long that takes.
    assert client.limits[CREATE] == 1800 and client.limits["DELETE /containers/c1"] <= TIMEOUT
    assert client.query(CREATE) == {"name": "v-fill"}
    host = client.last(CREATE)["HostConfig"]
    assert host.pop("Mounts") == [{"Type": "volume", "Source": "v", "Target": "/data"}]
    # Even if somebody started the container, it could do nothing.
    assert host == {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": 1,
        "Memory": 16 << 20,
    }
    assert client.last(CREATE)["User"] == "65534:65534"
    assert client.query("DELETE /containers/c1") == {"v": True, "force": True}


START = "POST /containers/c1/start"


def test_podman_fills_a_volume_when_the_container_fails_to_start() -> None:
    nothing_to_run = Refused(500, 'runc create failed: exec: "none": executable file not found: OCI runtime')
    asked, client = engine({START: nothing_to_run})
    client.podman = True
    asked.fill_volume("v", "i:1", "/data", OWN, "one")
    assert client.whats == ["POST /volumes/create", CREATE, START, "DELETE /containers/c1"]


def test_a_volume_that_podman_has_not_filled_is_not_taken_for_full() -> None:
    full = "copying up into volume devenv-runc-1-mysql-data: no space left on device"
    asked, client = engine({START: Refused(500, full)})
    client.podman = True
    with pytest.raises(ServiceFailed, match=r"cannot fill volume v: .* no space left on device"):
        asked.fill_volume("v", "i:1", "/data", OWN, "one")
    assert client.whats[-1] == "DELETE /containers/c1"


def test_podman_names_networks_where_docker_has_ids() -> None:
    networks = [{"Id": "id-a", "Name": "devenv-e", "Labels": OWN}]
    listing = {"GET /networks": networks, "GET /volumes": {"Volumes": None}, "GET /images/json": IMAGES}
    asked, _ = engine({**listing, "GET /containers/json": [listed("1", {"devenv-e": "devenv-e", "b": "b"})]})
    assert asked.observe("e", "t").containers["one"].networks == ("id-a", "b")


@pytest.mark.parametrize(("podman", "name"), [(False, "/member"), (True, "/member"), (True, "etcd/member")])
def test_a_folder_is_read_with_its_name(podman: bool, name: str) -> None:
    asked, client = engine({"GET /containers/c/archive": pack({name: b"1"}).getvalue()})
    client.podman = podman
    with tarfile.open(fileobj=io.BytesIO(b"".join(asked.read_folder("c", "/var/lib/etcd")))) as archive:
        assert archive.getnames() == ["etcd/member" if podman else name]


def test_an_image_is_read_through_a_container_that_is_never_started_and_what_a_killed_one_left_goes() -> None:
    now = time.time()
    listed = [
        {"Id": "old", "State": "created", "Created": now - 3600, "Names": ["/devenv-reading-1"]},
        {"Id": "another's", "State": "created", "Created": now - 5, "Names": ["/devenv-reading-2"]},
        {"Id": "started", "State": "exited", "Created": now - 3600, "Names": ["/devenv-reading-3"]},
        {"Id": "only labelled", "State": "created", "Created": now - 3600, "Names": ["/mine"]},
    ]
    asked, client = engine({"GET /containers/json": listed})
    with pytest.raises(ZeroDivisionError), asked.unstarted("i:1") as container:
        assert container == "c1"
        assert client.whats == ["GET /containers/json", "DELETE /containers/old", CREATE]
        raise ZeroDivisionError
    assert client.whats[-1] == "DELETE /containers/c1"
    assert str(client.query(CREATE)["name"]).startswith("devenv-reading-")
    label = client.query("GET /containers/json")["filters"]
    (name, _, value), (key, made) = label["label"].partition("="), client.last(CREATE)["Labels"].popitem()  # type: ignore[index]
    assert (name, value) == (key, made)


def test_a_file_that_is_not_there_is_no_failure_and_an_engine_that_hangs_up_is_one() -> None:
    look = "HEAD /containers/c1/archive"
    assert engine({look: b""})[0].has("c1", "/x")
    assert not engine({look: Refused(404, "no such file")})[0].has("c1", "/x")
    with pytest.raises(NoEngine, match="cannot look for /x in container c1"):
        engine({look: ConnectionResetError(104, "Connection reset by peer")})[0].has("c1", "/x")


# ---- starting ----------------------------------------------------------------------------------------------------


def limits(client: Requests) -> list[tuple[str, int, int]]:
    return [(n["Name"], n["Soft"], n["Hard"]) for n in client.last(CREATE)["HostConfig"].get("Ulimits", [])]


RLIMIT = Refused(500, "error setting rlimits for ready process: error setting rlimit type 7: operation not permitted")


def test_an_engine_that_refuses_the_limit_on_files_is_not_asked_for_it_again() -> None:
    asked, client = engine({f"POST /containers/c{n}/start": RLIMIT for n in range(4)})
    asked.create(ONE, OWN, "n")
    assert limits(client) == [("nofile", 4096, 4096)]
    # Each container must be recreated, however many services find out at the same time.
    with ThreadPoolExecutor(4) as pool:
        failures = [pool.submit(asked.start, f"c{n}", "one").exception() for n in range(4)]
    assert [type(failure) for failure in failures] == [LimitRefused] * 4
    asked.create(ONE, OWN, "n")
    assert limits(client) == []


@pytest.mark.parametrize("file", ["memory.max", "memory.swap.max", "pids.max"])
def test_an_engine_that_may_not_limit_memory_is_not_asked_for_it_again(file: str) -> None:
    words = f"crun: opening file `{file}` for writing: No such file or directory: OCI runtime attempted to invoke"
    asked, client = engine({"POST /containers/c1/start": Refused(500, words)})
    limited = replace(ONE, options=replace(ONE.options, mem_limit=7, pids_limit=8))
    asked.create(limited, OWN, "n")
    assert client.last(CREATE)["HostConfig"]["Memory"] == 7
    with pytest.raises(LimitRefused, match="cannot start one: the engine may not set limits on memory and processes"):
        asked.start("c1", "one")
    asked.create(limited, OWN, "n")
    assert not {"Memory", "PidsLimit"} & client.last(CREATE)["HostConfig"].keys()
    assert limits(client) == [("nofile", 4096, 4096)]


@pytest.mark.parametrize("podman", [True, False])
def test_podman_4_holds_the_ports_of_a_start_that_failed_for_a_while(podman: bool) -> None:
    start, held = "POST /containers/c1/start", Refused(500, "listen tcp4 127.0.0.1:80: bind: address already in use")
    asked, client = engine({start: Turns([held, Refused(500, "error setting rlimit type 7"), held, held, b""])})
    client.podman = podman
    # Nothing has failed so far: somebody else has the port.
    with pytest.raises(PortTaken):
        asked.start("c1", "one")
    with pytest.raises(LimitRefused):
        asked.start("c1", "one")
    if podman:
        asked.start("c1", "one")
    else:
        with pytest.raises(PortTaken):
            asked.start("c1", "one")
    assert client.whats.count(start) == (5 if podman else 3)


def test_a_container_that_starts_is_started() -> None:
    asked, client = engine()
    asked.start("c1", "one")
    asked.create(ONE, OWN, "n")
    assert limits(client) == [("nofile", 4096, 4096)]


def test_a_paused_container_goes_on() -> None:
    asked, client = engine(
        {"POST /containers/c1/start": Refused(500, "cannot start a paused container, try unpause instead")}
    )
    asked.start("c1", "one")
    assert client.whats[-1] == "POST /containers/c1/unpause"


@pytest.mark.parametrize(
    "words", ["Bind for 127.0.0.1:3306 failed: port is already allocated", "address already in use"]
)
def test_a_port_that_was_taken_meanwhile_is_not_ours(words: str) -> None:
    asked, _ = engine({"POST /containers/c1/start": Refused(500, words)})
    with pytest.raises(PortTaken, match=f"cannot publish a port of one: .*{words}") as caught:
        asked.start("c1", "one")
    assert "devenv.yaml" in caught.value.hint


def test_any_other_refusal_to_start_names_the_service() -> None:
    asked, _ = engine({"POST /containers/c1/start": Refused(500, "no such program")})
    with pytest.raises(ServiceFailed, match="cannot start one: no such program") as caught:
        asked.start("c1", "one")
    assert "devenv logs one" in caught.value.hint


# ---- building ----------------------------------------------------------------------------------------------------


BUILD, PULL = "POST /build", "POST /images/create"


def test_a_failed_build_shows_the_end_of_the_failing_step() -> None:
    said = says(
        {"stream": "Step 1/2 : FROM x\n"},
        {"stream": "fine\n"},
        {"stream": "STEP 2/2: RUN y\n"},
        {"stream": "\x1b[91mno such package\n\x1b[0m"},
        {"error": "returned 100"},
    )
    told: list[str] = []
    with pytest.raises(ServiceFailed, match="cannot build image i:1: STEP 2/2: RUN y failed: returned 100") as caught:
        engine({BUILD: said})[0].build("i:1", io.BytesIO(), {}, {}, told.append)
    assert caught.value.detail == ("STEP 2/2: RUN y", "no such package")
    assert told[:4] == ["Step 1/2 : FROM x", "fine", "STEP 2/2: RUN y", "no such package"]


def test_a_failed_build_leaves_out_the_middle_of_a_long_script() -> None:
    script = "RUN set -eu; " + "true; " * 200 + "false"
    told = says({"stream": f"STEP 3/6: {script}\n"}, {"error": f'building at STEP "{script}": exit status 1'})
    asked, _ = engine({"POST /build": told})
    with pytest.raises(ServiceFailed, match=r"cannot build image i:1: STEP 3/6: RUN set .* exit status 1$") as it:
        asked.build("i:1", pack({}), {}, {}, lambda _: None)
    assert len(it.value.message) < 300
    full = says({"error": f"{script}: no space left on device: {script}"})
    with pytest.raises(NoSpace):
        engine({"POST /build": full})[0].build("i:1", pack({}), {}, {}, lambda _: None)


TOO_MUCH = "error running container: error setting rlimits for ready process: operation not permitted\n"


@pytest.mark.parametrize("podman", [True, False], ids=["Podman", "Docker"])
def test_a_build_asks_for_less_where_podman_may_not_have_what_it_usually_asks_for(podman: bool) -> None:
    refused = says({"stream": TOO_MUCH}, {"error": "exit status 1"})
    asked, client = engine({BUILD: refused})
    client.podman = podman
    client.then = {BUILD: {BUILD: says({"stream": "done\n"})}}
    if podman:
        asked.build("i:1", pack({"one": b"1"}), {}, {}, lambda _: None)
        first, second = (body for what, _, body in client.asked if what == BUILD)
        assert first == second != b""
        assert json.loads(client.query(BUILD)["ulimits"]) == ["nofile=1024:4096", "nproc=1024:4096"]
    else:
        with pytest.raises(ServiceFailed, match="exit status 1"):
            asked.build("i:1", pack({}), {}, {}, lambda _: None)


def test_a_build_that_may_not_have_less_either_fails() -> None:
    asked, client = engine({BUILD: says({"stream": TOO_MUCH}, {"error": "exit status 1"})})
    client.podman = True
    with pytest.raises(ServiceFailed, match="exit status 1"):
        asked.build("i:1", pack({}), {}, {}, lambda _: None)


def test_an_interrupt_ends_a_build_in_the_middle_of_a_step() -> None:
    def interrupted(text: str) -> None:
        if text == "2":
            raise Cancelled

    class Slow(Requests):
        """Says one line after the other, and knows whether somebody wants more."""

        def __init__(self) -> None:
            super().__init__({})
            self.left, self.ended = ["Step 1/1 : RUN x", "1", "2", "3"], False

        def lines(self, *_: Any) -> Generator[bytes, None, None]:
            try:
                while self.left:
                    yield says({"stream": self.left.pop(0)})
            finally:
                self.ended = True

    slow = Slow()
    with pytest.raises(Cancelled):
        Docker(SimpleNamespace(client=slow, url="unix:///x")).build("i:1", io.BytesIO(), {}, {}, interrupted)  # type: ignore[arg-type]
    assert slow.left == ["3"] and slow.ended


def test_a_build_gets_its_files_its_arguments_and_no_login(docker_config: Path) -> None:
    docker_config.write_text('{"auths": {"docker.io": {"auth": "dTpw"}}, "credsStore": "fails"}')
    asked, client = engine({BUILD: says({"stream": "done"})})
    asked.build("i:1", io.BytesIO(b"tar"), {"A": "1"}, {"l": "2"}, lambda _: None)
    query = {"t": "i:1", "buildargs": '{"A": "1"}', "labels": '{"l": "2"}', "rm": True, "forcerm": True}
    assert client.asked == [(BUILD, query, b"tar")] and client.headers == {}


NEAR = "http://user:s3cret@127.0.0.1:3128"


def test_a_build_with_a_proxy_on_the_loopback_runs_on_the_hosts_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NEAR)
    here = {"KernelVersion": platform.release(), "SystemTime": ""}
    asked, client = engine({BUILD: says({"stream": "done"}), "GET /info": here})
    asked.build("i:1", io.BytesIO(), {"BASE": "b"}, {}, lambda _: None)
    assert client.query(BUILD)["networkmode"] == "host"
    given = json.loads(str(client.query(BUILD)["buildargs"]))
    assert given == {"BASE": "b", "http_proxy": NEAR, "HTTP_PROXY": NEAR}


def test_a_build_that_fails_without_a_proxy_that_was_left_out_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NEAR)
    asked, client = engine({BUILD: says({"error": "no network"}), "GET /info": {"SecurityOptions": ["name=rootless"]}})
    with pytest.raises(ServiceFailed, match="cannot build image i:1") as caught:
        asked.build("i:1", io.BytesIO(), {}, {}, lambda _: None)
    left_out = "http_proxy left out: a build on rootless Docker Engine at unix:///x cannot reach a proxy on"
    assert f"tries again; {left_out}" in caught.value.hint and "s3cret" not in caught.value.hint
    assert "networkmode" not in client.query(BUILD) and client.query(BUILD)["buildargs"] == "{}"


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [("mysql:8", "mysql", "8"), ("r:5000/a/b:1", "r:5000/a/b", "1"), ("mysql@sha256:1", "mysql", "sha256:1")],
)
def test_an_image_is_pulled_by_tag_or_digest(reference: str, name: str, tag: str) -> None:
    asked, client = engine({PULL: says({"status": "Pulling"}, {"id": "x"})})
    told: list[str] = []
    asked.pull(reference, told.append)
    assert client.asked == [(PULL, {"fromImage": name, "tag": tag}, b"")] and client.headers == {}
    assert told == ["Pulling", ""]


def test_a_pull_that_fails_half_way_is_a_clear_error() -> None:
    with pytest.raises(ServiceFailed, match="cannot pull image mysql:8: no space left"):
        engine({PULL: says({"error": "no space left"})})[0].pull("mysql:8", lambda _: None)


def test_a_pull_sends_the_users_login(docker_config: Path) -> None:
    docker_config.write_text('{"auths": {"r:5000": {"auth": "dTpw"}}}')
    asked, client = engine({PULL: says({"status": "done"})})
    asked.pull("r:5000/a:1", lambda _: None)
    assert list(client.headers) == ["X-Registry-Auth"]
    asked.pull("other:5000/a:1", lambda _: None)
    assert client.headers == {}


def test_a_push_sends_the_users_login_and_leaves_no_name_behind(docker_config: Path) -> None:
    docker_config.write_text('{"auths": {"r:5000": {"auth": "dTpw"}}}')
    name, tagging, push = (
        "r:5000/team/devenv/etcd",
        "POST /images/devenv/etcd:1/tag",
        "POST /images/r:5000/team/devenv/etcd/push",
    )
    answers = {"GET /images/json": [], tagging: None, push: says({"status": "done"}), f"DELETE /images/{name}:1": []}
    asked, client = engine(answers)
    asked.push("devenv/etcd:1", f"{name}:1", lambda _: None)
    assert list(client.headers) == ["X-Registry-Auth"] and client.headers["X-Registry-Auth"] != "e30="
    assert [what for what, *_ in client.asked] == [*answers]
    asked, client = engine({**answers, push: says({"error": "denied"})})
    docker_config.write_text("{}")
    with pytest.raises(ServiceFailed, match=f"cannot push image {name}:1: denied") as caught:
        asked.push("devenv/etcd:1", f"{name}:1", lambda _: None)
    assert "docker login" in caught.value.hint
    # An engine refuses a push without this header.
    assert client.headers == {"X-Registry-Auth": "e30="}
    assert client.asked[-1][0] == f"DELETE /images/{name}:1"


def test_a_pull_that_fails_for_want_of_a_login_names_the_helper_that_gave_none(docker_config: Path) -> None:
    docker_config.write_text('{"credsStore": "nowhere"}')
    engine({PULL: says({"status": "done"})})[0].pull("mysql:8", lambda _: None)
    with pytest.raises(ServiceFailed, match="cannot pull image mysql:8: denied") as caught:
        engine({PULL: says({"error": "denied"})})[0].pull("mysql:8", lambda _: None)
    assert caught.value.hint.startswith("docker-credential-nowhere is not installed, so devenv pulled without a login")


@pytest.fixture
def docker_config(own_world: Path) -> Path:
    (own_world / "docker").mkdir(parents=True)
    return own_world / "docker/config.json"


def test_an_image_that_is_in_use_is_not_removed() -> None:
    assert engine()[0].remove_image("i") is True
    assert engine({"DELETE /images/i": Refused(409, "in use")})[0].remove_image("i") is False
    with pytest.raises(ServiceFailed):
        engine({"DELETE /images/i": Refused(500, "oops")})[0].remove_image("i")


MADE = b'{"status": "Importing"}\r\n{"status": "sha256:1"}\r\n'


def test_an_image_is_imported_with_its_labels(tmp_path: Path) -> None:
    (tmp_path / "base.tar").write_bytes(b"tar")
    asked, client = engine({"POST /images/create": MADE})
    asked.import_image("devenv/base:1", tmp_path / "base.tar", {"a": "b"})
    query = {"fromSrc": "-", "repo": "devenv/base:1", "changes": ['LABEL a="b"']}
    assert client.asked == [("POST /images/create", query, b"tar")]


def test_data_that_cannot_be_kept_is_a_clear_error() -> None:
    asked, _ = engine({"POST /images/create": MADE + b'{"error": "no space left on device"}'})
    with pytest.raises(ServiceFailed, match="cannot keep data as devenv/g:1: no space left on device"):
        asked.import_data("devenv/g:1", [b"tar"], {})


def test_what_is_no_message_is_not_an_engines() -> None:
    with pytest.raises(NoEngine, match="cannot keep data as devenv/g:1"):
        engine({"POST /images/create": b"<html>"})[0].import_data("devenv/g:1", [], {})


# ---- what containers hold and say --------------------------------------------------------------------------------


def test_a_log_is_taken_out_of_its_frames() -> None:
    def frame(output: int, text: str) -> bytes:
        return bytes([output, 0, 0, 0]) + len(text.encode()).to_bytes(4, "big") + text.encode()

    framed = frame(1, "first\nsec") + frame(2, "") + frame(2, "ond ü\n") + b"\1\0\0"
    asked, client = engine({"GET /containers/c1/logs": framed})
    assert asked.logs("c1", 20) == ["first", "second ü"]
    assert client.query("GET /containers/c1/logs") == {"stdout": True, "stderr": True, "tail": 20, "timestamps": False}


def test_a_folder_is_read_as_it_comes() -> None:
    asked, client = engine({"GET /containers/c1/archive": b"tar"})
    assert list(asked.read_folder("c1", "/var/lib/x")) == [b"tar"]
    assert client.query("GET /containers/c1/archive") == {"path": "/var/lib/x"}


def test_a_container_gets_its_time_to_stop() -> None:
    asked, client = engine()
    asked.stop("c1", 30)
    assert client.asked == [("POST /containers/c1/stop", {"t": 30}, b"")]


@pytest.mark.parametrize(
    ("what", "act"),
    [
        ("POST /containers/x/stop", lambda asked: asked.stop("x", 1)),
        ("POST /containers/x/unpause", lambda asked: asked.unpause("x")),
        ("DELETE /containers/x", lambda asked: asked.remove("x")),
        ("DELETE /networks/x", lambda asked: asked.remove_network("x")),
        ("DELETE /volumes/x", lambda asked: asked.remove_volume("x")),
    ],
)
def test_what_is_gone_is_gone(what: str, act: Any) -> None:
    act(engine({what: Refused(404, "no such thing")})[0])
    with pytest.raises(ServiceFailed, match=r"cannot .*: it is in use"):
        act(engine({what: Refused(409, "it is in use"), "GET /containers/json": [listed("c1", {})]})[0])


# ---- what the engine makes late for a killed devenv --------------------------------------------------------------

IN_USE = Refused(409, "remove v: volume is in use - [0123]")
FILLER = {**listed("late", {}), "Names": ["/devenv-e-one-data-fill"], "State": "created"}
UNKNOWN = Refused(404, "no such container")


def in_use(*users: Any, until: str, **answers: Any) -> tuple[Docker, Requests]:
    """Return an engine that refuses to remove volume v, which has these users in turn, until that request."""
    asked, client = engine({"DELETE /volumes/v": IN_USE, "GET /containers/json": Turns(users), **answers})
    client.then[until] = {"DELETE /volumes/v": {}}
    return asked, client


@pytest.mark.parametrize("name", ["devenv-e-one-data-fill", "devenv-e-one"])
def test_a_container_that_the_engine_made_late_goes_before_its_volume(name: str) -> None:
    asked, client = in_use([{**FILLER, "Names": [f"/{name}"]}], until="DELETE /containers/late")
    asked.remove_volume("v")
    assert client.whats[-2:] == ["DELETE /containers/late", "DELETE /volumes/v"]
    assert client.query("GET /containers/json") == {"all": True, "filters": {"volume": "v"}}


def test_a_container_that_the_engine_still_makes_is_waited_for_where_it_is_not_listed() -> None:
    asked, client = in_use([], [], [FILLER], until="DELETE /containers/late")
    asked.remove_volume("v")
    assert client.whats.count("DELETE /volumes/v") == 4


def test_a_container_that_the_engine_still_makes_is_waited_for_where_it_is_listed() -> None:
    # Docker 20.10 lists it, and knows nothing of it when it is to be removed.
    asked, client = in_use([FILLER], until="GET /volumes/v")
    client.answers |= {"DELETE /containers/late": UNKNOWN, "DELETE /volumes/v": Turns([IN_USE, IN_USE, {}])}
    client.then.clear()
    asked.remove_volume("v")
    assert client.whats.count("DELETE /containers/late") == 2


@pytest.mark.parametrize(
    "user",
    [
        {**FILLER, "State": "running"},
        {**FILLER, "Names": ["/copy"]},
        {**FILLER, "Labels": {**FILLER["Labels"], LABEL_OWNER: "other"}},
        {**FILLER, "Labels": None},
    ],
    ids=["it runs", "another name", "another token", "no label"],
)
def test_a_container_that_was_not_made_late_keeps_its_volume(user: Any) -> None:
    asked, client = in_use([{**user, "Id": "stranger"}, FILLER], until="DELETE /containers/late")
    with pytest.raises(ServiceFailed, match="cannot remove volume v: remove v: volume is in use"):
        asked.remove_volume("v")
    assert "DELETE /containers/stranger" not in client.whats and client.whats.count("DELETE /volumes/v") == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the engine, in a test that froze the time."""
    monkeypatch.setattr("devenv.engine.containers.LATE_SECONDS", 0)
    monkeypatch.setattr(time, "monotonic", lambda: 1326499200.0)


@pytest.mark.usefixtures("impatient")
def test_a_volume_whose_user_never_shows_is_not_waited_for_without_end() -> None:
    with pytest.raises(ServiceFailed, match="cannot remove volume v"):
        in_use([], until="never")[0].remove_volume("v")


def test_a_name_of_a_container_that_the_engine_still_makes_is_waited_for() -> None:
    visible = {"Id": "late", "Config": {"Labels": OWN}}
    asked, client = engine({"GET /containers/devenv-env-one/json": Turns([UNKNOWN, UNKNOWN, visible])})
    client.answers[CREATE] = Refused(409, "it is there")
    client.then["DELETE /containers/late"] = {CREATE: {"Id": "c2"}}
    assert asked.create(ONE, OWN, "n") == "c2"


@pytest.mark.usefixtures("impatient")
def test_a_name_that_nothing_shows_is_not_waited_for_without_end() -> None:
    asked, _ = engine({"GET /containers/devenv-env-one/json": UNKNOWN, CREATE: Refused(409, "it is there")})
    with pytest.raises(NotOurs, match="cannot create devenv-env-one"):
        asked.create(ONE, OWN, "n")


@pytest.mark.parametrize("user", [FILLER, {**FILLER, "Id": "stranger", "Labels": {}}], ids=["late", "a stranger"])
def test_a_network_goes_with_what_was_made_late_on_it_and_with_nothing_else(user: Any) -> None:
    refused = Refused(500, "network n is being used by the following container(s): late")
    asked, client = engine({"DELETE /networks/n": refused, "GET /containers/json": [user]})
    client.then["DELETE /containers/late"] = {"DELETE /networks/n": {}}
    if user is FILLER:
        asked.remove_network("n")
        assert client.whats[-2:] == ["DELETE /containers/late", "DELETE /networks/n"]
    else:
        with pytest.raises(ServiceFailed, match="cannot remove network n"):
            asked.remove_network("n")
        assert "DELETE /containers/stranger" not in client.whats


@pytest.mark.parametrize("kill", [None, Refused(409, "x is not running"), Refused(404, "no such container")])
def test_podman_kills_what_devenv_removes_as_docker_does(kill: Any) -> None:
    asked, client = engine({"POST /containers/x/kill": kill})
    client.podman = True
    asked.remove("x")
    assert client.whats == ["POST /containers/x/kill", "DELETE /containers/x"]
    assert client.query("POST /containers/x/kill") == {"signal": "KILL"}


IN_PROGRESS = Refused(409, "removal of container x is already in progress")


def test_what_another_one_removes_is_waited_for() -> None:
    asked, client = engine({"DELETE /containers/x": IN_PROGRESS})
    asked.remove("x")
    assert client.asked[-1] == ("POST /containers/x/wait", {"condition": "removed"}, b"")


def test_what_another_one_fails_to_remove_is_not_gone() -> None:
    failed = {"StatusCode": 0, "Error": {"Message": "its layer is busy"}}
    asked, _ = engine({"DELETE /containers/x": IN_PROGRESS, "POST /containers/x/wait": failed})
    with pytest.raises(ServiceFailed, match="cannot remove container x: its layer is busy"):
        asked.remove("x")


IMPROPER = Refused(500, "container state improper")


@pytest.mark.parametrize(
    ("act", "again"),
    [(lambda asked: asked.start("c", "etcd"), []), (lambda asked: asked.stop("c", 1), ["POST /containers/c/stop"])],
    ids=["start", "stop"],
)
def test_what_stands_still_goes_on_where_podman_does_not_say_that_it_does(act: Any, again: list[str]) -> None:
    paused = {"GET /containers/c/json": {"State": {"Status": "paused"}}}
    asked, client = engine({**paused, "POST /containers/c/start": IMPROPER, "POST /containers/c/stop": IMPROPER})
    client.podman = True
    client.then["POST /containers/c/unpause"] = {"POST /containers/c/stop": {}}
    act(asked)
    assert client.whats[1:] == ["GET /containers/c/json", "POST /containers/c/unpause", *again]
    client.answers["GET /containers/c/json"] = {"State": {"Status": "created"}}
    client.answers |= {"POST /containers/c/start": IMPROPER, "POST /containers/c/stop": IMPROPER}
    with pytest.raises(ServiceFailed, match="container state improper"):
        act(asked)


def test_what_is_read_of_a_container_and_not_whole_is_one_clear_line() -> None:
    asked, client = engine({"GET /containers/c/archive": pack({"member": b"1" * 2000}).getvalue()[:1000]})
    client.podman = True
    with pytest.raises(ServiceFailed, match="cannot read /var/lib/etcd of container c: the archive breaks off"):
        list(asked.read_folder("c", "/var/lib/etcd"))
