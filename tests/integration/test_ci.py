"""`devenv ci`: what a job of a CI system gets, prints and leaves, however it ends."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import docker
import pytest
from project import Project, one_clear_line, ours

from devenv.lifecycle.environment import Environment
from devenv.testing import write_artifacts

NOTHING: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}
JUNIT = 'echo "<testsuite/>" >junit.xml'
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z ")


@pytest.fixture
def etcd(project: Project) -> Project:
    project.configure("profile: coordination\nservices: {etcd: {auth: true}}\n")
    return project


def secrets_of(project: Project) -> set[str]:
    return set(json.loads((project.state / "environments" / project.id / "secrets.json").read_text()).values())


# ---- what a job gets and leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 7])
def test_the_command_has_services_its_exit_code_counts_and_nothing_is_left(
    etcd: Project, client: docker.DockerClient, code: int
) -> None:
    script = f'echo "prefix $DEVENV_ETCD_PREFIX"; echo "$DEVENV_ETCD_PASSWORD" >password; {JUNIT}; exit {code}'
    done = etcd.devenv("ci", "--artifacts", "artifacts", "--", "sh", "-c", script, check=False)
    assert (done.returncode, done.stdout[:12]) == (code, "prefix /run-")
    assert ours(client, etcd.id) == NOTHING
    assert (etcd.folder / "junit.xml").read_text() == "<testsuite/>\n"
    status = json.loads((etcd.folder / "artifacts" / "status.json").read_text())
    assert status["services"]["etcd"]["state"] == "ready"
    # The artifacts do not hold the component's own secret either, which devenv has dropped by now.
    password = (etcd.folder / "password").read_text().strip()
    assert len(password) == 32
    assert not [path for path in (etcd.folder / "artifacts").iterdir() if password in path.read_text()]


def test_what_is_collected_is_whole_and_without_secrets(
    running: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVENV_STATE_DIR", str(running.state))
    files = {path.name: path.read_text() for path in write_artifacts(Environment(running.folder), tmp_path)}
    services = ["mysql", "keystone", "rabbitmq", "etcd"]
    assert files.keys() >= {*(f"{name}.log" for name in services), "inspect.json", "events.json", "trace.json"}
    assert all(TIMESTAMP.match(files[f"{name}.log"]) for name in services)
    assert json.loads(files["status.json"])["services"].keys() == {*services}
    assert {container["Config"]["Hostname"] for container in json.loads(files["inspect.json"])} >= {"rabbitmq"}
    # The engine remembers only its last 256 events, of all environments together.
    assert {event["Actor"]["Attributes"]["io.devenv.environment"] for event in json.loads(files["events.json"])} <= {
        running.id
    }
    assert json.loads(files["engine.json"])["networks"][0]["Name"] == f"devenv-{running.id}"
    assert json.loads(files["timing.json"])["operations"]
    secrets = secrets_of(running)
    assert len(secrets) > 4
    assert not [name for name, text in files.items() for secret in secrets if secret in text]


def test_a_failed_job_on_github_has_groups_masks_an_annotation_and_a_report(etcd: Project) -> None:
    etcd.devenv("up")
    etcd.extra = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(etcd.folder / "step.md")}
    done = etcd.devenv("ci", "--", "sh", "-c", "echo my tests; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "my tests\n")
    lines = done.stderr.splitlines()
    titles = ["starting services", "last log lines of etcd", "stopping services"]
    groups = [line.removeprefix("::group::devenv: ") for line in lines if line.startswith("::group::")]
    assert groups == titles
    assert lines.count("::endgroup::") == len(titles)
    assert {f"::add-mask::{secret}" for secret in secrets_of(etcd)} <= {*lines}
    unmasked = [line for line in lines if not line.startswith("::add-mask::")]
    assert not [secret for secret in secrets_of(etcd) if secret in "\n".join(unmasked)]
    assert lines[-1].startswith("::error title=devenv ci::sh -c 'echo my tests; exit 3': exit code 3 after ")
    report = (etcd.folder / "step.md").read_text()
    assert report.startswith("### devenv ci: failed\n") and "| etcd | `devenv/etcd:" in report and "| ready |" in report


def test_gitlab_folds_what_is_not_the_commands(etcd: Project) -> None:
    etcd.extra = {"GITLAB_CI": "true"}
    done = etcd.devenv("ci", "--", "true")
    assert re.findall(r"section_(start|end):\d+:devenv_(\d)", done.stderr) == [
        ("start", "1"),
        ("end", "1"),
        ("start", "2"),
        ("end", "2"),
    ]


# ---- when it does not end well -----------------------------------------------------------------------------------


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(
    etcd: Project, client: docker.DockerClient
) -> None:
    # The shell starts another process and waits for it. `process` reads until nobody holds the output open any more.
    done = etcd.process(
        "ci",
        "--timeout",
        "1",
        "--summary",
        "report.md",
        "--",
        "sh",
        "-c",
        "cat /dev/zero >/dev/null & wait",
        check=False,
    )
    one_clear_line(done, 124, "cannot finish sh within 1 s", "--timeout")
    assert ours(client, etcd.id) == NOTHING
    assert "cannot finish sh within 1 s" in (etcd.folder / "report.md").read_text()


def test_services_that_do_not_come_up_leave_the_reason_and_nothing_else(
    project: Project, checkout: Path, client: docker.DockerClient
) -> None:
    project.configure("profile: coordination\n")
    with (checkout / "compose" / "etcd" / "etcd.yaml").open("a") as stream:
        stream.write("heartbeat-interval: nonsense\n")
    project.extra = {"GITHUB_ACTIONS": "true"}
    arguments = ["ci", "--artifacts", "artifacts", "--summary", "report.md", "--", "touch", "begun"]
    done = project.devenv(*arguments, check=False)
    one_clear_line(done, 5, "etcd", "::error title=devenv ci::")
    assert ours(client, project.id) == NOTHING and not (project.folder / "begun").exists()
    assert "heartbeat-interval" in (project.folder / "artifacts" / "etcd.log").read_text()
    status = json.loads((project.folder / "artifacts" / "status.json").read_text())
    assert status["services"]["etcd"]["state"] == "failed"
    assert "failed: exited 1" in (project.folder / "report.md").read_text()


def test_where_no_engine_answers_the_artifacts_say_so(etcd: Project) -> None:
    etcd.extra = {"DOCKER_HOST": "unix:///nonexistent.sock"}
    one_clear_line(etcd.devenv("ci", "--artifacts", "artifacts", "--", "true", check=False), 4, "cannot reach")
    assert "cannot reach" in (etcd.folder / "artifacts" / "etcd.log").read_text()


def test_a_job_that_is_cancelled_while_services_come_up_leaves_nothing(
    etcd: Project, client: docker.DockerClient
) -> None:
    code, _ = etcd._until("create etcd", signal.SIGTERM, "ci", "--", "touch", "begun")
    assert code == 130
    assert ours(client, etcd.id) == NOTHING and not (etcd.folder / "begun").exists()


def test_what_cannot_be_done_is_one_clear_line_before_anything_is(etcd: Project, client: docker.DockerClient) -> None:
    (etcd.folder / "file").write_text("")
    for option in ("--artifacts", "--summary"):
        refused = etcd.devenv("ci", option, "file/below", "--", "true", check=False)
        one_clear_line(refused, 3, "cannot write", "file/below")
    one_clear_line(etcd.devenv("ci", "redis", "--", "true", check=False), 3, "cannot find service 'redis'")
    one_clear_line(etcd.devenv("ci", "--", "no-such-program", check=False), 127, "cannot run no-such-program")
    refused = etcd.devenv("ci", "etcd", check=False)
    assert refused.returncode == 2 and "cannot run nothing" in refused.stderr
    assert ours(client, etcd.id) == NOTHING
