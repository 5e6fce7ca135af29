"""The pytest plugin: services when a test asks for them, a component for each test, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
import requests
from project import REPOSITORY, Project, new_project, ours
from suites import NOTHING, all_of, outcome, pytest_begun, pytest_process, pytest_run, remains, write

from devenv.engine.connection import endpoint_in_use

# Counts the keys below the component's prefix, then puts one there.
ETCD = """
import base64, requests

def keys(component):
    etcd, prefix = component.service("etcd"), component.env["DEVENV_ETCD_PREFIX"]
    url = f"http://{etcd.endpoint.host}:{etcd.endpoint.port}/v3/kv"
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    where = {"key": base64.b64encode(prefix.encode()).decode(), "range_end": base64.b64encode(end.encode()).decode()}
    found = requests.post(f"{url}/range", json=where, timeout=10).json().get("count", 0)
    body = {"key": base64.b64encode(f"{prefix}k".encode()).decode(), "value": ""}
    requests.post(f"{url}/put", json=body, timeout=10).raise_for_status()
    return int(found)
"""


@pytest.fixture
def etcd(project: Project) -> Project:
    """Configure a project with tests and etcd."""
    project.configure("profile: coordination\n")
    write(project, "helpers.py", ETCD)
    return project


# ---- what tests get ------------------------------------------------------------------------------------------------


def test_every_test_has_a_fresh_component_and_nothing_is_left(running: Project, client: docker.DockerClient) -> None:
    before = all_of(running, client)
    write(
        running,
        "test_all.py",
        """
        import pymysql
        from urllib.parse import urlsplit

        def tables(component):
            url = urlsplit(component.env["DATABASE_URL"])
            login = {"user": url.username, "password": url.password, "database": url.path[1:]}
            with pymysql.connect(host=url.hostname, port=url.port, **login) as connection:
                cursor = connection.cursor()
                found = cursor.execute("SHOW TABLES")
                cursor.execute(f"CREATE TABLE t{found} (a INT)")
                return found

        @pytest.mark.parametrize("number", range(3))
        def test_function(devenv_component, number):
            assert tables(devenv_component) == 0

        @pytest.mark.parametrize("number", range(3))
        def test_module(devenv_module_component, devenv_component, number):
            assert tables(devenv_module_component) == number
            assert devenv_component.name != devenv_module_component.name

        def test_environment(devenv, devenv_component):
            assert devenv.service("mysql").endpoint.url.startswith("mysql+pymysql://devenv:")
            assert devenv.env["DEVENV_MYSQL_URL"] == devenv.service("mysql").endpoint.url
            assert devenv.env["OS_USERNAME"] == "admin"
            assert devenv_component.service("mysql").endpoint.url == devenv_component.env["DEVENV_MYSQL_URL"]
            assert devenv_component.env["OS_USERNAME"] == devenv_component.name
            assert devenv.service("rabbitmq").endpoints["management"].port

        def test_another_cloud(devenv_component, monkeypatch):
            monkeypatch.setenv("OS_CLOUD", "production")
            monkeypatch.setenv("OS_TEST_TIMEOUT", "5")
            environ = devenv_component.environ
            assert "OS_CLOUD" not in environ and environ["OS_TEST_TIMEOUT"] == "5"
            assert environ.items() >= devenv_component.env.items()

        def test_oslo(devenv_oslo_conf, devenv_component):
            from oslo_config import cfg
            conf, path = devenv_oslo_conf
            conf.register_opts([cfg.StrOpt("connection")], group="database")
            assert conf.database.connection == devenv_component.service("mysql").endpoint.url
            assert path == devenv_component.overlay and path.stat().st_mode & 0o777 == 0o600
        """,
    )
    outcome(pytest_run(running), passed=9)
    (running.folder / "test_all.py").unlink()
    assert all_of(running, client) == before
    assert not [*(running.folder / ".devenv").glob("test-*")]
    login = running.env()["DEVENV_RABBITMQ_USER"], running.env()["DEVENV_RABBITMQ_PASSWORD"]
    vhosts = requests.get(f"{running.env()['DEVENV_RABBITMQ_MANAGEMENT_URL']}/api/vhosts", auth=login, timeout=10)
    assert not [vhost for vhost in vhosts.json() if vhost["name"].startswith("test-")]


def test_services_start_only_when_a_test_asks_for_one_of_them(project: Project, client: docker.DockerClient) -> None:
    write(
        project,
        "test_lazy.py",
        """
        import subprocess, docker
        from devenv.engine.connection import endpoint_in_use

        def running():
            label = {"label": f"io.devenv.environment={os.environ['IDENTITY']}"}
            client = docker.DockerClient(base_url=endpoint_in_use()[0])
            there = client.containers.list(filters=label, ignore_removed=True)
            found = sorted(container.labels["io.devenv.service"] for container in there)
            client.close()
            return found

        def test_nothing(devenv):
            assert running() == []

        def test_one(devenv):
            assert devenv.service("etcd").endpoint.port
            assert running() == ["etcd"]

        def test_component(devenv_component):
            assert devenv_component.services == ["mysql", "etcd"]
            assert running() == ["etcd", "mysql"]
        """,
    )
    write(
        project,
        "conftest.py",
        "@pytest.fixture(scope='session')\ndef devenv_services():\n    return ['mysql', 'etcd']\n",
    )
    project.extra["IDENTITY"] = project.id
    outcome(pytest_run(project, "-W", "ignore"), passed=3)


def test_what_a_marker_names_starts_with_the_session_in_the_background(etcd: Project) -> None:
    # The test that needs it comes last, and the first one ends only when the service is there.
    write(
        etcd,
        "test_background.py",
        """
        from devenv import Environment

        def test_first():
            while [one.state for one in Environment().status().values()] != ["ready"]:
                pass

        @pytest.mark.devenv(services=["etcd"])
        def test_last():
            assert Environment().status()["etcd"].state == "ready"
        """,
    )
    outcome(pytest_process(etcd, "--timeout=120"), passed=2)


def test_a_running_environment_is_taken_as_it_is(etcd: Project, client: docker.DockerClient) -> None:
    etcd.devenv("up")
    container = etcd.json("status")["services"]["etcd"]["container"]
    etcd.devenv("exec", "etcd", "etcdctl", "put", "mine", "1")
    before = client.containers.get(container).id
    # An `up` would recreate etcd for this.
    etcd.configure("profile: coordination\ndurable: true\n")
    write(
        etcd,
        "test_reuse.py",
        "from helpers import keys\ndef test(devenv_component):\n    assert keys(devenv_component) == 0\n",
    )
    outcome(pytest_run(etcd), passed=1)
    etcd.configure("profile: coordination\n")
    assert client.containers.get(container).id == before
    found = etcd.devenv("exec", "etcd", "etcdctl", "get", "--prefix", "", "--keys-only").stdout.split()
    assert found == ["mine"]


def test_a_fresh_run_leaves_the_developers_environment_alone(etcd: Project, client: docker.DockerClient) -> None:
    etcd.devenv("up")
    etcd.devenv("exec", "etcd", "etcdctl", "put", "mine", "1")
    before = all_of(etcd, client)
    write(
        etcd,
        "test_fresh.py",
        """
        from devenv import Environment

        def test(devenv):
            assert devenv.service("etcd").endpoint.port != Environment().status()["etcd"].endpoints["client"]["port"]
        """,
    )
    outcome(pytest_run(etcd, "--devenv-fresh"), passed=1)
    assert all_of(etcd, client) == before
    refused = pytest_run(etcd, "--devenv-fresh", "--devenv-env", "default")
    outcome(refused, failed=1)
    assert "cannot begin afresh in environment 'default': it has etcd" in refused.stdout
    assert all_of(etcd, client) == before


def test_what_is_kept_serves_the_next_run_and_goes_with_it(etcd: Project, client: docker.DockerClient) -> None:
    write(etcd, "test_keep.py", "def test(devenv_component):\n    assert devenv_component.services == ['etcd']\n")
    outcome(pytest_run(etcd, "--devenv-keep"), passed=1)
    container = client.containers.get(etcd.json("status")["services"]["etcd"]["container"]).id
    outcome(pytest_run(etcd, "--devenv-keep"), passed=1)
    assert client.containers.get(etcd.json("status")["services"]["etcd"]["container"]).id == container
    outcome(pytest_run(etcd), passed=1)
    assert all_of(etcd, client) == NOTHING


def test_gc_ends_what_was_kept_in_any_environment_and_says_so(etcd: Project, client: docker.DockerClient) -> None:
    write(etcd, "test_keep.py", "def test(devenv_component):\n    assert devenv_component.services == ['etcd']\n")
    outcome(pytest_run(etcd, "--devenv-fresh", "--devenv-keep"), passed=1)
    assert all_of(etcd, client)["containers"]
    assert "ended in environment pytest: etcd\n" in etcd.devenv("gc").stdout
    assert all_of(etcd, client) == NOTHING
    assert "environment pytest" not in etcd.devenv("gc").stdout


@pytest.mark.parametrize(
    "command", [pytest.param("reset", marks=pytest.mark.long), pytest.param("start", marks=pytest.mark.long), "up"]
)
def test_what_the_user_took_over_stays(etcd: Project, client: docker.DockerClient, command: str) -> None:
    write(etcd, "test_keep.py", "def test(devenv_component):\n    assert devenv_component.services == ['etcd']\n")
    outcome(pytest_run(etcd, "--devenv-keep"), passed=1)
    etcd.devenv(command)
    outcome(pytest_run(etcd), passed=1)
    etcd.devenv("gc")
    assert etcd.json("status")["services"]["etcd"]["state"] == "ready"


def test_profile_services_and_settings_can_be_overridden(project: Project) -> None:
    write(
        project,
        "conftest.py",
        """
        @pytest.fixture(scope="session")
        def devenv_profile():
            return "coordination"

        @pytest.fixture(scope="session")
        def devenv_settings():
            return {"etcd": {"auth": True}}
        """,
    )
    write(
        project,
        "test_overridden.py",
        """
        def test(devenv, devenv_component):
            assert list(devenv.services) == ["etcd"]
            assert devenv_component.env["DEVENV_ETCD_PASSWORD"]
        """,
    )
    outcome(pytest_run(project), passed=1)


def test_a_marker_may_ask_for_another_profile(project: Project, client: docker.DockerClient) -> None:
    project.configure("profile: coordination\n")
    write(
        project,
        "test_profiles.py",
        """
        @pytest.mark.devenv(profile="database")
        def test_other(devenv_component):
            assert devenv_component.services == ["mysql"]

        def test_usual(devenv_component):
            assert devenv_component.services == ["etcd"]

        @pytest.mark.devenv(profile="no-such")
        def test_unknown(devenv_component):
            pass

        @pytest.mark.devenv(services=["no-such"])
        def test_unknown_service():
            pass
        """,
    )
    done = pytest_run(project)
    outcome(done, passed=2, errors=2)
    assert "cannot find profile 'no-such'" in done.stdout and "devenv has: " in done.stdout
    assert "cannot find service 'no-such'" in done.stdout
    assert "Traceback" not in done.stdout and "devenv/testing/lease.py" not in done.stdout
    assert all_of(project, client) == NOTHING


@pytest.mark.parametrize("marker", ["'etcd'", "services='etcd'", "service=['etcd']", "profile=3"])
def test_a_marker_that_cannot_be_understood_ends_the_run(etcd: Project, marker: str) -> None:
    write(etcd, "test_marker.py", f"@pytest.mark.devenv({marker})\ndef test():\n    pass\n")
    done = pytest_run(etcd)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "cannot use marker devenv with" in done.stdout and "Traceback" not in done.stdout


# ---- what a failure shows ------------------------------------------------------------------------------------------


def test_a_failed_test_shows_what_its_services_logged_meanwhile(etcd: Project) -> None:
    write(
        etcd,
        "test_fails.py",
        """
        import requests

        @pytest.mark.devenv(services=["etcd"])
        def test_before(devenv):
            requests.post(devenv.service("etcd").endpoint.url + "/v3/auth/enable", json={}, timeout=10)
            assert False

        def test_after(devenv_component):
            assert False
        """,
    )
    done = pytest_run(etcd)
    outcome(done, failed=2)
    before, _, after = done.stdout.partition("test_after ___")
    assert "etcd (ready), its log during the test" in before and "root user does not exist" in before
    assert "etcd (ready), its log during the test" in after and "root user does not exist" not in after


def test_no_password_that_a_service_logged_is_in_a_report_or_in_artifacts(project: Project) -> None:
    project.configure("profile: messaging\n")
    write(
        project,
        "test_logged.py",
        """
        import amqp

        def test_logged(devenv, devenv_component):
            for service in (devenv.service("rabbitmq"), devenv_component.service("rabbitmq")):
                (password,) = (value for name, value in service.env.items() if name.endswith("_RABBITMQ_PASSWORD"))
                with open("passwords", "a") as stream:
                    print(password, file=stream)
                with pytest.raises(amqp.exceptions.AccessRefused):
                    # RabbitMQ logs who it does not know.
                    where = f"127.0.0.1:{service.endpoint.port}"
                    amqp.Connection(where, userid=password, password="wrong", connect_timeout=10).connect()
            pytest.fail("to see the log")
        """,
    )
    done = pytest_run(project, "--devenv-artifacts", "out")
    outcome(done, failed=1)
    passwords = (project.folder / "passwords").read_text().split()
    assert len({*passwords}) == 2
    for text in (done.stdout, (project.folder / "out" / "default" / "rabbitmq.log").read_text()):
        assert text.count("user '***'") >= 2
        assert not [password for password in passwords if password in text]


def test_artifacts_that_cannot_be_written_keep_nothing_from_going(etcd: Project, client: docker.DockerClient) -> None:
    write(etcd, "test_artifacts.py", "def test(devenv_component):\n    assert devenv_component.services\n")
    (etcd.folder / "out").write_text("mine")
    done = pytest_run(etcd, "--devenv-artifacts", "out")
    outcome(done, passed=1)
    assert "devenv: cannot write artifacts to out/default: " in done.stdout
    assert ours(client, etcd.id) == NOTHING


def test_artifacts_are_written_for_ci(etcd: Project) -> None:
    write(etcd, "test_artifacts.py", "def test(devenv_component):\n    assert devenv_component.services\n")
    outcome(pytest_run(etcd, "--devenv-artifacts", "out"), passed=1)
    found = {path.name for path in (etcd.folder / "out" / "default").iterdir()}
    assert found >= {"etcd.log", "inspect.json", "status.json", "timing.json"}
    assert (
        json.loads((etcd.folder / "out" / "default" / "status.json").read_text())["services"]["etcd"]["state"]
        == "ready"
    )


def test_tests_of_a_service_that_fails_are_errors_and_the_others_run(project: Project) -> None:
    project.configure("profile: base\nservices: {mysql: {image: no.such/image:1}}\n", trusted=True)
    write(
        project,
        "test_broken.py",
        """
        @pytest.mark.devenv(services=["mysql"])
        def test_mysql():
            pass

        @pytest.mark.devenv(services=["keystone"])
        def test_keystone(devenv_component):
            pass

        @pytest.mark.devenv(services=["etcd"])
        def test_etcd(devenv_component):
            assert devenv_component.services == ["etcd"]
        """,
    )
    done = pytest_run(project)
    outcome(done, passed=1, errors=2)
    assert done.stdout.count("cannot pull image no.such/image:1") >= 2


@pytest.mark.parametrize(("option", "expected"), [((), {"errors": 2}), (("--devenv-optional",), {"skipped": 2})])
def test_without_an_engine_tests_that_need_it_say_so(
    etcd: Project, option: tuple[str, ...], expected: dict[str, int]
) -> None:
    write(
        etcd,
        "test_none.py",
        """
        def test(devenv_component):
            pass

        @pytest.mark.devenv(services=["etcd"])
        def test_marked():
            pass

        def test_other():
            pass
        """,
    )
    etcd.extra["DOCKER_HOST"] = f"unix://{etcd.folder}/no.sock"
    done = pytest_run(etcd, "-rs", *option)
    outcome(done, passed=1, **expected)
    assert "cannot reach a container engine" in done.stdout
    assert ("exit code 4" in done.stdout) == (not option)
    del etcd.extra["DOCKER_HOST"]


# ---- several processes ---------------------------------------------------------------------------------------------


SHARED = """
from helpers import keys

