"""`devenv run` gives a command services and a component of its own, and leaves nothing of them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from project import Project, one_clear_line, ours

NOTHING: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}
# Prints its variables when it begins, and ends after a line of input.
WAITS = "import json, os, sys; print(json.dumps(dict(os.environ)), flush=True); sys.stdin.readline()"


@pytest.fixture
def etcd(project: Project) -> Project:
    project.configure("profile: coordination\n")
    return project


def command_of(project: Project, *arguments: str) -> dict[str, Any]:
    """Return the arguments of Popen that start the command line."""
    command = [sys.executable, "-m", "devenv", *arguments]
    return {"args": command, "cwd": project.folder, "env": project.environ, "text": True}


@contextmanager
def begun(
    project: Project, *arguments: str, code: str = WAITS
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Start a run whose command waits; yield the run and the command's variables."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(**command_of(project, "run", *arguments, "--", sys.executable, "-c", code), **pipes) as run:
        assert run.stdout and run.stderr
        line = run.stdout.readline()
        assert line, run.stderr.read()
        yield run, json.loads(line)


def end(run: subprocess.Popen[str]) -> int:
    run.communicate("\n")
    return run.returncode


def state_of(project: Project, service: str = "etcd") -> str:
    return str(project.json("status")["services"][service]["state"])


def put(project: Project, key: str) -> None:
    project.devenv("exec", "etcd", "etcdctl", "put", key, "1")


def keys(project: Project) -> list[str]:
    return project.devenv("exec", "etcd", "etcdctl", "get", "--prefix", "", "--keys-only").stdout.split()


def users(project: Project) -> list[str]:
    login = project.env()["ETCDCTL_USER"]
    return project.devenv("exec", "etcd", "etcdctl", "--user", login, "user", "list").stdout.split()


# ---- what the command gets ---------------------------------------------------------------------------------------


def test_a_command_has_a_component_of_its_own_and_all_is_gone_afterwards(
    project: Project, client: docker.DockerClient
) -> None:
    script = """
import os, pymysql
from urllib.parse import urlsplit
url = urlsplit(os.environ["PIFPAF_URL"])
assert url.scheme == "mysql" and os.environ["PIFPAF_URLS"].startswith(os.environ["PIFPAF_MYSQL_URL"])
login = {"user": url.username, "password": url.password, "database": url.path[1:]}
with pymysql.connect(host=url.hostname, port=url.port, **login) as c:
    cursor = c.cursor()
    cursor.execute("CREATE TABLE t (a INT)")
    cursor.execute("SHOW DATABASES")
    print([row[0] for row in cursor.fetchall() if row[0] not in ("information_schema", "performance_schema")])
