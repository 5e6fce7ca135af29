"""Clients of services as commands of devenv, without an engine."""

from __future__ import annotations

import os
import re
import webbrowser
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import pytest
from builders import read_yaml
from click.testing import CliRunner, Result
from fake_engine import FakeEngine
from pseudo_terminal import on_terminal

from devenv.cli import clients as module
from devenv.cli.clients import clients
from devenv.cli.main import main
from devenv.lifecycle.environment import Environment
from devenv.model import Observed, ObservedContainer
from devenv.spec.catalogue import load_catalogue
from tests.pages import text

CATALOGUE = load_catalogue()


@pytest.fixture(autouse=True)
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Enter a project in which all services run."""
    running = {name: ObservedContainer(f"{name}-id", f"devenv-x-{name}", name, "running") for name in CATALOGUE}
    engine = FakeEngine(Observed(running))
    monkeypatch.setattr("devenv.lifecycle.seat.connect", lambda: engine)
    monkeypatch.chdir(tmp_path)
    return engine


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def executed(engine: FakeEngine) -> list[str]:
    return [call.removeprefix("execute ") for call in engine.calls if call.startswith("execute ")]


# ---- which there are ---------------------------------------------------------------------------------------------


def test_no_service_and_no_client_has_the_name_of_a_command() -> None:
    assert not {*CATALOGUE, *clients()} & {*main.commands}


def test_no_two_services_have_a_client_of_the_same_name() -> None:
    named = Counter([*CATALOGUE, *(name for one in CATALOGUE.values() for name in one.clients if name != one.name)])
    assert {name for name, times in named.items() if times > 1} == set()


def test_every_service_has_a_usual_client() -> None:
    assert {name: clients()[name].name for name in CATALOGUE} == {
        "etcd": "etcdctl",
        "keystone": "openstack",
        "mariadb": "mariadb",
        "mysql": "mysql",
        "postgresql": "psql",
        "rabbitmq": "rabbitmqctl",
    }


def test_the_help_names_clients_that_exist_in_a_line_of_its_own() -> None:
    words, _, shown = run("--help").stdout.partition("\nClients:\n")
    named = re.findall(r"`(?:devenv )?(\w+)`", words.partition("`devenv up` returns. ")[2].partition(" are their")[0])
    assert len(named) > 3 and {*named} <= {*clients()}
    assert shown.strip() == "CLIENT  Run a service's client, logged in; 'devenv help clients' lists them."


def test_the_page_lists_every_client() -> None:
    rows = re.findall(
        r"^\| ([a-z]+) \| (.*) \| (in the container|on your machine: .*) \|$", text(Path("docs/clients.md")), re.M
    )
    assert {service: re.findall(r"`([\w-]+)`", names) for service, names, _ in rows} == {
        name: [*service.clients] for name, service in CATALOGUE.items()
    }
    for service, _, where in rows:
        package = next(iter(CATALOGUE[service].clients.values())).package
        assert (f"`pip install {package}`" in where) if package else where == "in the container"


def test_a_client_has_help_of_devenvs_own() -> None:
    shown = run("help", "mysqldump").stdout
    assert "Usage: devenv mysqldump [ARGUMENT]..." in shown and "logged in as the administrator" in shown
    assert "mysql" in run("help", "clients").stdout


def test_a_name_that_is_nearly_a_clients_is_answered_with_it() -> None:
    for wrong, meant in (("mysqll", "mysql"), ("etcdtcl", "etcdctl"), ("statsu", "status"), ("postgres", "postgresql")):
        done = run(wrong)
        assert done.exit_code == 2 and f"did you mean '{meant}'?" in done.stderr
    assert "did you mean 'up'?" in run("upp").stderr


@pytest.mark.parametrize(
    ("typed", "words"), [("my", ["mysql", "mysqldump", "mysqladmin"]), ("et", ["etcd", "etcdctl"])]
)
def test_the_shell_completes_clients(typed: str, words: list[str]) -> None:
    asked = {"_DEVENV_COMPLETE": "bash_complete", "COMP_WORDS": f"devenv {typed}", "COMP_CWORD": "1"}
    done = CliRunner().invoke(main, env=asked, prog_name="devenv")
    assert done.stdout.splitlines() == [f"plain,{word}" for word in words]


def test_nothing_is_completed_behind_a_client() -> None:
    asked = {"_DEVENV_COMPLETE": "bash_complete", "COMP_WORDS": "devenv mysql --", "COMP_CWORD": "2"}
    assert CliRunner().invoke(main, env=asked, prog_name="devenv").stdout.split() == []


# ---- in a container ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-e", "SELECT 1"],
        ["-eSELECT 1", "nova"],
        ["--help"],
        ["-h", "127.0.0.1"],
        ["--version"],
        ["--", "-x"],
        ["a", "--", "b"],
        ["--env", "other", "--format", "json"],
        ["", "é", "a b"],
    ],
    ids=repr,
)
def test_a_client_gets_every_argument_as_it_is(arguments: list[str], engine: FakeEngine) -> None:
    seen: list[list[str]] = []
    execute = engine.execute

    def noted(container: str, command: list[str], *more: Any) -> Any:
        seen.append(command)
        return execute(container, command, *more)

    engine.execute = noted  # type: ignore[method-assign,assignment]
    assert run("mysql", *arguments).exit_code == 127
    assert seen == [["mysql", *arguments]]


def test_output_and_exit_code_are_the_clients(engine: FakeEngine) -> None:
    engine.commands["etcdctl", "get", "key"] = lambda _: (b"key\nvalue\n", b"a warning\n", 3)
    done = run("etcdctl", "get", "key")
    assert (done.stdout, done.stderr, done.exit_code) == ("key\nvalue\n", "a warning\n", 3)


def test_a_client_gets_the_login_that_its_service_asks_for_in_a_variable(engine: FakeEngine, tmp_path: Path) -> None:
    given: list[Any] = []
    execute = engine.execute

    def noted(container: str, command: list[str], tty: bool, environment: Any = None) -> Any:
        given.append(environment)
        return execute(container, command, tty, environment)

    engine.execute = noted  # type: ignore[method-assign,assignment]
    run("etcdctl", "user", "list")
    (tmp_path / "devenv.yaml").write_text("services: {etcd: {auth: true}}\n")
    run("etcdctl", "user", "list")
    assert given[0] == {} and given[1].keys() == {"ETCDCTL_USER"}
    assert given[1]["ETCDCTL_USER"].startswith("root:") and executed(engine) == ["etcdctl user list in etcd-id"] * 2


def test_a_service_stands_for_its_usual_client(engine: FakeEngine) -> None:
    run("postgresql", "-c", "SELECT 1")
    run("rabbitmq-queues", "list")
    assert executed(engine) == ["psql -c SELECT 1 in postgresql-id", "rabbitmq-queues list in rabbitmq-id"]


def test_options_of_devenv_stand_before_the_client(engine: FakeEngine) -> None:
    assert "cannot use 'UPPER'" in run("--env", "UPPER", "mysql").stderr
    assert executed(engine) == []


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (Observed(), "cannot find a container of"),
        (Observed({"mysql": ObservedContainer("1", "devenv-x-mysql", "mysql", "exited")}), "devenv start mysql"),
    ],
    ids=["absent", "stopped"],
)
def test_a_service_that_does_not_run_is_one_clear_line(observed: Observed, words: str, engine: FakeEngine) -> None:
    engine.observed = observed
    done = run("mysqldump", "nova")
    assert done.exit_code == 3 and words in done.stderr and done.stderr.startswith("cannot ")
    assert executed(engine) == []


# ---- on this machine ---------------------------------------------------------------------------------------------


class Became(BaseException):
    """Say what this process would have become."""


@pytest.fixture
def becoming(monkeypatch: pytest.MonkeyPatch) -> None:
    def execve(program: str, words: list[str], variables: dict[str, str]) -> NoReturn:
        raise Became(program, words, variables)

    monkeypatch.setattr(os, "execve", execve)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program of the client's name on PATH."""
    (folder := tmp_path / "bin").mkdir()
    (found := folder / "openstack").write_text("#!/bin/sh\n")
    found.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return found