@pytest.mark.devenv(services=["etcd"])
@pytest.mark.parametrize("number", range(8))
def test(devenv, devenv_component, number):
    assert keys(devenv_component) == 0
    with open("seen", "a") as seen:
        print(devenv_component.name, devenv.service("etcd").endpoint.port, file=seen)
"""


def test_workers_share_an_environment_and_no_component(etcd: Project, client: docker.DockerClient) -> None:
    write(etcd, "test_shared.py", SHARED)
    outcome(pytest_process(etcd, "-n", "2"), passed=8)
    seen = [line.split() for line in (etcd.folder / "seen").read_text().splitlines()]
    assert len({name for name, _ in seen}) == 8 and len({port for _, port in seen}) == 1
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


def test_two_runs_at_a_time_in_one_folder_share_and_the_last_one_ends_it(
    etcd: Project, client: docker.DockerClient
) -> None:
    write(
        etcd,
        "test_meets.py",
        """
        from pathlib import Path
        from helpers import keys

        def test(devenv, devenv_component):
            assert keys(devenv_component) == 0
            with open("seen", "a") as seen:
                print(devenv.service("etcd").endpoint.port, file=seen)
            while len(Path("seen").read_text().split()) < 2:
                pass
            assert keys(devenv_component) == 1
        """,
    )
    with pytest_begun(etcd, "--timeout=120") as one, pytest_begun(etcd, "--timeout=120") as other:
        for run in (one, other):
            print(run.communicate()[0])
    assert (one.returncode, other.returncode) == (0, 0)
    assert len(set((etcd.folder / "seen").read_text().split())) == 1
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


@pytest.mark.long
def test_runs_in_two_folders_know_nothing_of_each_other(
    etcd: Project, tmp_path: Path, client: docker.DockerClient
) -> None:
    second = new_project(tmp_path, "second")
    for project in (etcd, second):
        project.configure("profile: coordination\n")
        write(project, "helpers.py", ETCD)
        write(project, "test_shared.py", SHARED)
    with pytest_begun(etcd) as one, pytest_begun(second) as other:
        for run in (one, other):
            print(run.communicate()[0])
    assert (one.returncode, other.returncode) == (0, 0)
    ports = [{line.split()[1] for line in (p.folder / "seen").read_text().splitlines()} for p in (etcd, second)]
    assert [len(found) for found in ports] == [1, 1] and not ports[0] & ports[1]
    assert all_of(etcd, client) == NOTHING


# Writes that it has begun, and goes on for ever.
WAITS = """
import signal
from helpers import keys