assert os.environ["OS_DATABASE__CONNECTION"] == os.environ["SQLALCHEMY_DATABASE_URI"]
assert os.path.exists(os.environ["DEVENV_OSLO_CONF"])
print(os.environ["DEVENV_COMPONENT"])
"""
    done = project.devenv("run", "mysql", "etcd", "--", sys.executable, "-c", script)
    databases, component = done.stdout.splitlines()
    assert component.startswith("run-") and databases == str([component.replace("-", "_")])
    assert ours(client, project.id) == NOTHING
    assert not (project.folder / ".devenv").exists()


@pytest.mark.anywhere
@pytest.mark.parametrize(("code", "expected"), [("exit 7", 7), ("kill -TERM $$", 128 + signal.SIGTERM)])
def test_the_exit_code_is_the_commands(etcd: Project, code: str, expected: int) -> None:
    etcd.devenv("up")
    assert etcd.devenv("run", "--", "sh", "-c", code, check=False).returncode == expected


def test_what_runs_already_is_used_and_stays(project: Project, client: docker.DockerClient) -> None:
    project.configure("profile: base\ncomponents: {nova: {}}\n")
    project.devenv("up", "etcd")
    put(project, "mine")
    container = project.json("status")["services"]["etcd"]["container"]
    with begun(project, "etcd", "mysql") as (run, variables):
        assert variables["DATABASE_URL"].startswith("mysql://run_")
        assert state_of(project, "mysql") == "ready"
        assert end(run) == 0
    assert state_of(project) == "ready" and state_of(project, "mysql") == "absent"
    assert project.json("status")["services"]["etcd"]["container"] == container
    assert keys(project) == ["mine"]
    assert sorted(path.name for path in (project.folder / ".devenv").glob("run-*")) == []
    volumes = ours(client, project.id)["volumes"]
    assert [name for name in volumes if name.endswith("-data")] == [f"devenv-{project.id}-etcd-data"]


def test_a_component_of_the_projects_keeps_its_data(project: Project) -> None:
    project.configure("profile: database\ncomponents: {nova: {}}\n")
    project.devenv("up")
    make = "mysql -e 'CREATE TABLE nova.kept (a INT)'"
    project.devenv("run", "--component", "nova", "--", "sh", "-c", 'test "$DEVENV_MYSQL_DATABASE" = nova')
    project.devenv("exec", "mysql", "sh", "-c", make)
    project.devenv("run", "--component", "nova", "--", "true")
    assert project.devenv("exec", "mysql", "mysql", "-N", "-e", "SHOW TABLES IN nova").stdout.strip() == "kept"


@pytest.mark.parametrize(("before", "after"), [("stop", "stopped"), ("down", "absent")])
def test_services_are_afterwards_what_they_were_before(etcd: Project, before: str, after: str) -> None:
    etcd.devenv("up")
    put(etcd, "kept")
    etcd.devenv(before)
    etcd.devenv("run", "--", "true")
    assert state_of(etcd) == after
    etcd.devenv("up")
    assert keys(etcd) == ["kept"]


TOX = """
[tox]
envlist = common, own
skipsdist = true
[testenv]
passenv = KEPT
setenv = COMMON = 1
commands = python -c "import os; print(*(os.environ.get(name) for name in ('ETCD_ENDPOINTS', 'KEPT', 'MINE')))"
[testenv:own]
pass_env =
    KEPT
"""


@pytest.mark.anywhere
def test_variables_pass_through_tox_beside_what_it_passes_and_what_the_user_changes(etcd: Project) -> None:
    (etcd.folder / "tox.ini").write_text(TOX)
    etcd.extra = {"KEPT": "kept", "TOX_OVERRIDE": "testenv.setenv+=MINE=mine"}
    tox = [sys.executable, "-m", "tox", "-q", "-e", "common,own"]
    done = etcd.process("run", "--", *tox)
    lines = [line for line in done.stdout.splitlines() if line.startswith("http")]
    assert len(lines) == 2 and all(re.fullmatch(r"http://127.0.0.1:\d+ kept mine", line) for line in lines), lines


@pytest.mark.anywhere
@pytest.mark.parametrize(
    "where", ["above", *(pytest.param(where, marks=pytest.mark.long) for where in ("option", "variable"))]
)
def test_variables_pass_through_tox_whose_configuration_is_elsewhere(etcd: Project, where: str) -> None:
    (etcd.folder / "ci").mkdir()
    (etcd.folder / "ci/tox.ini").write_text(TOX)
    (etcd.folder / "ci/deeper").mkdir()
    options = ["-c", "ci/tox.ini"] if where == "option" else []
    etcd.extra = {"KEPT": "kept"} | ({"TOX_CONFIG_FILE": "ci/tox.ini"} if where == "variable" else {})
    tox = [sys.executable, "-m", "tox", "-q", "-e", "common", *options]
    done = etcd.process("run", "--", *tox, cwd=etcd.folder / "ci/deeper" if where == "above" else None)
    assert re.search(r"^http://127.0.0.1:\d+ kept None$", done.stdout, re.MULTILINE), done.stdout


NOX = """
import nox

@nox.session(venv_backend="none")
def tests(session):
    session.run("python3", "-c", "import os; print(os.environ['ETCD_ENDPOINTS'])", silent=False)
