"""Each failure gives one clear line and the right exit code, and loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from project import Project, not_root, one_clear_line, ours, require
from unharmed import ALL, unharmed

from devenv.wiring.formats import from_dotenv

TALKS = "for i in $(seq 30); do echo line $i; done"


def etcd_from(project: Project, image: str, more: str = "") -> None:
    project.configure(f"profile: coordination\nservices:\n  etcd:\n    image: {image}\n{more}", trusted=True)


def test_a_container_that_exits_at_once_is_noticed_with_its_code_and_log(
    project: Project, client: docker.DockerClient
) -> None:
    base = next(image for image in project.json("images", "list") if image["service"] == "base")["reference"]
    project.configure(f"profile: database\nservices:\n  mysql:\n    image: {base}\n", trusted=True)
    done = project.devenv("up", check=False)
    assert "unable to find user mysql" in done.stderr
    one_clear_line(done, 5, "mysql")


def test_a_server_that_dies_is_noticed_with_exit_code_and_last_lines(
    project: Project, etcd_that: Callable[[str], str], client: docker.DockerClient
) -> None:
    etcd_from(project, etcd_that(f"{TALKS}; exit 3"))
    done = project.devenv("up", check=False)
    one_clear_line(done, 5, "etcd", "exited 3", "line 30", "line 11")
    assert "line 10\n" not in done.stderr
    assert ours(client, project.id)["containers"], "the container is kept for inspection"
    assert project.json("status")["services"]["etcd"]["state"] == "failed"


def test_a_server_that_takes_all_its_memory_is_reported_as_such(
    project: Project, etcd_that: Callable[[str], str]
) -> None:
    # `tail` keeps the last line, and this one never ends.
    etcd_from(project, etcd_that("exec tail /dev/zero"))
    one_clear_line(project.devenv("up", check=False), 5, "exited 137, killed because it used too much memory")
    status = project.json("status")["services"]["etcd"]
    assert (status["state"], status["reason"]) == ("failed", "exited 137, killed because it used too much memory")


def test_a_server_that_never_gets_ready_is_given_up_with_the_last_reason(
    project: Project, etcd_that: Callable[[str], str]
) -> None:
    etcd_from(project, etcd_that(f"{TALKS}; exec sleep 600"))
    done = project.devenv("up", "--wait-timeout", "1", check=False)
    one_clear_line(done, 6, "etcd", "not ready after 1 s", "line 30")
    assert project.json("status")["services"]["etcd"]["state"] == "starting"


def test_an_image_that_does_not_exist(project: Project) -> None:
    etcd_from(project, "devenv-test/nowhere:1")
    one_clear_line(project.devenv("up", check=False), 5, "devenv-test/nowhere:1")


def test_a_build_that_fails_shows_the_failing_steps_last_lines(project: Project, checkout: Path) -> None:
    dockerfile = checkout / "compose" / "etcd" / "Dockerfile"
    dockerfile.write_text("ARG BASE\nFROM ${BASE}\nRUN echo the reason is here; exit 9\n")
    one_clear_line(project.devenv("up", "etcd", check=False), 5, "the reason is here", "RUN echo")


def test_a_failing_build_leaves_the_running_service_alone(project: Project, checkout: Path) -> None:
    project.devenv("up", "etcd")
    (checkout / "compose" / "etcd" / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN exit 9\n")
    assert project.devenv("up", "etcd", check=False).returncode == 5
    project.checkout = Path(__file__).parents[2]
    assert project.json("status")["services"]["etcd"]["state"] == "ready"


def test_a_failed_service_does_not_keep_others_from_starting(project: Project, etcd_that: Callable[[str], str]) -> None:
    image = etcd_that("exit 3")
    project.configure(f"profile: database\nservices:\n  etcd:\n    image: {image}\n", trusted=True)
    one_clear_line(project.devenv("up", check=False), 5, "etcd")
    assert project.json("status")["services"]["mysql"]["state"] == "ready"


def test_a_pinned_port_that_is_taken_names_the_holder(project: Project) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        project.configure(f"profile: coordination\nservices:\n  etcd:\n    ports: {{client: {port}}}\n")
        one_clear_line(project.devenv("up", check=False), 7, f"127.0.0.1:{port}", f"(pid {os.getpid()})")


def test_a_pinned_port_of_another_environment_names_its_container(project: Project) -> None:
    project.configure("profile: coordination\n")
    project.devenv("up")
    port = project.env()["DEVENV_ETCD_PORT"]
    holder = project.json("status")["services"]["etcd"]["container"]
    project.configure(f"profile: coordination\nservices:\n  etcd:\n    ports: {{client: {port}}}\n")
    one_clear_line(project.devenv("--env", "other", "up", check=False), 7, port, holder)


def test_a_container_of_our_name_that_is_not_ours_is_left_alone(project: Project, client: docker.DockerClient) -> None:
    name = f"devenv-{project.id}-etcd"
    base = next(image for image in project.json("images", "list") if image["service"] == "base")["reference"]
    foreign = client.containers.create(base, "true", name=name)
    try:
        one_clear_line(project.devenv("up", "etcd", check=False), 7, name)
        project.devenv("down", "--volumes")
        assert client.containers.get(name)
    finally:
        foreign.remove()


def test_a_network_of_our_name_that_is_not_ours_is_left_alone(project: Project, client: docker.DockerClient) -> None:
    foreign = client.networks.create(f"devenv-{project.id}")
    try:
        one_clear_line(project.devenv("up", "etcd", check=False), 7, f"devenv-{project.id}")
        project.devenv("down", "--volumes")
        assert client.networks.get(foreign.id)
    finally:
        foreign.remove()


def test_a_volume_of_our_name_that_is_not_ours_is_left_alone(project: Project, client: docker.DockerClient) -> None:
    name = f"devenv-{project.id}-etcd-data"
    foreign = client.volumes.create(name)
    try:
        one_clear_line(project.devenv("up", "etcd", check=False), 7, name)
        project.devenv("down", "--volumes")
        assert client.volumes.get(name)
    finally:
        foreign.remove()


def test_a_devenv_folder_that_is_a_link_is_refused_before_anything_starts(
    project: Project, client: docker.DockerClient, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (project.folder / ".devenv").symlink_to(elsewhere)
    one_clear_line(project.devenv("up", "etcd", check=False), 3, "symbolic link")
    assert ours(client, project.id)["containers"] == []
    assert list(elsewhere.iterdir()) == []


@pytest.fixture
def small_disk(project: Project) -> Iterator[Path]:
    """Mount a file system of 64 KiB as the project's .devenv/."""
    require(not_root("mount a file system"))
    folder = project.folder / ".devenv"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "devenv-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_files_whole(project: Project, small_disk: Path) -> None:
    project.devenv("up", "etcd")
    before = {path.name: path.read_text() for path in small_disk.iterdir()}
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        while True:
            stream.write(b"x" * 512)
    one_clear_line(project.devenv("up", "mysql", "etcd", check=False), 3, "No space left", str(small_disk))
    filler.unlink()
    assert {path.name: path.read_text() for path in small_disk.iterdir()} == before
    known = project.env()
    project.devenv("up", "mysql", "etcd")
    assert from_dotenv((small_disk / "env").read_text()) == project.env() == known
    assert "DEVENV_MYSQL_URL" in known and known.items() >= from_dotenv(before["env"]).items()


