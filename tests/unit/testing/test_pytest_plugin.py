"""The parts of the pytest plugin that need no service."""

from __future__ import annotations

from typing import Any, cast

from devenv.testing.lease import Lease
from devenv.testing.pytest_plugin import Session, _section


class Blocked:
    """A lease that cannot look at services, since another plugin blocks sockets."""

    environment: Any = None
    passwords = ("S3cret",)

    def view(self, service: str, since: float) -> tuple[str, list[str]]:
        raise RuntimeError("a test tried to use a socket")


class Config:
    """A configuration of pytest that reports to nobody but this object."""

    def __init__(self) -> None:
        self.pluginmanager, self.lines = self, list[str]()

    def getplugin(self, _: str) -> Config:
        return self

    def write_line(self, line: str, **_: object) -> None:
        self.lines.append(line)


def test_a_report_is_written_whatever_keeps_devenv_from_looking(monkeypatch: Any) -> None:
    monkeypatch.setattr("devenv.testing.artifacts.hider", lambda *_: lambda text: text)
    title, text = _section(cast(Lease, Blocked()), "etcd", 0.0)
    assert title == "etcd (a test tried to use a socket), its log during the test" and text == ""


def test_a_step_of_the_end_that_fails_is_told_and_keeps_nothing_from_going() -> None:
    config = Config()

    def blocked() -> None:
        raise RuntimeError("a test tried to use a socket")

    Session(cast(Any, config))._tried(blocked)
    assert config.lines == ["\ndevenv: RuntimeError('a test tried to use a socket')"]