@pytest.mark.parametrize("number", range(4))
def test(devenv_component, number):
    assert keys(devenv_component) == 0
    with open("begun", "w") as begun:
        print(devenv_component.name, file=begun)
    while True:
        signal.pause()
"""


@contextmanager
def waiting(project: Project, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start tests; yield once one of them waits."""
    write(project, "test_waits.py", WAITS)
    os.mkfifo(project.folder / "begun")
    with pytest_begun(project, "--timeout=120", *arguments) as run:
        assert (project.folder / "begun").read_text().startswith("test-")
        yield run


@pytest.mark.parametrize(
    "arguments", [pytest.param((), id="alone", marks=pytest.mark.long), pytest.param(("-n", "2"), id="workers")]
)
def test_ctrl_c_leaves_nothing(etcd: Project, client: docker.DockerClient, arguments: tuple[str, ...]) -> None:
    with waiting(etcd, *arguments) as run:
        os.killpg(run.pid, signal.SIGINT)
        print(run.communicate()[0])
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


@pytest.mark.parametrize("then", ["gc", pytest.param("next run", marks=pytest.mark.long)])
def test_what_a_killed_run_left_goes_with_gc_or_the_next_run(
    etcd: Project, client: docker.DockerClient, then: str
) -> None:
    with waiting(etcd, "-n", "2") as run:
        os.killpg(run.pid, signal.SIGKILL)
    assert all_of(etcd, client)["containers"]
    if then == "gc":
        etcd.devenv("gc")
    else:
        (etcd.folder / "test_waits.py").unlink()
        write(etcd, "test_next.py", "def test(devenv_component):\n    pass\n")
        outcome(pytest_run(etcd), passed=1)
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


