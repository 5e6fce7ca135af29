"""An engine behind ssh: here a program of that name that goes no further than this host."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import Project, one_clear_line

from devenv.engine.connection import endpoint_in_use


@pytest.mark.long
def test_an_engine_behind_ssh_serves_and_a_command_has_its_input(project: Project, tmp_path: Path) -> None:
    (program := tmp_path / "bin" / "ssh").parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec docker --host={endpoint_in_use()[0]} system dial-stdio\n")
    program.chmod(0o755)
    path = f"{program.parent}:{project.environ['PATH']}"
    # That program logs in nowhere, so it forwards nothing; test_remote.py has a host that is reached with ssh alone.
    project.extra = {"PATH": path, "DOCKER_HOST": "ssh://somebody@127.0.0.1", "DEVENV_TUNNEL": "no"}
    project.configure("profile: coordination\n")
    assert "the ports are on 127.0.0.1 of the engine's host" in project.devenv("up").stderr
    project.devenv("exec", "etcd", "etcdctl", "put", "key", "saved")
    project.devenv("snapshot", "save", "good")
    # More than a pipe holds, in both directions, and the end of the input.
    text = "".join(f"{number}\n" for number in range(100_000))
    assert project.process("exec", "etcd", "cat", stdin=text, limit=120).stdout == text
    assert project.process("exec", "etcd", "sh", "-c", "exit 7", check=False, limit=120).returncode == 7
    project.devenv("exec", "etcd", "etcdctl", "put", "key", "changed")
    project.devenv("snapshot", "restore", "good")
    assert project.devenv("exec", "etcd", "etcdctl", "get", "key").stdout.split() == ["key", "saved"]
    project.devenv("down", "--volumes")
    project.devenv("snapshot", "rm", "good")
    program.write_text("#!/bin/sh\nexit 255\n")
    one_clear_line(
        project.devenv("status", check=False), 4, "cannot reach a container engine at ssh://somebody@127.0.0.1"
    )
