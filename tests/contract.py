"""Test what every engine promises: one suite over the verbs of `Engine`, for the fake in memory and for real ones.

A module that runs it imports everything from here and defines two fixtures: `subject`, the engine, and `image`, the
reference of an image with a shell that the engine has.
"""

from __future__ import annotations

import io
import secrets
import select
import socket
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from devenv.engine.ownership import filler
from devenv.engine.protocol import CONFIG_FOLDER, DATA_FOLDER, Engine, Session
from devenv.engine.tar import pack
from devenv.errors import NotOurs, PortTaken, ServiceFailed
from devenv.model import (
    LABEL_ENVIRONMENT,
    LABEL_OWNER,
    LABEL_SERVICE,
    SHARED,
    ContainerOptions,
    Desired,
    DesiredService,
    Image,
)


@dataclass(frozen=True)
class Program:
    """A script for a container's shell, and its effects, which an engine in memory imitates.

    It writes files, then logs lines, then ends with its code; without a code, it runs until somebody stops it.
    """

    script: str
    lines: tuple[str, ...] = ()
    code: int | None = None
    writes: Mapping[str, bytes] = field(default_factory=dict)


_WAITS = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done"
WAITS = Program(_WAITS, ("ready",))
ENDS = Program("echo one; echo two; echo three; exit 3", ("one", "two", "three"), 3)
WRITES = Program(
    f"echo kept > /var/lib/one/data/file; {_WAITS}", ("ready",), writes={"/var/lib/one/data/file": b"kept\n"}
)
PROGRAMS = (WAITS, ENDS, WRITES)
# A command to run inside, which an engine in memory knows, too: it says what it reads, complains, and ends with 5.
ECHO = ("sh", "-c", "cat; echo failed >&2; exit 5")


class Bench:
    """One environment on an engine: creates what a test needs, under names of its own, and removes all of it."""

    def __init__(self, engine: Engine, image: str) -> None:
        self.engine, self.image = engine, image
        self.environment, self.owner = f"contract-{secrets.token_hex(4)}", secrets.token_hex(8)
        self.labels = {LABEL_ENVIRONMENT: self.environment, LABEL_OWNER: self.owner}
        # Labels of an environment with the same name and another token.
        self.strange = {**self.labels, LABEL_OWNER: secrets.token_hex(8)}
        self.tags: list[str] = []
        self._network = ""

    @property
    def network_name(self) -> str:
        return f"devenv-{self.environment}"

    @property
    def network(self) -> str:
        """Return the id of the environment's network; create the network at first use."""
        self._network = self._network or self.engine.create_network(self.network_name, self.labels)
        return self._network

    def service(self, program: Program = WAITS, name: str = "one", **more: Any) -> DesiredService:
        options = ContainerOptions(entrypoint=("sh", "-c"), command=(program.script,))
        # Durable: what is not may go with its container.
        what = {"image": Image(self.image, "pull", name), "config_hash": "h1", "parts": {"image": "1"}} | more
        what.setdefault("durable", True)
        return DesiredService(name, f"{name}-role", container=f"{self.network_name}-{name}", options=options, **what)

    def volume(self, name: str = "one") -> str:
        return f"{self.network_name}-{name}-data"

    def created(self, program: Program = WAITS, name: str = "one", **more: Any) -> str:
        return self.engine.create(self.service(program, name, **more), self.labels, self.network)

    def created_on(self, network: str, **more: Any) -> str:
        return self.engine.create(self.service(**more), self.labels, network)

    def running(self, program: Program = WAITS, name: str = "one", **more: Any) -> str:
        """Start a container; return it once its program has done what it does before it waits."""
        container = self.created(program, name, **more)
        self.engine.start(container, name)
        with closing(self.engine.follow(container)) as lines:  # type: ignore[type-var]
            assert next(lines) == "ready"
        return container

    def ended(self, program: Program = ENDS, name: str = "one") -> str:
        """Start a container that ends by itself; return it once the engine knows that it ended."""
        container = self.created(program, name)
        self.engine.start(container, name)
        assert [*self.engine.follow(container)] == [*program.lines]
        deadline = time.monotonic() + 20
        while self.engine.state(container).status == "running" and time.monotonic() < deadline:
            time.sleep(0.02)
        return container

    def tag(self, kind: str) -> str:
        """Return a name for an image; `clear` removes the image that has it."""
        self.tags.append(f"devenv/contract:{self.environment}-{kind}")
        return self.tags[-1]

    def observe(self) -> Any:
        return self.engine.observe(self.environment, self.owner)

    def clear(self) -> None:
        for owner in (self.owner, self.strange[LABEL_OWNER]):
            found = self.engine.observe(self.environment, owner)
            for container in (*found.containers.values(), *found.extra):
                self.engine.remove(container.id)
            for volume in (*found.volumes, *self.engine.leftover_volumes(self.environment, owner)):
                self.engine.remove_volume(volume)
            for network in found.networks:
                self.engine.remove_network(network)
        for tag in self.tags:
            self.engine.remove_image(tag)
        left = self.engine.observe(self.environment, self.owner)
        assert (left.containers, left.volumes, left.networks, left.strangers) == ({}, {}, (), ())