def test_a_read_only_folder_is_refused_before_anything_starts_and_another_one_can_be_named(
    project: Project, small_disk: Path, client: docker.DockerClient
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    one_clear_line(project.devenv("up", "etcd", check=False), 3, str(small_disk), "--output-dir")
    assert ours(client, project.id)["containers"] == []
    elsewhere = project.folder.parent / "elsewhere"
    project.devenv("--output-dir", str(elsewhere), "up", "etcd")
    assert from_dotenv((elsewhere / "env").read_text()) == project.env()
    project.extra["DEVENV_OUTPUT_DIR"] = str(elsewhere)
    printed = project.process("run", "--component", "nova", "etcd", "--", "sh", "-c", "ls $DEVENV_OSLO_CONF")
    assert printed.stdout.strip() == str(elsewhere / "nova.conf")
    del project.extra["DEVENV_OUTPUT_DIR"]
    project.devenv("down", "--volumes")
    assert not elsewhere.exists() and not [*small_disk.iterdir()]


def test_dead_proxies_do_not_matter(running: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{scheme}_proxy" for scheme in ("http", "https", "all")]
    dead = dict.fromkeys((*names, *map(str.upper, names)), "http://127.0.0.1:9")
    # An empty list of exceptions: the user's own one must not help.
    monkeypatch.setattr(running, "extra", {**dead, "no_proxy": "", "NO_PROXY": ""})
    running.configure("components: [proxied]\n")
    done = running.json("up")["operations"]
    assert {op["target"] for op in done if op["action"] == "provision"} >= {f"{name}/proxied" for name in ALL}
    assert {op["target"] for op in done if op["action"] == "ready"} >= {*ALL}
    (running.folder / "devenv.yaml").unlink()
    running.devenv("up", "--drop")


def test_a_credential_helper_that_is_not_installed_does_not_matter(project: Project, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "nowhere"}')
    project.extra = {"DOCKER_CONFIG": str(tmp_path)}
    project.devenv("up", "etcd")
    etcd_from(project, "devenv-test/nowhere:1")
    one_clear_line(project.devenv("up", check=False), 5, "devenv-test/nowhere:1")


def test_ctrl_c_ends_a_build_and_the_next_one_completes(project: Project, checkout: Path) -> None:
    dockerfile = checkout / "compose" / "etcd" / "Dockerfile"
    original = dockerfile.read_text()
    dockerfile.write_text("ARG BASE\nFROM ${BASE}\nRUN for i in $(seq 600); do echo $i; sleep 0.1; done\n")
    code, rest = project.up_until("Step 3/", signal.SIGINT, "etcd")
    assert code == 130
    assert "Traceback" not in rest
    dockerfile.write_text(original)
    with unharmed(project, "etcd"):
        project.devenv("up", "etcd")


def test_looking_writes_nothing(project: Project) -> None:
    for command in (["plan"], ["status"], ["images", "list"]):
        project.devenv(*command)
    assert not project.state.exists()
    assert not (project.folder / ".devenv").exists()


def test_what_is_broken_in_devenv_yaml_does_not_keep_services_from_going_down(
    project: Project, client: docker.DockerClient
) -> None:
    project.devenv("up", "etcd")
    identity = project.id
    project.configure("profile: [nonsense\n")
    one_clear_line(project.devenv("up", check=False), 3, "devenv.yaml:")
    project.devenv("down", "--volumes")
    assert ours(client, identity) == {"containers": [], "networks": [], "volumes": []}


def test_no_engine(project: Project) -> None:
    project.extra = {"DOCKER_HOST": "unix:///nonexistent/engine.sock"}
    for command in (["up"], ["plan"], ["status"], ["down"], ["env"], ["logs"], ["images", "list"]):
        one_clear_line(project.devenv(*command, check=False), 4, "unix:///nonexistent/engine.sock")


def test_doctor_finds_an_engine_that_works(project: Project) -> None:
    checks = {check["name"]: check["status"] for check in project.json("doctor")}
    assert checks["engine"] == "ok"
    assert "fail" not in checks.values()


def test_doctor_says_when_there_is_no_engine(project: Project) -> None:
    project.extra = {"DOCKER_HOST": "unix:///nonexistent/engine.sock"}
    done = project.devenv("doctor", check=False)
    assert done.returncode == 4
    assert "unix:///nonexistent/engine.sock" in done.stdout
