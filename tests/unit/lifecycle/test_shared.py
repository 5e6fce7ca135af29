"""Several hosts share an environment. Each has a project and a state folder; the engine and its place are in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, Recorder

from devenv.errors import ConfigError, LostLock, NoEngine, Unsupported
from devenv.images.references import images_for
from devenv.lifecycle import down, loans
from devenv.lifecycle.environment import Environment
from devenv.model import Observed, Profile
from devenv.spec.catalogue import load_catalogue
from devenv.store import registry
from devenv.store.places import forward_folder, shared_id
from devenv.store.record import FORMAT

TEXT = "profile: coordination\nservices: {{etcd: {{auth: true}}}}\ncomponents: [{component}]\n"


@dataclass
class Host:
    """One host: a project, a state folder, and the engine that all reach."""

    folder: Path
    engine: FakeEngine
    patch: pytest.MonkeyPatch

    def environment(self, **more: Any) -> Environment:
        """Be this host from now on."""
        self.patch.setenv("DEVENV_STATE_DIR", str(self.folder / "state"))
        self.patch.setattr("devenv.lifecycle.seat.connect", lambda *_: self.engine)
        return Environment(self.project, **{"shared": "team", "engine": "kubernetes", "report": Recorder(), **more})

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def notes(self, act: Callable[[Environment], object], **more: Any) -> str:
        """Return what the host says while it acts."""
        recorder = Recorder()
        act(self.environment(report=recorder, **more))
        return " ".join(recorder.told)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, Host]:
    """Return two hosts with one engine; the first one's component is nova, the second one's glance."""
    images = images_for(Profile("", {}), load_catalogue()).values()
    engine = FakeEngine(Observed(images={image.reference: "id" for image in images}))
    engine.url, engine.can = "kubernetes://here/team", frozenset()
    monkeypatch.setattr("devenv.services.readiness.load_probe", lambda _: engine.check)
    monkeypatch.setattr("devenv.lifecycle.execute.provisioner_of", lambda _: _Provisioner())
    found = []
    for name, component in (("one", "nova"), ("two", "glance")):
        host = Host(tmp_path / name, engine, monkeypatch)
        host.project.mkdir(parents=True)
        (host.project / "devenv.yaml").write_text(TEXT.format(component=component))
        found.append(host)
    return found[0], found[1]


class _Provisioner:
    """Does what it is told, in no service."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


def made(engine: FakeEngine) -> list[str]:
    return [call for call in engine.calls if call.split()[0] in ("create", "start", "stop", "remove")]


