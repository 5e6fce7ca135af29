"""devenv reports objects that carry an environment's labels but are not its own, and leaves them alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from project import Project, one_clear_line, ours

TOLD = "left alone, labelled as this environment's and not made by it: "
# In an order in which each command finds what it needs, after an `up`.
COMMANDS = [
    ("up",),
    ("plan",),
    ("status",),
    ("restart",),
    ("snapshot", "save", "one"),
    ("snapshot", "restore", "one"),
    ("reset",),
    ("stop",),
    ("start",),
    ("down",),
    ("up",),
    ("down", "--volumes"),
    ("run", "--", "true"),
]
FORGED = {"io.devenv.owner": "0" * 32, "io.devenv.service": "etcd"}


class Forger:
    """Makes things with the labels of an environment of etcd, and remembers what they are like."""

    def __init__(self, project: Project, client: docker.DockerClient) -> None:
        self._client, self.id = client, project.id
        self._image = project.json("images", "list")[-1]["reference"]
        self.things: dict[str, Any] = {}

    def make(self, kind: str, name: str, runs: bool = False, labels: Mapping[str, str] = FORGED) -> str:
        """Make a thing; return what devenv has to call it."""
        labels = {**labels, "io.devenv.environment": self.id}
        if kind == "container":
            command = {"entrypoint": "sleep", "command": ["1000"], "network_mode": "none"}
            made = self._client.containers.create(self._image, name=name, labels=labels, **command)
        else:
            made = getattr(self._client, f"{kind}s").create(name, labels=labels)
        if runs:
            made.start()
        made.reload()
        self.things[f"{kind} {name}"] = made.attrs, made
        return f"{kind} {name}"

    def check(self) -> None:
        """Check that nothing about them has changed."""
        for name, (before, made) in self.things.items():
            made.reload()
            assert made.attrs == before, name

    def remove(self, thing: str) -> None:
        _before, made = self.things.pop(thing)
        made.remove(**({} if thing.startswith("network ") else {"force": True}))


@pytest.fixture
def etcd(project: Project) -> Project:
    project.configure("profile: coordination\n")
    return project


@pytest.fixture
def forger(etcd: Project, client: docker.DockerClient) -> Iterator[Forger]:
    forger = Forger(etcd, client)
    yield forger
    for thing in [*forger.things]:
        forger.remove(thing)


def lose_record(project: Project, *more: str) -> None:
    for name in ("record.json", *more):
        (path,) = project.state.glob(f"environments/*/{name}")
        path.unlink()


def labelled(forger: Forger, client: docker.DockerClient) -> set[str]:
    """Return all that carries the environment's label, in words."""
    found = ours(client, forger.id)
    return {f"{kind.removesuffix('s')} {name}" for kind, names in found.items() for name in names}


def test_every_command_tells_of_strangers_and_leaves_them_alone(
    etcd: Project, client: docker.DockerClient, forger: Forger
) -> None:
    etcd.devenv("up")
    # `docker commit` copies labels into an image, and a container inherits them from there.
    labels = client.containers.get(f"devenv-{forger.id}-etcd").labels
    strangers = {
        forger.make("container", f"copy-{forger.id}", labels=labels),
        forger.make("container", f"xyz-{forger.id}", runs=True),
        forger.make("network", f"xyz-{forger.id}"),
        forger.make("volume", f"xyz-{forger.id}"),
        forger.make("volume", f"xyz-{forger.id}-files", labels={}),
    }
    for command in COMMANDS:
        done = etcd.devenv(*command)
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(TOLD)]
        assert {*line.removeprefix(TOLD).split(", ")} == strangers, command
        forger.check()
    assert labelled(forger, client) == strangers
    etcd.devenv("snapshot", "rm", "one")


def test_gc_takes_what_a_killed_run_left_and_no_strangers(
    etcd: Project, client: docker.DockerClient, forger: Forger
) -> None:
    strangers = {forger.make("container", f"xyz-{forger.id}", runs=True), forger.make("volume", f"xyz-{forger.id}")}
    etcd.killed_after("start etcd", "run", "--", "true")
    assert labelled(forger, client) > strangers
    assert TOLD in etcd.devenv("gc").stderr
    forger.check()
    assert labelled(forger, client) == strangers


