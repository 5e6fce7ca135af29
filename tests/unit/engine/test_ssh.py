"""The ssh that reaches an engine elsewhere: its arguments, and what its failures mean."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from devenv.engine.connection import open_connection
from devenv.engine.http import Unreachable
from devenv.engine.ssh import SshConnection, cause_of, master_of, options, target_of
from devenv.errors import NoEngine


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called ssh first on the path."""
    folder.mkdir()
    (ssh := folder / "ssh").write_text(f"#!/bin/sh\n{script}\n")
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("ssh://Host", ["--", "Host"]),
        ("ssh://me@host", ["-l", "me", "--", "host"]),
        ("ssh://me%40corp@host:2222", ["-p", "2222", "-l", "me@corp", "--", "host"]),
        ("ssh://host/run/user/1/docker.sock", ["--", "host"]),
        ("ssh://[::1]:22", ["-p", "22", "--", "::1"]),
    ],
)
def test_a_url_names_the_host_as_ssh_takes_it(url: str, arguments: list[str]) -> None:
    assert target_of(url) == arguments


@pytest.mark.parametrize("url", ["ssh://", "ssh://me@", "ssh://host:port", "ssh://-oProxyCommand=x", "ssh://[::1"])
def test_a_url_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(Unreachable) as caught:
        target_of(url)
    assert caught.value.hint == "write ssh://USER@HOST or ssh://USER@HOST:PORT"


@pytest.mark.parametrize(
    ("said", "cause", "hint"),
    [
        (
            ["@@@@@", "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @", "Host key verification failed."],
            "the ssh host key of host has changed",
            "if that is right: ssh-keygen -R '[host]:2222'",
        ),
        (
            ["No ED25519 host key is known for host.", "Host key verification failed."],
            "host has no known ssh host key",
            "run 'ssh host' once and check its key",
        ),
        (
            ["me@host: Permission denied (publickey)."],
            "host refused the ssh login (me@host: Permission denied (publickey).)",
            "'ssh -o BatchMode=yes host true' must work",
        ),
        (["ssh: connect to host host port 22: Connection timed out"], "host does not answer", ""),
        (
            ["ssh: Could not resolve hostname host: Name or service not known"],
            "nobody knows the host host",
            "check the",
        ),
        (["kex_exchange_identification: Connection closed by remote host"], "host takes no ssh connection", ""),
        (["sh: 1: docker: not found"], "host has no docker command", "install it there"),
        (["bash: line 1: docker: command not found"], "host has no docker command", "install it there"),
        (["no such thing"], "ssh to host ended: no such thing", "try 'ssh host'"),
        ([], "ssh to host ended: it said nothing", "try 'ssh host'"),
    ],
)
def test_what_ssh_says_becomes_a_cause_and_a_hint(said: list[str], cause: str, hint: str) -> None:
    reason, what_to_do = cause_of("ssh://me@host:2222", said)
    assert reason.startswith(cause) and what_to_do.startswith(hint)


def test_ssh_never_asks_and_notices_a_dead_connection() -> None:
    given = options(ControlMaster="no")
    assert given[:2] == ["-o", "BatchMode=yes"] and given[-2:] == ["-o", "ControlMaster=no"]
    assert "ServerAliveInterval=5" in given and "ConnectTimeout=10" in given


def test_the_engine_elsewhere_is_asked_as_the_docker_command_line_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK"
    program(
        tmp_path / "bin", monkeypatch, f'echo "$@" >{tmp_path}/asked\nread -r line\nprintf "{answer}"\ncat >/dev/null'
    )
    connection = SshConnection("ssh://me@host:2222/run/other.sock", 30)
    connection.connect()
    connection.request("GET", "/_ping")
    assert connection.getresponse().read() == b"OK"
    connection.close()
    asked = (tmp_path / "asked").read_text()
    assert asked.endswith(" -p 2222 -l me -- host docker --host unix:///run/other.sock system dial-stdio\n")


def test_no_ssh_that_ends_and_no_ssh_at_all_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@host")
    program(tmp_path / "bin", monkeypatch, "echo 'me@host: Permission denied (publickey).' >&2\nexit 255")
    with pytest.raises(NoEngine, match=r"cannot reach .* ssh://me@host .*: host refused the ssh") as one:
        open_connection()
    assert one.value.hint == "'ssh -o BatchMode=yes host true' must work"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoEngine, match=r"cannot reach a container engine at .*: this host has no ssh"):
        open_connection()
    monkeypatch.setenv("DOCKER_HOST", "ssh://host:banana")
    with pytest.raises(NoEngine, match=r"cannot reach .*: it is no URL for ssh"):
        open_connection()


def test_a_login_of_a_supervisor_is_used_only_if_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVENV_STATE_DIR", str(tmp_path))
    (folder := tmp_path / "environments/one/forward").mkdir(parents=True)
    way = '{"kind": "ssh", "settings": {"url": "ssh://host"}}'
    (folder / "process.json").write_text(f'{{"sockets": "{tmp_path}", "way": {way}}}')
    assert master_of("ssh://host") is None