def test_what_a_killed_run_left_in_a_running_environment_is_dropped(etcd: Project) -> None:
    etcd.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    etcd.devenv("up")
    login = etcd.env()["ETCDCTL_USER"]

    def users() -> list[str]:
        return etcd.devenv("exec", "etcd", "etcdctl", "--user", login, "user", "list").stdout.split()

    before = users()
    write(etcd, "helpers.py", "def keys(component):\n    return 0\n")
    with waiting(etcd) as run:
        os.killpg(run.pid, signal.SIGKILL)
    assert [name for name in users() if name.startswith("test-")]
    etcd.devenv("gc")
    assert users() == before
    assert remains(etcd) == ["record.json", "secrets.json", "timing.json"]
    assert etcd.json("status")["services"]["etcd"]["state"] == "ready"


def test_a_killed_worker_leaves_nothing(etcd: Project, client: docker.DockerClient) -> None:
    write(
        etcd,
        "test_dies.py",
        """
        import signal
        from helpers import keys

        @pytest.mark.parametrize("number", range(8))
        def test(devenv_component, number):
            assert keys(devenv_component) == 0
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    done = pytest_process(etcd, "-n", "2")
    outcome(done, passed=7, failed=1)
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


@pytest.mark.long
def test_a_killed_controller_leaves_nothing_after_the_next_run(etcd: Project, client: docker.DockerClient) -> None:
    with waiting(etcd, "-n", "2") as run:
        run.kill()
        run.wait()
        os.killpg(run.pid, signal.SIGTERM)
    etcd.devenv("gc")
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


# ---- forked children -----------------------------------------------------------------------------------------------


# Does what pytest-forked does: each test runs in a child, which ends without a word.
FORKED = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    if not (child := os.fork()):
        os._exit(any(report.failed for report in runtestprotocol(item, log=False)))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    result = pytest.TestReport(item.nodeid, item.location, {}, "failed" if code else "passed", None, "call")
    item.ihook.pytest_runtest_logreport(report=result)
    return True
"""


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="alone"),
        pytest.param(("-n", "2"), id="workers", marks=pytest.mark.long),
        pytest.param(("--devenv-fresh",), id="fresh", marks=pytest.mark.long),
    ],
)
def test_tests_in_children_of_their_own_leave_nothing(
    etcd: Project, client: docker.DockerClient, arguments: tuple[str, ...]
) -> None:
    write(etcd, "conftest.py", FORKED)
    write(
        etcd,
        "test_forked.py",
        """
        import signal
        from devenv.testing import DevenvTestCase
        from helpers import keys

        @pytest.mark.parametrize("number", range(2))
        def test(devenv_component, number):
            assert keys(devenv_component) == 0

        def test_killed(devenv_component):
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    outcome(pytest_process(etcd, *arguments), passed=2, failed=1)
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


@pytest.mark.long
def test_children_of_a_test_take_nothing_from_it(etcd: Project, client: docker.DockerClient) -> None:
    write(
        etcd,
        "test_forks.py",
        """
        import multiprocessing, sys
        from devenv import Environment
        from devenv.testing import DevenvFixture
        from helpers import keys

        pytestmark = pytest.mark.devenv(services=["etcd"])

        def child_of(act):
            if not (child := os.fork()):
                act()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        def test_uses_what_its_parent_has(devenv, devenv_component):
            assert keys(devenv_component) == 0
            assert child_of(lambda: os._exit(keys(devenv_component))) == 1
            assert child_of(lambda: os._exit(not devenv.service("etcd").endpoint.port)) == 0
            assert keys(devenv_component) == 2

        def own(found):
            fixture = DevenvFixture(["etcd"])
            fixture.setUp()
            found.put((fixture.name, keys(fixture)))
            fixture.cleanUp()

        def test_a_child_has_a_component_of_its_own(devenv_component):
            context = multiprocessing.get_context("fork")
            found = context.SimpleQueue()
            process = context.Process(target=own, args=[found])
            process.start()
            name, number = found.get()
            process.join()
            assert process.exitcode == 0 and name != devenv_component.name and number == 0

        def test_exits(devenv_component):
            assert keys(devenv_component) == 0
            # pytest goes on in this child: it ends the test and finishes the run.
            child_of(sys.exit)
            assert keys(devenv_component) == 1
        """,
    )
    outcome(pytest_process(etcd, "-W", "ignore::DeprecationWarning"), passed=2, failed=1)
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


# ---- unittest and stestr -------------------------------------------------------------------------------------------


UNITTEST = """
import fixtures
from devenv.testing import DevenvFixture, DevenvTestCase
from helpers import keys

class WithBase(DevenvTestCase):
    devenv_services = ("etcd",)

    def test_one(self):
        self.assertEqual(keys(self.devenv), 0)
        self.assertEqual(self.conf.config_file, [str(self.devenv.overlay)])

    def test_other(self):
        self.assertEqual(keys(self.devenv), 0)
        self.assertEqual(self.devenv.env["DEVENV_COMPONENT"], self.devenv.name)

class WithFixture(fixtures.TestWithFixtures):
    def test(self):
        one, other = self.useFixture(DevenvFixture()), self.useFixture(DevenvFixture(["etcd"]))
        self.assertEqual([keys(one), keys(other), keys(one)], [0, 0, 1])
"""


IN_CHILDREN = """
import sys, unittest

suite = list(unittest.defaultTestLoader.loadTestsFromName("test_cases.WithBase"))
children = []
for test in suite:
    if not (child := os.fork()):
        result = unittest.TestResult()
        test.run(result)
        os._exit(not result.wasSuccessful())
    children.append(child)
print(len(suite) + 1)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "unittest", "test_cases"),
        pytest.param(("in_children.py",), marks=pytest.mark.long),
        pytest.param(("-m", "stestr", "run", "--concurrency", "3"), marks=pytest.mark.long),
        pytest.param(("-m", "pytest", "test_cases.py"), marks=pytest.mark.long),
    ],
    ids=["unittest", "children", "stestr", "pytest"],
)
def test_unittest_has_a_fixture_and_a_base_class(
    etcd: Project, client: docker.DockerClient, arguments: tuple[str, ...]
) -> None:
    write(etcd, "test_cases.py", UNITTEST)
    write(etcd, "in_children.py", IN_CHILDREN)
    (etcd.folder / ".stestr.conf").write_text("[DEFAULT]\ntest_path=.\ngroup_regex=([^.]*\\.)*\n")
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=etcd.folder, env=etcd.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3" in done.stdout + done.stderr
    assert all_of(etcd, client) == NOTHING and remains(etcd) == []


