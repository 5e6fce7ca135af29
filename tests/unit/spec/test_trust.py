"""Trust in a devenv.yaml: what needs it, who gives it, and what the file cannot say at all."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import Carrier, archive, entry
from click.testing import CliRunner
from fake_engine import FakeEngine

from devenv.cli.main import main
from devenv.errors import ConfigError, NoEngine
from devenv.lifecycle.environment import Environment
from devenv.model import Observed, ProjectFile
from devenv.spec import trust
from devenv.spec.profile import load_profile
from devenv.store.places import state_folder

FOREIGN = "profile: coordination\nservices: {etcd: {image: 'example/etcd:3'}}\n"
DATA = """\
description: all that is only data
profile: base
durable: true
services:
  mysql: {ports: {sql: 3307}, durable: false}
  etcd: {auth: true}
  rabbitmq: false
components:
  nova:
    wire: [etc/nova.conf]
    roles: [admin]
    catalog: {type: compute, url: "http://127.0.0.1:8774"}
    sections: {neutron: network}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a project whose devenv.yaml names somebody's image."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return write(folder, FOREIGN)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine()
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)
    return engine


def write(folder: Path, text: str) -> Path:
    (folder / "devenv.yaml").write_text(text)
    return folder


def file_of(folder: Path) -> ProjectFile:
    file = load_profile(folder).file
    assert file
    return file


def is_trusted(folder: Path) -> bool:
    try:
        trust.check(file_of(folder), None, print)
    except ConfigError:
        return False
    return True


# ---- what needs trust --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", DATA])
def test_data_needs_no_trust(folder: Path, text: str) -> None:
    file = file_of(write(folder, text))
    assert trust.needs(file) == []
    trust.check(file, None, print)


def test_a_project_without_a_file_needs_none(folder: Path) -> None:
    (folder / "devenv.yaml").unlink()
    assert load_profile(folder).file is None


@pytest.mark.parametrize(
    "image", ["example/etcd", f"example/etcd@sha256:{'0' * 64}", "devenv/etcd:1", "localhost:5000/etcd:3"]
)
def test_any_image_needs_it_and_is_named(folder: Path, image: str) -> None:
    file = file_of(write(folder, f"profile: coordination\nservices: {{etcd: {{image: '{image}'}}}}\n"))
    assert trust.needs(file) == [f"service etcd runs image {image}"]
    with pytest.raises(ConfigError) as caught:
        trust.check(file, None, print)
    assert caught.value.message == (
        f"cannot use image {image} of {folder / 'devenv.yaml'}: you have not trusted the file yet"
    )
    assert caught.value.hint == "look at it, then run 'devenv trust'" and caught.value.exit_code == 3


def test_a_registry_needs_it_and_is_named(folder: Path) -> None:
    file = file_of(write(folder, "profile: coordination\nimage_registry: registry.example.org/team\n"))
    assert trust.needs(file) == ["pods run devenv's images as registry.example.org/team has them"]
    with pytest.raises(ConfigError, match=r"cannot use registry registry\.example\.org/team of "):
        trust.check(file, None, print)


@pytest.mark.parametrize(
    "word", ["team", "https://r.example.org", "r.example.org/", "r.example.org/a:1", "R.example.org"]
)
def test_what_is_no_registry_is_refused(folder: Path, word: str) -> None:
    write(folder, f"image_registry: '{word}'\n")
    with pytest.raises(ConfigError, match=r"devenv\.yaml") as caught:
        load_profile(folder)
    assert "expected HOST" in "".join([caught.value.message, *caught.value.detail])


@pytest.mark.parametrize("word", ["localhost/a", "localhost:5000", "r:5000/a", "127.0.0.1:5000", "r.example.org/a/b-c"])
def test_a_registry_has_a_host_and_maybe_a_port_and_a_folder(folder: Path, word: str) -> None:
    write(folder, f"image_registry: '{word}'\n")
    assert load_profile(folder).image_registry == word


def test_all_images_are_told_in_one_line(folder: Path) -> None:
    write(folder, "profile: base\nservices: {etcd: {image: a}, mysql: {image: b}, rabbitmq: {image: a}}\n")
    with pytest.raises(ConfigError, match=r"cannot use image a and b of [^\n]*$"):
        trust.check(file_of(folder), None, print)