@pytest.fixture
def bench(subject: Engine, image: str) -> Iterator[Bench]:
    one = Bench(subject, image)
    try:
        yield one
    finally:
        one.clear()


def entries(stream: Iterable[bytes]) -> dict[str, tarfile.TarInfo]:
    """Return what a tar stream holds, by name; a regular file's content is among its pax headers."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream)), mode="r:") as archive:
        found = {}
        for entry in archive:
            content = archive.extractfile(entry) if entry.isreg() else None
            entry.pax_headers = {"content": content.read().decode() if content else ""}
            found[entry.name.rstrip("/")] = entry
        return found


def text(entry: tarfile.TarInfo) -> str:
    return entry.pax_headers["content"]


def said(session: Session, words: bytes = b"") -> dict[int, bytes]:
    """Return what a command says on each output, after these words and the end of its input."""
    found = {1: b"", 2: b""}
    with session.stream as stream:
        stream.sendall(words)
        stream.shutdown(socket.SHUT_WR)
        pieces = [b""]
        while select.select([stream], [], [], 20)[0] and (data := stream.recv(65536)):
            pieces.append(data)
    for output, part in (part for data in pieces for part in session.output(data)):
        found[output] += part
    return found


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


# ---- the engine --------------------------------------------------------------------------------------------------


def test_an_engine_says_what_it_is(subject: Engine) -> None:
    about = subject.about()
    assert about.name and about.version and subject.url


def test_what_does_not_exist_cannot_be_looked_at_or_started(subject: Engine) -> None:
    for act in (subject.state, subject.inspect, subject.logs, lambda one: subject.start(one, "one")):
        with pytest.raises(ServiceFailed, match="cannot "):
            act("devenv-contract-none")


def test_what_is_gone_is_stopped_and_removed_already(subject: Engine) -> None:
    subject.stop("devenv-contract-none", 1)
    subject.unpause("devenv-contract-none")
    subject.remove("devenv-contract-none")
    subject.remove_network("devenv-contract-none")
    subject.remove_volume("devenv-contract-none")
    assert subject.remove_image("devenv/contract:none") is False


# ---- networks and volumes ----------------------------------------------------------------------------------------


def test_a_network_is_created_once_and_found_by_its_environment(bench: Bench) -> None:
    network = bench.network
    assert bench.engine.create_network(bench.network_name, bench.labels) == network
    assert bench.observe().networks == (network,)
    assert bench.environment in bench.engine.with_networks()
    bench.engine.remove_network(network)
    assert bench.observe().networks == () and bench.environment not in bench.engine.with_networks()


def test_a_name_that_a_stranger_has_is_not_used(bench: Bench) -> None:
    bench.engine.create_network(bench.network_name, bench.strange)
    with pytest.raises(NotOurs, match=f"cannot create {bench.network_name}"):
        bench.engine.create_network(bench.network_name, bench.labels)
    (network,) = bench.engine.observe(bench.environment, bench.strange[LABEL_OWNER]).networks
    bench.engine.create(bench.service(volumes={bench.volume(): "/var/lib/one"}), bench.strange, network)
    with pytest.raises(NotOurs, match=f"cannot use volume {bench.volume()}"):
        bench.created_on(network, volumes={bench.volume(): "/var/lib/one"})
    with pytest.raises(NotOurs, match=f"cannot create {bench.network_name}-one"):
        bench.created_on(network)


def test_what_carries_another_token_is_a_stranger_and_its_names_are_refused(bench: Bench) -> None:
    network = bench.engine.create_network(bench.network_name, bench.strange)
    service = bench.service(volumes={bench.volume(): "/var/lib/one"})
    bench.engine.create(service, bench.strange, network)
    found = bench.observe()
    kinds = {"network": bench.network_name, "container": service.container, "volume": bench.volume()}
    assert {f"{kind} {name}" for kind, name in kinds.items()} <= {*found.strangers}
    assert (found.containers, found.volumes, found.networks, found.owner) == ({}, {}, (), bench.owner)
    with pytest.raises(NotOurs, match="cannot create "):
        bench.engine.check_names(Desired(bench.environment, bench.network_name, {"one": service}), found)


def test_without_a_token_the_one_that_is_found_is_trusted(bench: Bench) -> None:
    assert bench.engine.observe(bench.environment, "").owner == ""
    network = bench.network
    found = bench.engine.observe(bench.environment, "")
    assert (found.owner, found.networks) == (bench.owner, (network,))


def test_a_volume_that_a_container_uses_stays(bench: Bench) -> None:
    container = bench.running(volumes={bench.volume(): "/var/lib/one"})
    assert bench.observe().volumes == {bench.volume(): "one"}
    with pytest.raises(ServiceFailed, match=f"cannot remove volume {bench.volume()}"):
        bench.engine.remove_volume(bench.volume())
    bench.engine.remove(container)
    assert bench.observe().volumes == {bench.volume(): "one"}
    bench.engine.remove_volume(bench.volume())
    assert bench.observe().volumes == {}


def test_what_a_killed_devenv_created_late_is_in_no_removals_way(bench: Bench) -> None:
    bench.created(volumes={bench.volume(): "/var/lib/one"})
    bench.created(name="two")
    bench.engine.remove_volume(bench.volume())
    bench.engine.remove_network(bench.network)
    found = bench.observe()
    assert (found.volumes, found.networks) == ({}, ()) and "one" not in found.containers


# ---- containers --------------------------------------------------------------------------------------------------


def test_a_container_is_created_as_its_service_says_and_does_not_run(bench: Bench) -> None:
    port = free_port()
    container = bench.created(ports={80: port})
    found = bench.observe().containers["one"]
    assert (found.id, found.name, found.service) == (container, f"{bench.network_name}-one", "one")
    assert (found.state, found.running, found.exit_code) == ("created", False, None)
    assert (found.config_hash, found.parts, found.ports) == ("h1", {"image": "1"}, {80: port})
    assert found.image.endswith(bench.image)
    assert bench.engine.state(container).status == "created" and bench.engine.publisher(port) == ""


def test_files_are_in_a_container_before_it_starts(bench: Bench) -> None:
    volume = bench.volume()
    files = {f"{CONFIG_FOLDER}/one.cnf": b"[one]\n", f"{CONFIG_FOLDER}/more/two": b"2"}
    container = bench.created(files=files, volumes={volume: "/var/lib/one"})
    found = entries(bench.engine.read_folder(container, CONFIG_FOLDER))
    assert text(found["devenv/one.cnf"]) == "[one]\n" and text(found["devenv/more/two"]) == "2"
    assert found["devenv/one.cnf"].mode & 0o777 == 0o444
    folder = entries(bench.engine.read_folder(container, "/var/lib/one"))[f"one/{DATA_FOLDER}"]
    assert folder.isdir() and folder.mode & 0o7777 == 0o1777
    # The volume of the files goes with the container.
    assert bench.engine.leftover_volumes(bench.environment, bench.owner) == ()
    bench.engine.remove(container)
    assert (bench.observe().volumes, bench.engine.leftover_volumes(bench.environment, bench.owner)) == (
        {volume: "one"},
        (),
    )


def test_what_a_killed_devenv_created_is_created_again(bench: Bench) -> None:
    first = bench.created()
    second = bench.created()
    found = bench.observe()
    assert first != second and found.containers["one"].id == second and found.extra == ()


def test_a_container_runs_until_it_is_stopped(bench: Bench) -> None:
    container = bench.running()
    assert bench.engine.state(container).status == "running" and bench.observe().runs("one")
    assert bench.observe().containers["one"].networks == (bench.network,)
    bench.engine.start(container, "one")
    bench.engine.stop(container, 10)
    assert (bench.engine.state(container).status, bench.engine.state(container).exit_code) == ("exited", 0)
    assert bench.observe().containers["one"].exit_code == 0
    bench.engine.stop(container, 10)
    bench.engine.start(container, "one")
    assert bench.engine.state(container).status == "running"
    bench.engine.remove(container)
    assert bench.observe().containers == {}


def test_all_environments_are_listed_as_each_one_is_observed(bench: Bench) -> None:
    bench.created(volumes={bench.volume(): "/var/lib/one"}, ports={80: free_port()})
    for owners in ({bench.environment: bench.owner}, {}, {bench.environment: "another"}):
        seen = bench.engine.observe(bench.environment, owners.get(bench.environment, ""))
        assert bench.engine.environments(owners)[bench.environment] == replace(seen, images={}, forwarded=None)
    assert "contract-none" not in bench.engine.environments({"contract-none": "token"})


def test_the_memory_of_a_container_and_the_size_of_its_data_are_measured(bench: Bench) -> None:
    container = bench.running(WRITES, volumes={bench.volume(): "/var/lib/one"})
    # A rootless engine may have no right to measure it.
    memory = bench.engine.memory(container)
    assert memory in range(1, 10**9) or (memory is None and "rootless" in bench.engine.about().name)
    assert bench.engine.volume_sizes()[bench.volume()] in range(len("kept\n"), 10**6)
    bench.engine.remove(container)
    assert bench.engine.memory(container) is None


def test_a_container_that_ended_says_how(bench: Bench) -> None:
    container = bench.ended()
    state = bench.engine.state(container)
    assert (state.status, state.exit_code, state.out_of_memory) == ("exited", 3, False)
    found = bench.observe().containers["one"]
    assert (found.running, found.alive, found.exit_code) == (False, False, 3)


def test_a_port_belongs_to_the_container_that_starts_first(bench: Bench) -> None:
    port = free_port()
    bench.running(ports={80: port})
    assert bench.engine.publisher(port) == f"container {bench.network_name}-one"
    other = bench.created(name="two", ports={80: port})
    with pytest.raises(PortTaken, match="cannot publish a port of two"):
        bench.engine.start(other, "two")


def test_services_know_each_other_by_name(bench: Bench) -> None:
    container = bench.running()
    bench.running(name="two")

    def lookup(name: str) -> int:
        session = bench.engine.execute(container, ["getent", "hosts", name], False)
        said(session)
        return session.exit_code()

    assert lookup(bench.engine.host_name(bench.service(name="two").container, "two")) == 0
    assert lookup("nobody") != 0


# One container each: Docker may take a late event of a container's last unpause for the present, and then says that it
# runs while it is paused.


def test_a_paused_container_stands_still_until_it_is_let_go_on(bench: Bench) -> None:
    engine, container = bench.engine, bench.running()
    engine.pause(container)
    assert engine.state(container).status == "paused" and bench.observe().containers["one"].alive
    engine.unpause(container)
    assert engine.state(container).status == "running"


def test_a_paused_container_that_is_started_goes_on(bench: Bench) -> None:
    engine, container = bench.engine, bench.running()
    engine.pause(container)
    engine.start(container, "one")
    assert engine.state(container).status == "running"


def test_a_paused_container_can_be_stopped(bench: Bench) -> None:
    engine, container = bench.engine, bench.running()
    engine.pause(container)
    engine.stop(container, 10)
    assert engine.state(container).status == "exited"


# ---- logs and commands -------------------------------------------------------------------------------------------


def test_a_log_is_read_whole_or_its_end(bench: Bench) -> None:
    engine, container = bench.engine, bench.ended()
    assert engine.logs(container) == ["one", "two", "three"]
    assert engine.logs(container, 2) == ["two", "three"]
    assert [*engine.follow(container, 1)] == ["three"]
    stamped = engine.logs(container, timestamps=True)
    assert [line.partition(" ")[2] for line in stamped] == ["one", "two", "three"]
    assert all(line.startswith("20") and "T" in line.partition(" ")[0] for line in stamped)
    # In seconds since 1970: long after all of these lines.
    assert engine.logs(container, since=4_000_000_000) == []


def test_a_command_reads_its_input_and_says_how_it_ended(bench: Bench) -> None:
    session = bench.engine.execute(bench.running(), ECHO, False)
    assert said(session, b"words") == {1: b"words", 2: b"failed\n"}
    assert session.exit_code() == 5


# ---- images ------------------------------------------------------------------------------------------------------


def test_a_command_gets_variables_beside_those_of_its_container(bench: Bench) -> None:
    container = bench.running()
    given = {"WORD": "a b"}
    assert said(bench.engine.execute(container, ("printenv", "WORD"), False, given))[1] == b"a b\n"
    assert said(bench.engine.execute(container, ("printenv", "PATH"), False, given))[1]


def test_an_image_is_listed_looked_at_and_removed(bench: Bench) -> None:
    engine, tag = bench.engine, bench.tag("data")
    assert bench.image in engine.images()
    engine.import_data(tag, [pack({"data/file": b"1" * 3000}).read()], {LABEL_ENVIRONMENT: SHARED, "a": "b"})
    identity = engine.images()[tag]
    found = engine.inspect_image(tag)
    assert found["Id"] == identity and found["Config"]["Labels"] == {LABEL_ENVIRONMENT: SHARED, "a": "b"}
    assert len(found["RootFS"]["Layers"]) == 1 and engine.inspect_image(identity)["Id"] == identity
    # Docker's store of containerd says the compressed size in one place and the one on its disk in the other.
    assert engine.image_sizes()[tag] in range(3000, 10**6) and found["Size"] > 0
    assert [tag in image["RepoTags"] for image in engine.devenv_images() if image["Id"] == identity] == [True]
    assert tag in bench.observe().images
    assert engine.remove_image(tag) is True
    assert engine.remove_image(tag) is False and tag not in engine.images()
    with pytest.raises(ServiceFailed, match=f"cannot inspect image {tag}"):
        engine.inspect_image(tag)


def test_an_image_that_a_container_is_of_stays(bench: Bench) -> None:
    tag = bench.tag("used")
    # With the tag in a label: otherwise it would be an image that another run has named, too.
    bench.engine.build(tag, pack({"Dockerfile": f"FROM {bench.image}\n".encode()}), {}, {"a": tag}, lambda _: None)
    assert bench.engine.inspect_image(tag)["Config"]["Labels"]["a"] == tag
    container = bench.created(image=Image(tag, "build", "one"))
    bench.engine.start(container, "one")
    assert bench.engine.remove_image(tag) is False and tag in bench.engine.images()


def test_a_build_that_fails_leaves_no_image(bench: Bench) -> None:
    tag, told = bench.tag("broken"), list[str]()
    dockerfile = f"FROM {bench.image}\nRUN echo because && exit 3\n".encode()
    with pytest.raises(ServiceFailed, match=f"cannot build image {tag}") as caught:
        bench.engine.build(tag, pack({"Dockerfile": dockerfile}), {}, {}, told.append)
    assert "because" in caught.value.detail and "because" in told and tag not in bench.engine.images()


def test_an_image_that_no_registry_has_is_not_pulled(bench: Bench) -> None:
    # Nobody listens there.
    with pytest.raises(ServiceFailed, match=r"cannot pull image 127\.0\.0\.1:9/contract:1"):
        bench.engine.pull("127.0.0.1:9/contract:1", lambda _: None)


def test_data_go_into_an_image_and_from_there_into_a_new_volume(bench: Bench) -> None:
    engine, tag = bench.engine, bench.tag("kept")
    container = bench.running(WRITES, volumes={bench.volume(): "/var/lib/one"})
    engine.pause(container)
    with closing(engine.read_folder(container, "/var/lib/one")) as stream:
        engine.import_data(tag, stream, bench.labels)
    engine.unpause(container)
    engine.fill_volume(bench.volume("two"), tag, "/one", bench.labels, "two")
    assert bench.observe().volumes == {bench.volume(): "one", bench.volume("two"): "two"}
    other = bench.created(name="two", volumes={bench.volume("two"): "/srv/two"})
    assert text(entries(engine.read_folder(other, "/srv/two"))["two/data/file"]) == "kept\n"
    # Nothing of what filled the volume is left.
    assert bench.observe().containers.keys() == {"one", "two"} and bench.observe().extra == ()


def test_data_that_break_off_are_not_kept(bench: Bench) -> None:
    class Broken(Exception):
        pass

    def stream() -> Iterator[bytes]:
        yield pack({"data/file": b"1" * 3000}).read()[:1024]
        raise Broken

    tag = bench.tag("torn")
    with pytest.raises(Broken):
        bench.engine.import_data(tag, stream(), bench.labels)
    assert tag not in bench.engine.images()


def test_a_stranger_that_is_named_like_what_fills_a_volume_is_left_alone(bench: Bench) -> None:
    engine, tag = bench.engine, bench.tag("data")
    engine.import_data(tag, [pack({"one/file": b"1"}).read()], bench.labels)
    network = engine.create_network(bench.network_name, bench.strange)
    service = bench.service(name="one-data-fill")
    assert service.container == filler(bench.volume())
    engine.create(service, bench.strange, network)
    with pytest.raises(NotOurs, match=f"cannot create {filler(bench.volume())}"):
        engine.fill_volume(bench.volume(), tag, "/one", bench.labels, "one")
    assert len(bench.observe().strangers) == 2


def test_images_travel_in_one_archive(bench: Bench, tmp_path: Path) -> None:
    engine, tags = bench.engine, [bench.tag("one"), bench.tag("two")]
    for tag in tags:
        engine.import_data(tag, [pack({"data/file": tag.encode()}).read()], bench.labels)
    before = {tag: engine.images()[tag] for tag in tags}
    archive = [*engine.save_images(tags)]
    for tag in tags:
        assert engine.remove_image(tag)
    engine.load_images(archive)
    assert {tag: engine.images().get(tag) for tag in tags} == before


def test_a_root_file_system_becomes_an_image(bench: Bench, tmp_path: Path) -> None:
    tag = bench.tag("root")
    (tmp_path / "root.tar").write_bytes(pack({"etc/one": b"1", "etc/two": b"2"}).read())
    bench.engine.import_image(tag, tmp_path / "root.tar", {LABEL_SERVICE: "base"})
    assert bench.engine.inspect_image(tag)["Config"]["Labels"] == {LABEL_SERVICE: "base"}
    with bench.engine.unstarted(bench.engine.images()[tag]) as container:
        assert bench.engine.has(container, "/etc/one") and not bench.engine.has(container, "/etc/three")
        assert bench.engine.state(container).status == "created"
        found = entries(bench.engine.read_folder(container, "/etc"))
        assert (text(found["etc/one"]), text(found["etc/two"])) == ("1", "2")
    with pytest.raises(ServiceFailed):
        bench.engine.state(container)


# ---- for people --------------------------------------------------------------------------------------------------


def test_people_can_look_at_what_happened(bench: Bench) -> None:
    container = bench.running(volumes={bench.volume(): "/var/lib/one"})
    belongings = bench.engine.belongings(bench.environment)
    assert [network["Name"] for network in belongings["networks"]] == [bench.network_name]
    assert bench.volume() in [volume["Name"] for volume in belongings["volumes"]] and belongings["version"]["Version"]
    assert bench.engine.inspect(container)["Id"] == container
    actions = [event["Action"] for event in bench.engine.events(bench.environment)]
    assert "create" in actions and "start" in actions