@pytest.fixture
def clouds() -> Path:
    environment = Environment()
    environment.folder.mkdir(parents=True)
    (written := environment.folder / "clouds.yaml").write_text("clouds: {}\n")
    return written


@pytest.mark.usefixtures("becoming")
def test_a_client_of_this_machine_knows_the_environments_clouds_and_none_of_the_callers(
    program: Path, clouds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OS_CLOUD", "OS_TOKEN", "OS_PROJECT_ID", "OS_CLIENT_CONFIG_FILE", "OS_CACERT"):
        monkeypatch.setenv(name, "the caller's")
    monkeypatch.setenv("LANG", "C")
    with pytest.raises(Became) as caught:
        CliRunner().invoke(main, ["openstack", "--help", "--os-cloud", "devenv"], catch_exceptions=False)
    path, words, variables = caught.value.args
    assert (path, words) == (str(program), ["openstack", "--help", "--os-cloud", "devenv"])
    assert {name: value for name, value in variables.items() if name.startswith("OS_")} == {
        "OS_CLIENT_CONFIG_FILE": str(clouds),
        "OS_CLOUD": "devenv-admin",
    }
    assert variables["LANG"] == "C"


def test_the_cloud_that_it_uses_is_one_that_devenv_writes() -> None:
    for service in CATALOGUE.values():
        for client in service.clients.values():
            if client.package:
                template = re.sub(r"\$\{[^}]*\}", "x", (service.wire / "clouds.yaml").read_text())
                assert client.environment["OS_CLOUD"] in read_yaml(template)["clouds"]


@pytest.mark.usefixtures("becoming", "clouds")
def test_a_client_that_is_not_installed_is_one_line_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "python"))  # type: ignore[attr-defined]
    done = run("openstack", "token", "issue")
    assert done.exit_code == 127
    assert done.stderr.splitlines() == [
        "cannot run openstack: it is not installed on this machine",
        "hint: 'pip install python-openstackclient' installs it",
    ]


