"""The command line's answers to what a user types, without an engine."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fake_engine import FakeEngine
from pseudo_terminal import on_terminal

from devenv import __version__
from devenv.cli.main import main
from devenv.errors import ConfigError, DevenvError, NoEngine, NotOurs, NotReadyInTime, ServiceFailed
from devenv.images.references import images_for
from devenv.lifecycle.environment import Environment
from devenv.model import DesiredService, Observed, ObservedContainer, Profile
from devenv.services.readiness import ServiceStatus
from devenv.spec.catalogue import load_catalogue
from devenv.spec.profile import load_profile
from devenv.store.places import state_folder
from devenv.store.state import new_token

ROOT = Path(__file__).parents[3]
NEED_AN_ENGINE = (
    ["up"],
    ["down"],
    ["down", "--volumes"],
    ["stop"],
    ["start"],
    ["restart"],
    ["status"],
    ["status", "--format", "json"],
    ["ls"],
    ["down", "--id", "nova-1a2b3c4d"],
    ["wait"],
    ["logs"],
    ["exec", "mysql", "true"],
    ["mysql", "-e", "SELECT 1"],
    ["open", "rabbitmq"],
    ["plan"],
    ["env"],
    ["images", "list"],
    ["images", "build"],
    ["images", "prune"],
)


# The docker library leaves its socket open when nothing answers there.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a new project folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def leave_no_socket() -> Iterator[None]:
    """Let go of the library's open sockets while their warning is ignored."""
    yield
    gc.collect()


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Connect devenv to an engine that has nothing."""
    engine = FakeEngine()
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)
    return engine


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def assert_clear_error(result: Result, code: int, *words: str) -> None:
    """Expect one line that starts with "cannot", a hint, the right exit code, and no traceback."""
    lines = result.stderr.splitlines()
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.stderr
    assert len([line for line in lines if line.startswith("cannot ")]) == 1, result.stderr
    assert [line for line in lines if line.startswith("hint: ")]
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert result.stdout == ""


# ---- exit codes --------------------------------------------------------------------------------------------------


def test_each_kind_of_failure_has_its_exit_code() -> None:
    kinds = (DevenvError, ConfigError, NoEngine, ServiceFailed, NotReadyInTime, NotOurs)
    assert [kind.exit_code for kind in kinds] == [1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["up", "--nosuch"],
        ["up", "--wait-timeout", "0"],
        ["up", "--wait-timeout", "soon"],
        ["status", "--format", "yaml"],
        ["logs", "--tail", "-1"],
        ["exec"],
        ["exec", "mysql"],
        ["exec", "mysql", "--"],
        ["images", "nosuch"],
        ["--env"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--env", "../x", "up"], "'../x'"),
        (["--env", "a b", "status"], "'a b'"),
        (["--env", "UPPER", "plan"], "'UPPER'"),
        (["--env", "", "up"], "''"),
        (["--project", "/nonexistent", "up"], "/nonexistent"),
        (["--project", "/etc/passwd", "up"], "/etc/passwd"),
        (["--profile", "nosuch", "up"], "'nosuch'"),
        (["--profile", "../base", "plan"], "'../base'"),
        (["up", "nosuch"], "'nosuch'"),
        (["plan", "../mysql"], "'../mysql'"),
        (["--profile", "database", "up", "etcd"], "'etcd'"),
    ],
)
def test_a_wrong_name_is_exit_code_3(arguments: list[str], word: str) -> None:
    assert_clear_error(run(*arguments), 3, word)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"profile: nosuch", ["nosuch", "devenv.yaml"]),
        (b"services: [mysql", ["devenv.yaml:"]),
        (b"colour: red\nservices: {mysql: {size: 1}}", ["devenv.yaml:1: colour", "devenv.yaml:2: services.mysql.size"]),
        (b"\xff", ["UTF-8"]),
        (b"- a", ["not a mapping"]),
        (b"services: {nosuch: {}}", ["nosuch"]),
        (b"services: {mysql: {ports: {nosuch: 5}}}", ["nosuch"]),
    ],
)
def test_a_wrong_devenv_yaml_is_exit_code_3(
    project: Path, content: bytes, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "devenv.yaml").write_bytes(content)
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    assert_clear_error(run("plan"), 3, *words)


def test_a_need_that_the_project_leaves_out_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    databases = ", ".join(f"{name}: false" for name, known in load_catalogue().items() if known.role == "database")
    (project / "devenv.yaml").write_text(f"profile: identity\nservices: {{{databases}}}\n")
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    assert_clear_error(run("plan"), 3, "cannot leave out ", "keystone needs it", "devenv.yaml")
    (project / "devenv.yaml").write_text("profile: identity\nservices: {mysql: false, keystone: false, etcd: {}}\n")
    assert "create etcd" in run("plan").stdout


def test_a_devenv_yml_is_not_overlooked(project: Path) -> None:
    (project / "devenv.yml").write_text("profile: base\n")
    assert_clear_error(run("plan"), 3, "devenv.yml", "devenv.yaml", "rename it")


def test_what_the_profile_no_longer_has_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_for(Profile("", {}), load_catalogue()).values()
    there = ObservedContainer("id-rabbitmq", "devenv-x-rabbitmq", "rabbitmq", "running")
    engine = FakeEngine(Observed({"rabbitmq": there}, images={image.reference: "id" for image in images}))
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)
    (project / "devenv.yaml").write_text("profile: database\n")
    assert (
        "rabbitmq is not in the profile; remove it with 'devenv down rabbitmq'"
        in run("up", "--wait-timeout", "0.1").stderr
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan",), "symbolic link"),
        (("up",), "symbolic link"),
        (("--project", "loop", "plan"), "no such folder"),
        (("export", "zuul", "--install", "./devenv.whl", "--output", "loop"), "loop"),
    ],
)
def test_a_link_to_itself_is_exit_code_3(
    arguments: tuple[str, ...], words: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    (project / "devenv.yaml").write_text("profile: coordination\ncomponents: {nova: {wire: [loop]}}\n")
    (project / "loop").symlink_to("loop")
    assert_clear_error(run(*arguments), 3, "loop", words)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_folder_whose_name_is_no_text_is_one(encoding: str, tmp_path: Path) -> None:
    (folder := tmp_path / "n\udce9").mkdir()
    command = [sys.executable, "-m", "devenv", "init"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"wrote ") and (folder / "devenv.yaml").exists()


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), lambda path: path.symlink_to("/tmp")])
def test_a_devenv_folder_that_is_none_is_exit_code_3(project: Path, make: object) -> None:
    make(project / ".devenv")  # type: ignore[operator]
    assert_clear_error(run("up"), 3, ".devenv")


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("devenv.lifecycle.seat.connect", interrupt)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    result = run("plan")
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert (result.exit_code, result.stdout) == (130, "") and "interrupted" in result.stderr


def interrupted(body: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in a group like devenv's to its end, with a line `before`; its body may signal itself."""
    code = f"""
import atexit, os, signal, click
from devenv.cli.common import Group
tell = lambda number: os.kill(os.getpid(), number)
@click.group(cls=Group)
def main(): pass
@main.command()
def command():
{textwrap.indent(textwrap.dedent(body), "    ")}
{before}
main(["command"])
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_at_the_very_end_changes_nothing(number: str) -> None:
    done = interrupted(f"atexit.register(tell, signal.{number})\ntell(signal.{number})")
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")


@pytest.mark.parametrize("first", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("second", ["SIGTERM", "SIGHUP"])
def test_a_second_signal_does_not_end_what_the_first_began(first: str, second: str) -> None:
    done = interrupted(
        f"""
        try:
            tell(signal.{first})
        finally:
            tell(signal.{second})
            print("cleaned up")
        """
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "cleaned up\n", "interrupted")


def test_a_closed_terminal_does_not_end_what_nohup_began() -> None:
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    done = interrupted("tell(signal.SIGHUP)\nprint('still here')", before)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")


# ---- no engine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", NEED_AN_ENGINE, ids=" ".join)
def test_without_an_engine_every_command_is_exit_code_4(arguments: list[str]) -> None:
    assert_clear_error(run(*arguments), 4, "unix:///nonexistent/engine.sock", "DOCKER_HOST", "devenv doctor")


@pytest.mark.parametrize(
    "host", ["banana", "tcp://", "tcp://127.0.0.1:1", "http://", "unix:///etc/passwd", "foo://bar"]
)
def test_a_docker_host_that_is_no_engine_is_exit_code_4(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert_clear_error(run("plan"), 4)


def nowhere(**_: object) -> None:
    """Stand in for the docker library's client: no test may reach the engine of this machine."""
    raise OSError("asked another engine than the one that is set")