"""


@pytest.mark.anywhere
def test_nox_passes_variables_on_by_itself(etcd: Project) -> None:
    (etcd.folder / "noxfile.py").write_text(NOX)
    done = etcd.process("run", "--", sys.executable, "-m", "nox")
    assert re.search(r"^http://127.0.0.1:\d+$", done.stdout, re.MULTILINE), done.stdout + done.stderr


# ---- under pifpaf's names ----------------------------------------------------------------------------------------


PIFPAF = """
import json, os, pymysql
from urllib.parse import urlsplit
found = {name: value for name, value in os.environ.items() if name.startswith(("A_", "B_", "ALL"))}
url = urlsplit(os.environ["A_URL"])
with pymysql.connect(host=url.hostname, port=url.port, user=url.username, password=url.password) as c:
    cursor = c.cursor()
    cursor.execute("CREATE DATABASE another")
    cursor.execute("DROP DATABASE another")
print(json.dumps(found))
"""


@pytest.mark.anywhere
def test_nested_runs_keep_the_administrators_urls_of_the_ones_around_them(project: Project) -> None:
    devenv = [sys.executable, "-m", "devenv", "run"]
    inner = [*devenv, "-e", "B", "-g", "ALL", "etcd", "--", sys.executable, "-c", PIFPAF]
    done = project.process("run", "-e", "A", "-g", "ALL", "mysql", "--", *inner)
    found = json.loads(done.stdout)
    assert found["A_URL"] == found["A_MYSQL_URL"] and found["A_DAEMON"] == "mysql"
    assert found["B_URL"] == found["B_ETCD_URL"] and found["B_DAEMON"] == "etcd" and "B_MYSQL_URL" not in found
    for_sqlalchemy = found["A_URL"].replace("mysql:", "mysql+pymysql:")
    assert found["ALL"] == f"{for_sqlalchemy}?charset=utf8mb4;{found['B_URL']}"


@pytest.mark.anywhere
def test_a_nested_run_does_not_advise_against_the_services_of_the_one_around_it(project: Project) -> None:
    inner = [sys.executable, "-m", "devenv", "run", "etcd", "--", "true"]
    assert "is not in the profile" not in project.process("run", "postgresql", "--", *inner).stderr


@pytest.mark.anywhere
def test_the_url_is_that_of_the_service_that_the_run_names(project: Project) -> None:
    project.configure("profile: base\ncomponents: {nova: {}}\n")
    project.devenv("up", "mysql", "etcd")
    with begun(project, "--component", "nova", "etcd") as (run, variables):
        assert variables["PIFPAF_URL"] == variables["PIFPAF_URLS"] == variables["PIFPAF_ETCD_URL"]
        assert variables["PIFPAF_MYSQL_URL"].startswith("mysql://nova:")
        assert end(run) == 0


@pytest.mark.anywhere
def test_a_name_that_no_variable_can_have_is_refused_before_anything_starts(
    etcd: Project, client: docker.DockerClient
) -> None:
    refused = etcd.devenv("run", "-e", "MY-TEST", "--", "true", check=False)
    assert refused.returncode == 2 and "cannot use 'MY-TEST' for --env-prefix" in refused.stderr
    assert ours(client, etcd.id) == NOTHING


# ---- several at once ---------------------------------------------------------------------------------------------


def test_runs_at_the_same_time_share_services_and_the_last_one_ends_them(
    etcd: Project, client: docker.DockerClient
) -> None:
    with begun(etcd) as (first, one), begun(etcd) as (second, two):
        assert one["DEVENV_COMPONENT"] != two["DEVENV_COMPONENT"]
        assert end(first) == 0
        assert state_of(etcd) == "ready"
        assert end(second) == 0
    assert ours(client, etcd.id) == NOTHING


@pytest.mark.anywhere
def test_a_component_is_lent_to_one_run_at_a_time(etcd: Project) -> None:
    with begun(etcd, "--component", "mine") as (run, _):
        refused = etcd.devenv("run", "--component", "mine", "--", "true", check=False)
        one_clear_line(refused, 3, "cannot use component 'mine': another run has it")
        assert end(run) == 0
    etcd.devenv("run", "--component", "mine", "--", "true")


@pytest.mark.anywhere
@pytest.mark.parametrize("name", ["my_service", "my-service"])
def test_a_component_whose_data_somebody_keeps_is_not_lent(etcd: Project, name: str) -> None:
    etcd.configure("profile: coordination\ncomponents: [my-service]\n")
    etcd.devenv("up")
    put(etcd, "/my-service/key")
    # devenv.yaml does not list my-service itself any more, but devenv keeps its data until `up --drop`.
    etcd.configure("profile: coordination\n" + ("components: [my-service]\n" if name == "my_service" else ""))
    refused = etcd.devenv("run", "--component", name, "--", "true", check=False)
    one_clear_line(refused, 3, f"cannot make component {name!r} for a run", "my-service")
    assert keys(etcd) == ["/my-service/key"]


@pytest.mark.anywhere
def test_what_a_service_has_in_another_one_is_not_lent_and_stays(running: Project) -> None:
    for name in ("keystone", "mysql", "devenv"):
        refused = running.devenv("run", "--component", name, "--", "true", check=False)
        one_clear_line(refused, 3, f"cannot name a component {name!r}: ", "choose another name")
    running.devenv("gc", "--keep", "100000")
    assert "nothing to change" in running.devenv("plan").stdout
    assert state_of(running, "keystone") == "ready"


@pytest.mark.anywhere
def test_a_component_that_is_put_into_devenv_yaml_meanwhile_stays(etcd: Project) -> None:
    with begun(etcd, "--component", "mine") as (run, _):
        etcd.configure("profile: coordination\ncomponents: [mine]\n")
        etcd.devenv("up")
        put(etcd, "/mine/key")
        assert end(run) == 0
    assert keys(etcd) == ["/mine/key"] and (etcd.folder / ".devenv/mine.conf").exists()
    # As if it had never been lent: without `--drop`, devenv keeps its data.
    etcd.configure("profile: coordination\n")
    assert "kept the data of mine" in etcd.devenv("up").stderr
    assert keys(etcd) == ["/mine/key"]


@pytest.mark.anywhere
def test_what_a_killed_run_had_and_is_in_devenv_yaml_by_now_stays(etcd: Project) -> None:
    etcd.devenv("up")
    with begun(etcd, "--component", "mine") as (run, _):
        run.kill()
        run.communicate()
    etcd.configure("profile: coordination\ncomponents: [mine]\n")
    etcd.devenv("up")
    put(etcd, "/mine/key")
    etcd.configure("profile: coordination\n")
    etcd.devenv("up")
    etcd.devenv("gc", "--keep", "100000")
    assert keys(etcd) == ["/mine/key"]


def test_what_the_user_brings_up_meanwhile_stays(etcd: Project) -> None:
    with begun(etcd) as (run, _):
        etcd.devenv("up")
        assert end(run) == 0
    assert state_of(etcd) == "ready"


# ---- when it is ended --------------------------------------------------------------------------------------------


def test_a_signal_goes_to_the_command_and_all_is_cleaned_up(etcd: Project, client: docker.DockerClient) -> None:
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); " + WAITS
    with begun(etcd, code=code) as (run, _):
        run.send_signal(signal.SIGTERM)
        # Not `communicate`, which would end its input, too.
        assert run.wait() == 3
    assert ours(client, etcd.id) == NOTHING


def test_a_terminal_that_closes_while_services_come_up_leaves_nothing(
    etcd: Project, client: docker.DockerClient
) -> None:
    code, _ = etcd._until("create etcd", signal.SIGHUP, "run", "--", "true")
    assert code == 130
    assert ours(client, etcd.id) == NOTHING


def test_ctrl_c_ends_the_command_once_and_all_is_cleaned_up(etcd: Project, client: docker.DockerClient) -> None:
    code = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("begun", flush=True)
sys.exit(5 if signal.sigwait([signal.SIGINT]) == signal.SIGINT else 3)
"""
    arguments = command_of(etcd, "run", "--", sys.executable, "-c", code)
    number, terminal = pty.fork()
    if number == 0:
        os.chdir(arguments["cwd"])
        os.execve(arguments["args"][0], arguments["args"], arguments["env"])
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        seen = b""
        while b"begun" not in seen:
            seen += screen.read(1024)
        os.write(terminal, b"\x03")
        with pytest.raises(OSError, match="Input/output"):  # how Linux tells that nobody has the terminal any more
            while screen.read(1024):
                pass
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 5
    assert ours(client, etcd.id) == NOTHING