def test_an_environment_that_is_gone_is_on_record_as_long_as_there_are_strangers(
    etcd: Project, client: docker.DockerClient, forger: Forger, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    here = Project(tmp_path / "here", etcd.state)
    etcd.devenv("up")
    # Without a token on record, devenv would trust this stranger's.
    stranger = forger.make("volume", f"devenv-{forger.id}-etcd-data2")
    etcd.folder.rename(tmp_path / "away")
    remove = ("gc", "--keep", "100000", "--remove", forger.id)
    assert TOLD + stranger in here.devenv(*remove).stderr
    assert labelled(forger, client) == {stranger}
    forger.check()
    # With the folder back, the volume is still a stranger, and devenv does not take its data for the environment's.
    (tmp_path / "away").rename(etcd.folder)
    assert TOLD + stranger in etcd.devenv("up").stderr
    etcd.devenv("down", "--volumes")
    forger.check()
    etcd.folder.rename(tmp_path / "away")
    forger.remove(stranger)
    here.devenv(*remove)
    assert here.devenv("gc", "--keep", "100000").stdout == "nothing to remove\n"
    (tmp_path / "away").rename(etcd.folder)


def test_a_stranger_with_the_very_name_ends_an_up_before_anything_is_done(
    etcd: Project, client: docker.DockerClient, forger: Forger
) -> None:
    etcd.devenv("up")
    etcd.devenv("snapshot", "save", "one")
    (secrets,) = etcd.state.glob("environments/*/secrets.json")
    before = secrets.read_bytes()
    etcd.devenv("down")

    def refused(stranger: str, *command: str) -> None:
        there = labelled(forger, client)
        name = stranger.partition(" ")[2]
        one_clear_line(etcd.devenv(*command, check=False), 7, f"cannot create {name}: a {stranger}")
        assert labelled(forger, client) == there
        forger.check()

    network = forger.make("network", f"devenv-{forger.id}")
    refused(network, "up")
    forger.remove(network)
    container = forger.make("container", f"devenv-{forger.id}-etcd", runs=True)
    for command in ["up"], ["plan"], ["reset"], ["snapshot", "restore", "one"]:
        refused(container, *command)
    assert secrets.read_bytes() == before
    etcd.devenv("down", "--volumes")
    assert labelled(forger, client) == {container}
    # After that, `up` still does not trust what has its names.
    refused(container, "up")
    volume = forger.make("volume", f"devenv-{forger.id}-etcd-data")
    forger.remove(container)
    refused(volume, "run", "--", "true")
    etcd.devenv("snapshot", "rm", "one")


def test_after_the_record_was_lost_up_goes_on_and_down_leaves_nothing(
    etcd: Project, client: docker.DockerClient, forger: Forger
) -> None:
    stranger = forger.make("container", f"xyz-{forger.id}", runs=True)
    etcd.devenv("up")
    before = labelled(forger, client)
    lose_record(etcd)
    assert "nothing to do" in etcd.devenv("up").stdout
    lose_record(etcd, "secrets.json")
    etcd.devenv("up")
    etcd.devenv("down")
    # devenv recognises data alone, too: by the volume's name.
    (volume,) = ours(client, forger.id)["volumes"]
    made = client.volumes.get(volume).attrs["CreatedAt"]
    lose_record(etcd)
    etcd.devenv("up")
    assert client.volumes.get(volume).attrs["CreatedAt"] == made
    assert {name for name in labelled(forger, client) if forger.id in name} == {n for n in before if forger.id in n}
    # If somebody removes a container, the volume of its files stays, which has no name.
    client.containers.get(f"devenv-{forger.id}-etcd").remove(force=True)
    lose_record(etcd)
    etcd.devenv("down", "--volumes")
    assert labelled(forger, client) == {stranger}
    forger.check()