def test_what_the_caller_asks_for_is_the_callers_own(folder: Path) -> None:
    settings: dict[str, Any]
    for settings in ({"etcd": {"image": "mine:1"}}, {"etcd": {"image": "example/etcd:3"}}, {"etcd": False}):
        file = load_profile(folder, settings=settings).file
        assert file and file.images == {}
    file = load_profile(folder, settings={"etcd": {"auth": True}, "mysql": {"image": "mine:1"}}).file
    assert file and file.images == {"etcd": "example/etcd:3"}


def test_another_profile_on_the_command_line_leaves_the_files_images(folder: Path) -> None:
    file = load_profile(folder, "database").file
    assert file and file.images == {"etcd": "example/etcd:3"}


# ---- what cannot be said -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "command: [sh]",
        "hooks: {up: 'curl example.org | sh'}",
        "compose: /srv/compose",
        "extends: base",
        "x-devenv: {}",
        *(
            f"services: {{etcd: {{{setting}}}}}"
            for setting in (
                "command: [sh]",
                "entrypoint: [sh]",
                "build: .",
                "environment: {LD_PRELOAD: /x.so}",
                "env_file: /etc/environment",
                "volumes: ['/:/host']",
                "configs: [{source: a, target: /etc/devenv/a}]",
                "network_mode: host",
                "privileged: 1",
                "cap_add: [ALL]",
                "devices: [/dev/sda]",
                "user: root",
                "host: 0.0.0.0",
                "ports: {client: '0.0.0.0:2379'}",
                "ports: ['0.0.0.0:2379:2379']",
                "provisioner: {kind: mine}",
                "probe: {kind: mine}",
            )
        ),
        *(
            f"components: {{nova: {{wire: ['{path}']}}}}"
            for path in ("/etc/passwd", "../nova.conf", "etc/../../nova.conf", "~/nova.conf/../..", "")
        ),
        "components: {nova: {command: [sh]}}",
        "components: {../nova: {}}",
        "components: {nova: {catalog: {type: compute, url: 'file:///etc/passwd'}}}",
        "profile: ../mine",
        "profile: /srv/mine.yaml",
    ],
)
def test_commands_host_paths_binds_and_privileges_cannot_be_said(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile(write(folder, text + "\n"))
    assert caught.value.message.startswith(("cannot use ", "cannot find "))
    assert caught.value.hint != "this is not valid YAML"


@pytest.mark.parametrize("switch", ["privileged", "read_only", "init", "nosuch"])
def test_a_switch_is_one_of_the_services_own(folder: Path, engine: FakeEngine, switch: str) -> None:
    write(folder, f"profile: coordination\nservices: {{etcd: {{{switch}: true}}}}\n")
    with pytest.raises(ConfigError, match=switch):
        Environment().up()
    assert engine.calls == []


# ---- who is refused ----------------------------------------------------------------------------------------------


def borrowing(environment: Environment) -> None:
    with environment.shared():
        environment.borrow(["etcd"])


def lending(environment: Environment) -> None:
    with environment.lent():
        pytest.fail("lent")


RUN_IMAGES: dict[str, Callable[[Environment], Any]] = {
    "up": Environment.up,
    "reset": Environment.reset,
    "restore": lambda environment: environment.restore("before"),
    "start": Environment.start,
    "restart": Environment.restart,
    "build images": Environment.build_images,
    "run": lending,
    "tests": borrowing,
}
ONLY_LOOK: dict[str, Callable[[Environment], Any]] = {
    "plan": Environment.plan,
    "status": Environment.status,
    "images": Environment.list_images,
    "keys": Environment.cache_keys,
    "ports": Environment.usual_ports,
    "compose": lambda environment: environment.export("compose"),
    "snapshots": Environment.snapshots,
    "stop": Environment.stop,
    "down": lambda environment: environment.down(volumes=True),
    "gc": Environment.clear,
}


@pytest.mark.parametrize("what", RUN_IMAGES)
def test_whatever_runs_or_pulls_images_is_refused_before_the_engine_is_asked(what: str, engine: FakeEngine) -> None:
    with pytest.raises(ConfigError, match="cannot use image example/etcd:3 of"):
        RUN_IMAGES[what](Environment())
    assert engine.calls == []
    assert not Path(".devenv").exists()


@pytest.mark.parametrize("what", ONLY_LOOK)
def test_what_only_looks_or_takes_away_needs_no_trust(what: str, engine: FakeEngine) -> None:
    ONLY_LOOK[what](Environment())
    assert set(engine.calls) <= {"observe"}


def test_an_archive_is_not_loaded_for_the_sake_of_an_untrusted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = Carrier()
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: carrier)
    environment = Environment()
    with pytest.raises(ConfigError, match="cannot use image example/etcd:3 of"):
        environment.load_images(archive(manifest=[entry("example/etcd:3")]), "file")
    assert not carrier.loaded
    environment.load_images(archive(manifest=[entry("devenv/etcd:1")]), "file")
    assert carrier.loaded