@pytest.mark.usefixtures("clouds")
@pytest.mark.parametrize(
    ("content", "reason", "code"),
    [("", "Exec format error", 126), ("#!/nosuch/python\n", "No such file or directory", 127)],
    ids=["no program", "its interpreter is gone"],
)
def test_a_client_that_the_system_does_not_start_is_one_clear_line(
    content: str, reason: str, code: int, program: Path
) -> None:
    program.write_text(content)
    done = run("openstack", "token", "issue")
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.splitlines() == [
        f"cannot run {program}: {reason}",
        "hint: check its name; if it is there, check its permissions and its first line",
    ]


@pytest.mark.usefixtures("becoming", "program")
def test_a_client_without_its_file_of_clouds_is_one_clear_line() -> None:
    done = run("openstack", "token", "issue")
    assert done.exit_code == 3 and "there is no " in done.stderr and "'devenv up' writes it" in done.stderr


@pytest.mark.usefixtures("becoming", "program", "clouds")
def test_a_client_of_a_service_that_does_not_run_is_not_started(engine: FakeEngine) -> None:
    engine.observed = Observed()
    assert run("openstack", "token", "issue").exit_code == 3


# ---- pages -------------------------------------------------------------------------------------------------------

PAGES = [name for name, service in CATALOGUE.items() if service.page]


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take away every sign of a display, and what is known of browsers."""
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    # It keeps the browsers that it has found.
    monkeypatch.setattr(webbrowser, "_tryorder", None)
    return monkeypatch


def password_of(service: str) -> str:
    return Environment().state.secrets((), keep=False)[f"{service}.password"]


@pytest.mark.usefixtures("known_password", "display")
@pytest.mark.parametrize("service", PAGES)
def test_without_a_display_the_page_is_told_and_no_password(service: str) -> None:
    done = run("open", service)
    assert done.exit_code == 0
    assert re.fullmatch(
        rf"http://127\.0\.0\.1:\d+\nlog in as devenv; 'devenv open {service} --print' shows the password\n",
        done.stdout,
    )


@pytest.mark.usefixtures("known_password")
@pytest.mark.parametrize("service", PAGES)
def test_the_password_is_printed_if_asked_for(service: str) -> None:
    url, *login = run("open", service, "--print").stdout.splitlines()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert login == ["user: devenv", f"password: {password_of(service)}"]


@pytest.fixture
def known_password(tmp_path: Path) -> None:
    """Keep passwords, as an `up` does."""
    Environment(tmp_path).state.secrets([f"{service}.password" for service in PAGES])


def opening(stream: Any) -> None:
    with redirect_stdout(stream):
        main(["open", "rabbitmq"])


@pytest.mark.parametrize(("named", "opened"), [("BROWSER", True), ("NOTHING", False)])
def test_a_terminal_with_a_display_opens_the_users_browser(
    named: str, opened: bool, display: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (browser := tmp_path / "browser").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    display.setenv(named, f"{browser} %s")
    told = on_terminal(opening)
    assert told.startswith("opened http://127.0.0.1:" if opened else "http://127.0.0.1:")
    assert (tmp_path / "opened").exists() == opened
    if opened:
        assert told.startswith(f"opened {(tmp_path / 'opened').read_text().strip()}\r\n")


def test_a_browser_that_does_not_start_leaves_the_url(display: pytest.MonkeyPatch, tmp_path: Path) -> None:
    display.setenv("BROWSER", f"{tmp_path}/nosuch %s")
    assert on_terminal(opening).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("service", ["etcd", "nosuch", "rabbitm", "../x"])
def test_what_has_no_page_is_one_clear_line_that_names_what_has(service: str) -> None:
    done = run("open", service)
    assert done.exit_code == 3 and done.stdout == ""
    assert done.stderr.splitlines()[0] == f"cannot open {service!r}: it is no service with a page"
    assert "these have one: rabbitmq" in done.stderr


def test_a_page_of_a_service_that_does_not_run_is_not_opened(engine: FakeEngine) -> None:
    engine.observed = Observed({"rabbitmq": ObservedContainer("1", "devenv-x-rabbitmq", "rabbitmq", "exited")})
    assert "'devenv start rabbitmq'" in run("open", "rabbitmq", "--print").stderr
    engine.observed = Observed()
    assert "cannot find a container of" in run("open", "rabbitmq").stderr


def test_the_shell_completes_what_has_a_page() -> None:
    asked = {"_DEVENV_COMPLETE": "bash_complete", "COMP_WORDS": "devenv open ", "COMP_CWORD": "2"}
    assert CliRunner().invoke(main, env=asked, prog_name="devenv").stdout.splitlines() == ["plain,rabbitmq"]