def test_what_a_killed_run_left_is_dropped_by_the_next_and_ended_by_gc(
    etcd: Project, client: docker.DockerClient
) -> None:
    etcd.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    with begun(etcd) as (run, variables):
        run.kill()
        run.wait()
    component = variables["DEVENV_COMPONENT"]
    assert component in users(etcd)
    etcd.devenv("run", "--", "true")
    # That run was the last to use them, and took down the killed run's services.
    assert ours(client, etcd.id) == NOTHING

    with begun(etcd) as (run, _):
        run.kill()
        run.wait()
    etcd.devenv("gc")
    assert ours(client, etcd.id) == NOTHING

    etcd.devenv("up")
    with begun(etcd) as (run, variables):
        run.kill()
        run.wait()
    etcd.devenv("up")
    assert users(etcd) == ["root"]
    assert variables["DEVENV_COMPONENT"] not in (etcd.state / "environments" / etcd.id / "secrets.json").read_text()
    assert list((etcd.state / "environments" / etcd.id / "lent").iterdir()) == []


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "why"), [("auth: true", "it has other settings"), ("ports: {client: 2}", "answers on port ")]
)
def test_a_service_that_runs_is_not_made_what_a_run_asks_for(etcd: Project, setting: str, why: str) -> None:
    etcd.devenv("up")
    put(etcd, "mine")
    plain, url = etcd.folder / "devenv.yaml", etcd.env()["DEVENV_ETCD_URL"]
    before = plain.read_text()
    etcd.configure(f"profile: coordination\nservices: {{etcd: {{{setting}}}}}\n")
    refused = etcd.devenv("run", "--", "true", check=False)
    one_clear_line(refused, 3, "cannot use etcd as it runs: ", why, "'devenv up etcd' makes it what devenv.yaml says")
    plain.write_text(before)
    assert "nothing to change" in etcd.devenv("plan").stdout
    assert etcd.env()["DEVENV_ETCD_URL"] == url and keys(etcd) == ["mine"]
    etcd.devenv("run", "--", "true")
    assert keys(etcd) == ["mine"]