def test_without_an_engine_optional_cases_are_skipped_and_others_say_why(etcd: Project) -> None:
    write(
        etcd,
        "test_optional.py",
        """
        from devenv.testing import DevenvTestCase

        class Optional(DevenvTestCase):
            devenv_optional = True

            def test(self):
                pass

        class Needed(DevenvTestCase):
            def test(self):
                pass
        """,
    )
    etcd.extra["DOCKER_HOST"] = f"unix://{etcd.folder}/no.sock"
    command = [sys.executable, "-m", "unittest", "test_optional"]
    done = subprocess.run(command, cwd=etcd.folder, env=etcd.environ, capture_output=True, text=True, check=False)
    del etcd.extra["DOCKER_HOST"]
    assert "FAILED (errors=1, skipped=1)" in done.stderr
    assert "devenv.errors.NoEngine: cannot reach a container engine" in done.stderr
    assert "MultipleExceptions" not in done.stderr


# ---- inside a container --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["bridge", "host"])
def test_a_run_inside_a_container_needs_the_hosts_network(
    etcd: Project, client: docker.DockerClient, network: str
) -> None:
    write(etcd, "test_inside.py", "def test(devenv_component):\n    assert devenv_component.services == ['etcd']\n")
    (etcd.folder / "pytest.ini").touch()
    etcd.state.mkdir(exist_ok=True)
    socket = endpoint_in_use()[0].removeprefix("unix://")
    # Any image will do: it runs this Python.
    paths = {sys.base_prefix, sys.prefix, str(REPOSITORY), str(etcd.folder), str(etcd.state), socket}
    inside = client.containers.create(
        etcd.json("images", "list")[0]["reference"],
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        entrypoint=[],
        working_dir=str(etcd.folder),
        environment={"DEVENV_STATE_DIR": str(etcd.state), "PYTHONPATH": str(REPOSITORY)},
        volumes={path: {"bind": path, "mode": "rw"} for path in paths},
        network_mode=network,
    )
    try:
        inside.start()
        code = inside.wait()["StatusCode"]
        told = inside.logs().decode()
    finally:
        inside.remove(force=True)
    if network == "host":
        assert code == 0, told
    else:
        assert code == 1 and "cannot reach services from container" in told and "--network host" in told, told
    assert all_of(etcd, client) == NOTHING