def test_the_name_says_which_environment_it_is_wherever_the_project_is(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    assert one.environment().id == two.environment().id == shared_id("team", "default")
    ids = {two.environment(**more).id for more in ({}, {"name": "test"}, {"shared": "crew"}, {"shared": ""})}
    assert len(ids) == 4


def test_a_second_host_finds_what_the_first_one_made(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.environment().up()
    before = one.environment().env()
    one.engine.calls.clear()
    result = two.environment().up()
    assert not made(two.engine) and "provision etcd/glance" in {op.key for op in result.plan.operations}
    assert two.environment().env() == before
    assert {"etcd/nova", "etcd/glance"} <= two.environment().state.load().provisioned.keys()
    assert (two.project / ".devenv/glance.conf").exists() and not (two.project / ".devenv/nova.conf").exists()
    # One that only looks sees what the other one did, and writes nothing for that.
    state = one.environment().state
    assert "etcd/glance" not in state.load().provisioned
    looking = one.environment()
    looking.status()
    assert "etcd/glance" in looking.state.load().provisioned and "etcd/glance" not in state.load().provisioned


def test_no_host_drops_or_mentions_the_component_of_another(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.environment().up()
    two.environment().up()
    assert "kept the data" not in one.notes(lambda environment: environment.up(drop=True))
    assert "etcd/glance" in one.environment().state.load().provisioned
    (one.project / "devenv.yaml").write_text("profile: coordination\nservices: {etcd: {auth: true}}\n")
    assert "kept the data of nova," in one.notes(lambda environment: environment.up())
    one.environment().up(drop=True)
    assert {"etcd/nova", "etcd/glance"} & one.environment().state.load().provisioned.keys() == {"etcd/glance"}
    with (
        pytest.raises(ConfigError, match="cannot make component 'glance'"),
        loans.lent(one.environment()._world, component="glance"),
    ):
        pass


def test_wait_joins_with_files_and_without_a_change(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.environment().up()
    one.engine.calls.clear()
    two.environment().wait()
    assert not made(two.engine) and (two.project / ".devenv").is_dir()
    assert two.environment().state.load().engine == two.engine.url


def test_an_end_on_one_host_is_said_on_another_which_clears_its_own(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    for host in hosts:
        host.environment().up()
    two.environment().down(volumes=True)
    place = one.engine.places[one.environment().id]
    assert not place.kept.owner and not (two.project / ".devenv").exists()
    ended = "was taken down with its data, by another host"
    assert ended in one.notes(lambda environment: environment.status())
    assert (one.project / ".devenv").exists()
    assert ended in one.notes(lambda environment: environment.down(volumes=True))
    assert not (one.project / ".devenv").exists() and not one.environment().state.folder.exists()
    assert not place.kept.owner


def test_a_host_that_only_ends_it_has_not_joined(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.environment().up()
    two.environment().down()
    assert not two.environment().state.folder.exists() and not one.engine.places[one.environment().id].holder
    assert not two.environment().observe().containers and one.environment().state.load().owner


def test_an_environment_that_was_made_again_is_another_one(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    for host in hosts:
        host.environment().up()
    before = one.environment().state.secrets((), keep=False)
    two.environment().down(volumes=True)
    two.environment().up()
    assert "it is a new one, with" in one.notes(lambda environment: environment.up())
    after = one.environment().state.secrets((), keep=False)
    assert not {*before.values()} & {*after.values()}
    assert after == one.engine.places[one.environment().id].kept.files["secrets.json"]


def test_down_without_volumes_keeps_ports_and_passwords_for_all(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.environment().up()
    before = one.environment().env()
    two.environment().down()
    two.environment().up()
    assert two.environment().env() == before


def test_an_export_needs_no_cluster(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise NoEngine("the cluster does not answer")

    environment = hosts[0].environment()
    monkeypatch.setattr("devenv.lifecycle.seat.connect", away)
    assert environment.export("compose")
    with pytest.raises(NoEngine):
        environment.up()


def test_a_run_leaves_the_services_to_other_hosts(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    with one.environment().lent() as component:
        assert component
    assert two.environment().observe().runs("etcd")
    assert not [pair for pair in two.environment().state.load().provisioned if component in pair]


def test_a_host_that_lost_the_lock_stops_and_keeps_its_own_record(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    environment = one.environment()

    def lose() -> None:
        one.engine.places[environment.id].holder = "other"

    one.engine.on["create etcd"] = lose
    with pytest.raises(LostLock, match=r"^cannot go on"):
        environment.up()
    assert "etcd" in one.environment().state.load().unfinished


def test_a_newer_record_of_another_host_is_refused(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.environment().up()
    place = one.engine.places[one.environment().id]
    place.kept = replace(place.kept, record={**place.kept.record, "format": FORMAT + 1})
    for act in (Environment.up, Environment.status, Environment.down):
        with pytest.raises(ConfigError, match="a newer devenv of another host"):
            act(two.environment())


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["docker", ""])
@pytest.mark.parametrize("act", [Environment.up, Environment.status, Environment.down, Environment.env])
def test_only_a_cluster_keeps_it_for_several_hosts(
    act: Callable[[Environment], object], kind: str, hosts: tuple[Host, Host]
) -> None:
    one, _ = hosts
    file = one.project / "devenv.yaml"
    file.write_text(f"shared: team\n{file.read_text()}")
    for named in ("team", ""):
        with pytest.raises(ConfigError, match=r"^cannot share an environment .* on docker: hosts share them in a"):
            act(one.environment(engine=kind, shared=named))


def test_a_file_that_joins_needs_trust_unless_the_user_names_it_or_is_there(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    file = one.project / "devenv.yaml"
    file.write_text(f"shared: team\n{file.read_text()}")
    with pytest.raises(
        ConfigError, match=r"^cannot use shared environment team of .*devenv.yaml: you have not"
    ) as told:
        one.environment(shared="").up()
    assert "'devenv --shared team …'" in told.value.hint
    one.environment(shared="").image_references()
    assert not one.engine.places
    one.environment().up()
    file.write_text(f"{file.read_text()}durable: false\n")
    one.environment(shared="").up()


def test_an_error_in_the_file_does_not_hide_which_environment_it_is(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    file = one.project / "devenv.yaml"
    file.write_text(f'shared: "team"  # all of us\n{file.read_text()}')
    one.environment().up()
    file.write_text(f"{file.read_text()}nonsense: {{")
    environment = one.environment(shared="")
    assert environment.id == shared_id("team", "default")
    environment.down(volumes=True)
    assert not one.engine.places[environment.id].kept.owner


def test_a_line_that_only_yaml_understands_is_refused(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    (one.project / "devenv.yaml").write_text("'shared': team\n")
    with pytest.raises(ConfigError, match=r"cannot use 'shared' of .* it is not in a line of its own"):
        one.environment(shared="").up()


def test_a_host_remembers_what_it_shares_until_it_leaves(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    for host in hosts:
        host.environment().up()
    assert one.environment(shared="").id == shared_id("team", "default")
    forward_folder(one.environment().id).mkdir()
    one.environment().leave()
    assert one.environment(shared="").id != shared_id("team", "default")
    assert not (one.project / ".devenv").exists() and not forward_folder(one.environment().id).exists()
    assert two.environment().observe().runs("etcd") and two.environment().env()
    with pytest.raises(ConfigError, match=r"^cannot leave .* no other host shares it"):
        one.environment(shared="").leave()


def test_a_host_has_it_in_one_folder(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    one.environment().up()
    other = one.folder / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match=f"on this host, {one.project} has it"):
        Environment(other, shared="team", engine="kubernetes").up()
    shutil.move(one.project, one.folder / "moved")
    assert [record.shared for record in registry.gone()] == ["team"]
    moved = Environment(one.folder / "moved", shared="team", engine="kubernetes", report=Recorder())
    moved.up()
    assert moved.state.load().project == str(one.folder / "moved") and not registry.gone()


def test_removing_what_a_project_left_that_is_gone_leaves_it_to_other_hosts(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    for host in hosts:
        host.environment().up()
    identity = one.environment().id
    shutil.rmtree(one.project)
    down.remove(identity, Recorder())
    assert not registry.all_records()
    assert two.environment().observe().runs("etcd")


def test_hosts_in_pods_and_hosts_outside_share_nothing(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = hosts
    one.environment().up()
    one.engine.calls.clear()
    before = one.engine.places[one.environment().id].kept
    monkeypatch.setattr(FakeEngine, "inside", True)
    for act in (Environment.up, Environment.wait):
        with pytest.raises(ConfigError, match="its hosts are outside of the cluster, and this one is not"):
            act(two.environment())
    assert not made(two.engine) and one.engine.places[one.environment().id].kept == before


def test_no_run_gets_the_account_that_all_suites_share(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    with pytest.raises(Unsupported, match=r"^cannot lend openstack_citest in shared environment team"):
        one.environment(profile="database").databases()