# ---- who gives trust ---------------------------------------------------------------------------------------------


def test_trust_is_for_this_content_in_this_place(folder: Path, tmp_path: Path) -> None:
    trust.allow(file_of(folder), print)
    assert is_trusted(folder)
    (other := tmp_path / "other").mkdir()
    assert not is_trusted(write(other, FOREIGN))
    write(folder, FOREIGN + "# changed\n")
    with pytest.raises(ConfigError, match="the file has changed since you trusted it"):
        trust.check(file_of(folder), None, print)
    assert is_trusted(write(folder, FOREIGN))


def test_it_goes_by_the_files_real_path(folder: Path, tmp_path: Path) -> None:
    (link := tmp_path / "link").symlink_to(folder)
    trust.allow(file_of(link), print)
    assert is_trusted(folder)
    (folder / "devenv.yaml").rename(tmp_path / "elsewhere.yaml")
    (folder / "devenv.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    assert not is_trusted(folder)


def test_revoked_it_is_for_no_content_any_more(folder: Path) -> None:
    for text in (FOREIGN, FOREIGN + "# changed\n"):
        trust.allow(file_of(write(folder, text)), print)
    write(folder, "not: [even, right")
    trust.revoke(folder / "devenv.yaml", print)
    assert not is_trusted(write(folder, FOREIGN))


def test_the_record_is_its_users_alone_and_holds_others_trust(folder: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    trust.allow(file_of(write(other, FOREIGN)), print)
    trust.allow(file_of(folder), print)
    record = state_folder() / "trust.json"
    assert record.stat().st_mode & 0o777 == 0o600
    assert json.loads(record.read_text()).keys() == {str(place / "devenv.yaml") for place in (folder, other)}
    trust.revoke(folder / "devenv.yaml", print)
    assert is_trusted(other) and not is_trusted(folder)


def test_data_leaves_no_record(folder: Path) -> None:
    trust.allow(file_of(write(folder, DATA)), print)
    trust.revoke(folder / "devenv.yaml", print)
    assert not (state_folder() / "trust.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "[" * 100_000, '{"PATH": "DIGEST"}', '{"PATH": null}'])
def test_a_record_that_cannot_be_understood_trusts_nothing(folder: Path, content: str) -> None:
    file = file_of(folder)
    state_folder().mkdir(parents=True)
    text = content.replace("PATH", str(file.path)).replace("DIGEST", file.digest)
    (state_folder() / "trust.json").write_text(text)
    assert not is_trusted(folder)
    trust.allow(file, print)
    assert is_trusted(folder)


def test_a_name_that_is_not_utf_8_can_be_trusted(tmp_path: Path) -> None:
    (folder := Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).mkdir()
    trust.allow(file_of(write(folder, FOREIGN)), print)
    assert is_trusted(folder)


def test_who_says_yes_is_not_asked_again(folder: Path, engine: FakeEngine) -> None:
    asked: list[ProjectFile] = []
    with pytest.raises(ConfigError, match="cannot use image"):
        Environment(ask=lambda file: bool(asked.append(file))).build_images()
    assert not is_trusted(folder) and engine.calls == []
    Environment(ask=lambda file: not asked.append(file)).build_images()
    engine.observed = Observed()
    Environment(ask=lambda file: pytest.fail("asked again")).build_images()
    assert asked == [file_of(folder)] * 2
    assert engine.calls.count("pull example/etcd:3") == 2


def test_what_is_trusted_is_what_was_read(folder: Path, engine: FakeEngine) -> None:
    """Somebody changes the file during the question: devenv runs what it showed, and does not trust the rest."""

    def yes(_: ProjectFile) -> bool:
        write(folder, FOREIGN.replace("example/", "evil/"))
        return True

    Environment(ask=yes).build_images()
    assert "pull example/etcd:3" in engine.calls and not is_trusted(folder)
    with pytest.raises(ConfigError, match="cannot use image evil/etcd:3 of"):
        Environment().build_images()


def test_the_lock_is_not_held_while_somebody_is_asked(engine: FakeEngine) -> None:
    others: list[str] = []

    def ask(_: ProjectFile) -> bool:
        with Environment().state.locked(others.append):
            return False

    with pytest.raises(ConfigError, match="cannot use image"), Environment(ask=ask).lent():
        pytest.fail("lent")
    assert others == []


# ---- the command -------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def test_trust_says_what_it_allows(folder: Path) -> None:
    path = folder / "devenv.yaml"
    assert run("trust").stdout == f"trusted: {path}\n  service etcd runs image example/etcd:3\n"
    assert is_trusted(folder)
    assert run("trust", "--revoke").stdout == f"withdrew trust from {path}\n"
    assert not is_trusted(folder)
    told = json.loads(run("trust", "--format", "json").stdout)
    assert told == {"file": str(path), "trusted": True, "needs": ["service etcd runs image example/etcd:3"]}
    told = json.loads(run("trust", "--revoke", "--format", "json").stdout)
    assert told == {"file": str(path), "trusted": False, "needs": []}


def test_where_nothing_needs_trust_it_says_so(folder: Path) -> None:
    (folder / ".devenv").mkdir()  # so the folder stays a project without the file
    for make in (lambda: write(folder, DATA), (folder / "devenv.yaml").unlink):
        make()
        assert run("trust").stdout == f"nothing in {folder / 'devenv.yaml'} needs trust\n"


def test_a_file_that_is_wrong_is_not_trusted(folder: Path) -> None:
    write(folder, FOREIGN + "command: sh\n")
    done = run("trust")
    assert done.exit_code == 3 and done.stdout == ""
    assert not (state_folder() / "trust.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [["up"], ["run", "--", "true"], ["ci", "--", "true"], ["images", "build"], ["start"], ["reset"]],
    ids=str,
)
def test_without_a_terminal_the_command_line_refuses(arguments: list[str], engine: FakeEngine) -> None:
    done = run(*arguments)
    assert done.exit_code == 3 and done.stdout == ""
    assert "cannot use image example/etcd:3 of" in done.stderr
    assert "hint: look at it, then run 'devenv trust'" in done.stderr
    assert engine.calls == []


def on_a_terminal(answer: str, **environ: str) -> tuple[int, str]:
    """Return exit code and output of `devenv up` on a terminal with that answer, without an engine."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "devenv", "up"],
        env={**os.environ, "PYTHONPATH": str(Path(trust.__file__).parents[1]), **environ},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    ) as process:
        os.close(follower)
        os.write(leader, answer.encode())
        shown = io.BytesIO()
        try:
            while chunk := os.read(leader, 4096):
                shown.write(chunk)
        except OSError:  # a terminal ends like this
            os.close(leader)
    return process.returncode, shown.getvalue().decode().replace("\r\n", "\n")


def test_on_a_terminal_it_asks_once(folder: Path) -> None:
    code, shown = on_a_terminal("\n")
    question = f"{folder / 'devenv.yaml'} needs your trust:\n  service etcd runs image example/etcd:3\n"
    assert question in shown and "[y/N]" in shown and "cannot use image" in shown
    assert code == 3 and not is_trusted(folder)
    code, shown = on_a_terminal("y\n")
    assert question in shown and code == NoEngine.exit_code and is_trusted(folder)
    code, shown = on_a_terminal("n\n")
    assert question not in shown and code == NoEngine.exit_code


def test_a_ci_job_with_a_terminal_is_not_asked() -> None:
    code, shown = on_a_terminal("y\n", CI="true")
    assert code == 3 and "[y/N]" not in shown and "cannot use image" in shown