@pytest.mark.anywhere
def test_what_cannot_be_run_is_one_clear_line_and_leaves_nothing(etcd: Project, client: docker.DockerClient) -> None:
    one_clear_line(etcd.devenv("run", "--", "no-such-program", check=False), 127, "cannot run no-such-program")
    (etcd.folder / "plain").write_text("")
    one_clear_line(etcd.devenv("run", "--", "./plain", check=False), 126, "cannot run ./plain: Permission denied")
    one_clear_line(etcd.devenv("run", "redis", "--", "true", check=False), 3, "cannot find service 'redis'")
    one_clear_line(
        etcd.devenv("run", "--component", "No", "--", "true", check=False), 3, "cannot name a component 'No'"
    )
    refused = etcd.devenv("run", "etcd", check=False)
    assert refused.returncode == 2 and "cannot run nothing" in refused.stderr
    assert ours(client, etcd.id) == NOTHING
    assert not (etcd.folder / ".devenv").exists()


def test_a_shell_has_the_same(etcd: Project, client: docker.DockerClient, tmp_path: Path) -> None:
    etcd.extra = {"SHELL": "/bin/sh"}
    done = etcd.devenv("shell", stdin='echo "$DEVENV_ETCD_PREFIX"; exit 4\n', check=False)
    assert done.returncode == 4 and done.stdout.startswith("/run-")
    assert ours(client, etcd.id) == NOTHING