@pytest.mark.parametrize("setting", ["DOCKER_CONTEXT", "currentContext"])
def test_a_docker_context_that_is_not_there_is_exit_code_4(
    setting: str, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setattr("docker.APIClient", nowhere)
    if setting == "DOCKER_CONTEXT":
        monkeypatch.setenv(setting, "gone")
    else:
        (own_world / "docker").mkdir(parents=True)
        (own_world / "docker/config.json").write_text('{"currentContext": "gone"}')
    assert_clear_error(run("plan"), 4, "gone")


def test_certificates_that_are_not_there_are_exit_code_4(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HOST", "tcp://127.0.0.1:1"), ("TLS_VERIFY", "1"), ("CERT_PATH", "/nonexistent")):
        monkeypatch.setenv(f"DOCKER_{name}", value)
    assert_clear_error(run("plan"), 4)


@contextmanager
def listening(path: Path, answer: bytes) -> Iterator[None]:
    """Run a server that gives every request the same answer and hangs up."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if answer:
                        connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(20)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
        b"SSH-2.0-OpenSSH\r\n",
    ],
    ids=["hangs up", "500", "403", "no json", "another json", "no http"],
)
def test_a_socket_that_is_no_engine_is_exit_code_4(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/s")
    with listening(tmp_path / "s", answer):
        assert_clear_error(run("plan"), 4, f"unix://{tmp_path}/s")


def test_the_doctor_says_so_too() -> None:
    result = run("doctor", "--format", "json")
    assert result.exit_code == 4
    assert {"engine"} <= {check["name"] for check in json.loads(result.stdout) if check["status"] == "fail"}


# ---- looking, with an engine that has nothing --------------------------------------------------------------------


def test_looking_changes_nothing(project: Path, own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)
    assert "create network" in run("plan").stdout
    assert json.loads(run("plan", "--format", "json").stdout)["changes"] > 0
    found = json.loads(run("status", "--format", "json").stdout)
    assert {name: one["state"] for name, one in found["services"].items()} == dict.fromkeys(
        ["mysql", "keystone", "rabbitmq", "etcd"], "absent"
    )
    assert found["environment"] == {"id": Environment().id, "name": "default", "project": str(project)}
    assert set(engine.calls) == {"observe"}
    assert run("env").exit_code == 3
    assert run("images", "list").exit_code == 0
    assert set(engine.calls) == {"observe"}
    assert list(project.iterdir()) == []
    # Not even a lock: a command that only looks keeps nobody waiting, and may have no right to write.
    assert not (own_world / "state").exists()


def test_status_of_one_service_shows_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = ObservedContainer("1", "devenv-id-mysql", "mysql", "exited", exit_code=0)
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: FakeEngine(Observed({"mysql": stopped})))
    assert set(json.loads(run("status", "etcd", "--format", "json").stdout)["services"]) == {"etcd"}


def told(*arguments: str) -> set[str]:
    """Return the services in the table of `status`."""
    return {line.split()[0] for line in run("status", *arguments).stdout.splitlines()[1:]}


def wanted(*arguments: str) -> set[str]:
    """Return the services that the JSON of `status` calls wanted; it always has all of the profile."""
    services = json.loads(run("status", "--format", "json", *arguments).stdout)["services"]
    return {name for name, one in services.items() if one["wanted"]}


ALL = {"mysql", "keystone", "rabbitmq", "etcd"}


def test_status_shows_what_was_asked_for(project: Path, empty: FakeEngine) -> None:
    assert told() == wanted() == ALL  # nothing has been: this is what `up` starts
    empty.observed = Observed(
        {"etcd": ObservedContainer("1", "devenv-id-etcd", "etcd", "exited", exit_code=0)}, volumes={"data": "rabbitmq"}
    )
    assert told() == wanted() == {"etcd", "rabbitmq"}
    assert told("mysql") == wanted("mysql") == {"mysql"}
    assert json.loads(run("status", "--format", "json").stdout)["services"].keys() == ALL
    (project / "devenv.yaml").write_text("profile: database\n")
    assert told() == wanted() == {"mysql", "etcd"}


@pytest.mark.parametrize("format_", ["text", "json"])
@pytest.mark.parametrize(
    ("states", "services", "code"),
    [
        ({"mysql": "ready", "etcd": "ready"}, [], 0),
        ({"mysql": "absent", "etcd": "ready"}, [], 6),
        ({"mysql": "absent", "etcd": "ready"}, ["etcd"], 0),
        ({"mysql": "ready", "etcd": "failed"}, [], 6),
        ({"mysql": "ready", "etcd": "starting"}, [], 6),
        ({"mysql": "ready", "etcd": "stopped"}, ["etcd"], 6),
    ],
)
def test_a_script_learns_whether_what_was_asked_for_is_ready(
    states: dict[str, str],
    services: list[str],
    code: int,
    format_: str,
    project: Path,
    empty: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def status_of(service: DesiredService, *_: object) -> ServiceStatus:
        return ServiceStatus(service.role, states[service.name], "", "", {})

    monkeypatch.setattr("devenv.lifecycle.environment.status_of", status_of)
    (project / "devenv.yaml").write_text("profile: database\nservices: [etcd]\n")
    arguments = ["status", *services, "--format", format_]
    assert (run(*arguments).exit_code, run(*arguments, "--exit-code").exit_code) == (0, code)


def test_a_status_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    services = json.loads(run("status", "--format", "json").stdout)["services"]
    found = {f"{name}/{key}": e["url"] for name, s in services.items() for key, e in s["endpoints"].items()}
    assert re.fullmatch(r"mysql\+pymysql://devenv:\*\*\*@127\.0\.0\.1:\d+/devenv\?charset=utf8mb4", found["mysql/sql"])
    assert re.fullmatch(r"rabbit://devenv:\*\*\*@127\.0\.0\.1:\d+/devenv", found["rabbitmq/amqp"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v3", found["keystone/public"])


@pytest.mark.parametrize(
    "command", [["env"], ["logs"], ["start"], ["restart"], ["wait"], ["exec", "mysql", "true"], ["start", "etcd"]]
)
def test_what_is_not_there_is_told_with_what_to_do(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devenv.lifecycle.seat.connect", FakeEngine)
    assert_clear_error(run(*command), 3, "devenv up")


@pytest.mark.parametrize("command", ["logs", "start", "restart", "wait", "exec"])
def test_a_service_whose_container_was_removed_is_told_with_what_creates_it(command: str, empty: FakeEngine) -> None:
    empty.observed = Observed({"mysql": ObservedContainer("1", "devenv-id-mysql", "mysql", "running")})
    more = ["true"] if command == "exec" else []
    assert_clear_error(
        run(command, "etcd", *more), 3, "cannot find a container of 'etcd'", "hint: 'devenv up etcd' creates it\n"
    )
    assert_clear_error(run(command, "nosuch", *more), 3, "'nosuch'", "hint: it has: mysql; ")


def test_of_two_containers_of_a_service_the_one_that_runs_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, copy = (ObservedContainer(i, f"c{i}", "mysql", s) for i, s in (("1", "running"), ("2", "exited")))
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: FakeEngine(Observed({"mysql": runs}, extra=(copy,))))
    assert Environment().container("mysql") == runs
    assert Environment().containers() == Environment().containers(["mysql"]) == {"mysql": "1"}


@pytest.mark.parametrize("command", ["start", "restart"])
def test_a_stopped_service_whose_port_is_taken_is_left_alone_and_the_holder_named(
    command: str, empty: FakeEngine
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stopped = ObservedContainer("1", "devenv-x-etcd", "etcd", "exited", ports={2379: port})
        empty.observed = Observed({"etcd": stopped})
        result = run(command, "etcd")
    assert_clear_error(result, 7, f"127.0.0.1:{port} (given to this environment before)", f"(pid {os.getpid()}) has it")
    assert "choose another one in devenv.yaml and run 'devenv up'" in result.stderr
    assert empty.calls == ["observe"]


def test_a_port_that_is_taken_is_told_with_the_name_of_the_file_that_pins_it(project: Path, empty: FakeEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (project / "mine.yaml").write_text(f"services: {{etcd: {{ports: {{client: {port}}}}}}}")
        assert_clear_error(run("--file", "mine.yaml", "up", "etcd"), 7, "(pinned in mine.yaml)")


# ---- going down --------------------------------------------------------------------------------------------------

GOING_DOWN = pytest.mark.parametrize("command", ["down", "stop"])


@GOING_DOWN
@pytest.mark.parametrize("services", [[], ["etcd"], ["etcd", "mysql"]], ids=" ".join)
def test_what_is_not_there_need_not_go_down(command: str, services: list[str], empty: FakeEngine) -> None:
    result = run(command, *services)
    assert (result.exit_code, result.stdout) == (0, "nothing to do\n"), result.stderr
    assert empty.calls == ["observe"]
    assert not [*state_folder().glob("environments/*")]


@GOING_DOWN
def test_a_service_that_nobody_knows_cannot_go_down(command: str, empty: FakeEngine) -> None:
    assert_clear_error(run(command, "nosuch"), 3, "'nosuch'", "etcd")
    assert_clear_error(run(command, "etcd", "nosuch"), 3, "'nosuch'")
    assert set(empty.calls) == {"observe"}


@GOING_DOWN
@pytest.mark.parametrize("content", [b"services: [mysql", b"profile: nosuch", b"\xff", b"services: {nosuch: {}}"])
def test_a_broken_devenv_yaml_keeps_nothing_from_going_down(
    command: str, content: bytes, project: Path, empty: FakeEngine
) -> None:
    (project / "devenv.yaml").write_bytes(content)
    empty.observed = Observed({"etcd": ObservedContainer("1", "devenv-id-etcd", "etcd", "running")}, ("n1",))
    result = run(command)
    assert result.exit_code == 0, result.stderr
    # A single service can go down as well.
    assert run(command, "etcd").exit_code == 0
    assert any(call.startswith("stop 1 ") for call in empty.calls)
    assert ("remove 1" in empty.calls, "remove network n1" in empty.calls) == (command == "down",) * 2


def test_a_service_that_devenv_no_longer_has_can_go_down(empty: FakeEngine) -> None:
    empty.observed = Observed({"old": ObservedContainer("1", "devenv-id-old", "old", "running")})
    assert run("down", "old").exit_code == 0
    assert empty.calls == ["observe", "stop 1 10", "remove 1"]


def test_the_volumes_of_one_service_go_alone(empty: FakeEngine) -> None:
    empty.observed = Observed(volumes={"v-mysql": "mysql", "v-etcd": "etcd"}, networks=("n1",))
    assert run("down", "etcd", "--volumes").exit_code == 0
    assert empty.calls == ["observe", "remove volume v-etcd"]


def test_all_volumes_go_with_the_environment(empty: FakeEngine) -> None:
    empty.observed = Observed(volumes={"v-mysql": "mysql", "v-etcd": "etcd"}, networks=("n1",))
    empty.leftovers = ("anonymous",)
    assert run("down", "--volumes").exit_code == 0
    volumes = {"remove volume v-etcd", "remove volume v-mysql", "remove volume anonymous"}
    assert {*empty.calls} == {"observe", "remove network n1", *volumes}


def test_what_is_provisioned_in_a_service_is_forgotten_with_its_data(empty: FakeEngine) -> None:
    state = Environment().state
    state.save(replace(state.load(), provisioned={"mysql/keystone": "1", "other/x": "2"}, ports={"mysql/sql": 3306}))
    assert run("down", "mysql").exit_code == 0
    assert state.load().provisioned == {"mysql/keystone": "1", "other/x": "2"}
    assert run("down", "mysql", "--volumes").exit_code == 0
    assert (state.load().provisioned, state.load().ports) == ({"other/x": "2"}, {"mysql/sql": 3306})


# ---- a host that is in the way -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["up"], ["down"], ["status"], ["plan"], ["doctor"], ["--project", ".", "plan"]], ids=" ".join
)
def test_a_working_directory_that_was_removed_is_one_clear_line(
    arguments: list[str], project: Path, empty: FakeEngine
) -> None:
    project.rmdir()
    assert_clear_error(run(*arguments), 3, "no such folder")


def test_a_state_folder_on_a_full_disk_is_one_clear_line(empty: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert_clear_error(run("up"), 3, "No space left on device")
    assert set(empty.calls) <= {"observe"}


@pytest.mark.parametrize("command", ["up", "down", "stop"])
def test_a_state_folder_that_cannot_be_made_is_one_clear_line(
    command: str, empty: FakeEngine, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_world.mkdir(parents=True)
    (own_world / "file").touch()
    monkeypatch.setenv("DEVENV_STATE_DIR", str(own_world / "file/state"))
    assert_clear_error(run(command), 1, "cannot create ", "file/state", "DEVENV_STATE_DIR", "HOME")


def made_by(user: int, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as as_another:
        as_another.setattr("os.geteuid", lambda: user)
        engine.observed = replace(engine.observed, owner=new_token())


@pytest.mark.parametrize(
    "arguments",
    [
        *(one for one in NEED_AN_ENGINE if one[0] != "ls" and one[1:2] not in (["list"], ["prune"], ["--id"])),
        *(["reset"], ["wire"], ["snapshot", "save", "x"], ["export", "devstack"], ["gc"]),
        *(["run", "--", "true"], ["ci", "--", "true"]),
    ],
    ids=" ".join,
)
def test_the_environment_of_another_user_is_left_alone_and_told_whose_it_is(
    arguments: list[str], empty: FakeEngine, project: Path, own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by(54321, empty, monkeypatch)
    # Everybody may use root's folders, so root can be somebody here.
    user = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: user)
    result = run(*arguments)
    assert result.exit_code == 7, result.stderr
    assert "it belongs to user id 54321" in result.stderr and "'devenv --env NAME up'" in result.stderr
    assert {*empty.calls} <= {"observe", "images"}
    assert not [*project.iterdir()] and not [*own_world.glob("state/environments/*/secrets.json")]


@pytest.mark.parametrize("more", [[], ["etcd"], ["--volumes"], ["--volumes", "etcd"]], ids=" ".join)
def test_root_may_take_down_what_another_user_brought_up_and_is_told_so(
    more: list[str], empty: FakeEngine, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    one = ObservedContainer("id", "devenv-x-etcd", "etcd", "running")
    empty.observed = replace(empty.observed, containers={"etcd": one})
    made_by(54321, empty, monkeypatch)
    result = run("down", *more)
    assert result.exit_code == 0, result.stderr
    assert "belongs to user id 54321; root may take it down" in result.stderr
    assert "remove" in " ".join(empty.calls)
    assert run("stop").exit_code == run("gc").exit_code == 7


def test_an_unforeseen_refusal_of_the_host_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("devenv.lifecycle.seat.connect", refuse)
    assert_clear_error(run("plan"), 1, "Too many open files")


# ---- help --------------------------------------------------------------------------------------------------------


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = list(commands(main))


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=" ".join)
def test_help_fits_80_columns_and_every_option_is_explained(path: tuple[str, ...]) -> None:
    # click leaves two of a terminal's 80 columns free.
    result = CliRunner().invoke(main, [*path, "--help"], terminal_width=78)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and max(map(len, lines)) <= 80
    listed = lines[lines.index("Commands:") :] if "Commands:" in lines else []
    assert not [line for line in listed if line.endswith("...")]  # no one-line help is cut off
    command: click.Command = main
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_list_of_commands_has_one_line_for_each() -> None:
    text = CliRunner().invoke(main, ["--help"], terminal_width=80).stdout.split("Commands:\n")[1].split("\nClients:")[0]
    assert [line.split()[0] for line in text.splitlines()] == [path[0] for path in COMMANDS if len(path) == 1]
    assert all(len(line.split()) > 2 for line in text.splitlines())


def test_the_version_is_told() -> None:
    assert run("--version").stdout.strip().endswith(__version__)


# ---- the manual, and suggestions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["help", "up", "snapshot save", "images"])
def test_help_of_a_command_is_what_its_own_option_prints(name: str) -> None:
    words = name.split()
    assert run("help", *words).stdout == run(*words, "--help").stdout


def test_help_lists_every_page_with_its_title_in_one_line() -> None:
    lines = run("help").stdout.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert {*listed} == {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert all(len(line.split()) > 1 and len(line) <= 80 for line in listed.values())


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_help_shows_a_page_as_it_is_written(page: Path) -> None:
    result = run("help", page.stem)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(page.read_text("utf-8").rstrip() + "\n")


def test_a_word_that_is_a_command_and_a_page_gets_both() -> None:
    output, page = run("help", "ci").stdout, (ROOT / "docs" / "ci.md").read_text("utf-8")
    assert output.startswith(run("ci", "--help").stdout) and output.endswith(page)


def test_a_page_goes_to_the_pager_of_a_terminal(tmp_path: Path) -> None:
    code = "from devenv.cli.main import main; main(['help', 'wiring'])"
    script = tmp_path / "pager"
    script.write_text("#!/bin/sh\necho through the pager\ngrep -c .\n")
    script.chmod(0o755)

    def act(stream: Any) -> None:
        environ = {**os.environ, "PAGER": str(script)}
        subprocess.run([sys.executable, "-c", code], stdin=stream, stdout=stream, env=environ, check=True)

    assert re.fullmatch(r"through the pager\r\n\d+\r\n", on_terminal(act))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("wirng", "wiring"),
        ("statsu", "status"),
        ("mysqll", "mysql"),
        ("snapshot sav", "save"),
        ("xyzzy", ""),
        ("wiring more", ""),
    ],
)
def test_an_unknown_topic_is_one_clear_line_and_exit_code_2(words: str, meant: str) -> None:
    result = run("help", *words.split())
    assert_clear_error(result, 2, repr(words), "'devenv help' lists")
    assert (f"did you mean '{meant}'?" in result.stderr) == bool(meant)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["statsu"], "devenv has no command 'statsu'; did you mean 'status'?"),
        (["images", "lst"], "devenv images has no command 'lst'; did you mean 'list'?"),
        (["xyzzy"], "devenv has no command 'xyzzy'\n"),
        (["up", "--formt", "json"], "--format"),
    ],
)
def test_a_misspelt_command_or_option_is_told_what_was_meant(arguments: list[str], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and told in result.stderr


@pytest.mark.parametrize("command", ["run", "shell", "ci"])
@pytest.mark.parametrize("option", ["--env-prefix", "--global-urls-variable", "-e", "-g"])
@pytest.mark.parametrize("name", ["", "1ST", "MY-TEST", "A=B", "Ä", "A\n"])
def test_a_name_that_no_variable_can_have_is_one_clear_line_and_exit_code_2(
    command: str, option: str, name: str
) -> None:
    result = run(command, option, name, "etcd", *([] if command == "shell" else ["--", "true"]))
    assert result.exit_code == 2
    (line,) = (line for line in result.stderr.splitlines() if "cannot" in line)
    assert re.match(rf"Error: cannot use {re.escape(repr(name))} for --(env-prefix|global-urls-variable): ", line)


# ---- init --------------------------------------------------------------------------------------------------------


def test_init_writes_a_file_that_is_understood(project: Path) -> None:
    result = run("init")
    assert (result.exit_code, result.stdout) == (0, f"wrote {project}/devenv.yaml; 'devenv up' reads it\n")
    assert load_profile(project).name == "base"


def test_init_writes_to_the_project_that_is_named(tmp_path: Path) -> None:
    assert run("--project", str(tmp_path), "init").exit_code == 0
    assert (tmp_path / "devenv.yaml").is_file()


def test_init_never_overwrites(project: Path) -> None:
    (project / "devenv.yaml").write_text("profile: database\n")
    assert_clear_error(run("init"), 3, "it exists")
    assert (project / "devenv.yaml").read_text() == "profile: database\n"


@pytest.mark.parametrize("place", ["/nonexistent", "/dev/null"])
def test_init_where_nothing_can_be_written_is_exit_code_3(place: str) -> None:
    assert_clear_error(run("--project", place, "init"), 3, place)
