"""Run the consumers' programs on what devenv wrote for two components."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

import pytest
import yaml
from project import Project

PROGRAMS = Path(__file__).parent / "programs"
# openstacksdk uses what it has itself deprecated. Its warnings' classes name the release that will remove it.
SDK_WARNINGS = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning:openstack")
# A peer takes a second to import, several on a busy machine; nothing else takes long.
ANSWER_SECONDS = 30.0


class Peer:
    """A running program that answers one line of JSON with another; see programs/dialogue.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: Queue[str] = Queue()
        assert process.stdout
        Thread(target=self._read, args=[process.stdout], daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, command: str, *arguments: Any) -> Any:
        self.tell(command, *arguments)
        return self.answer()

    def tell(self, command: str, *arguments: Any) -> None:
        """Ask without waiting for the answer; `answer` gets it."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        try:
            line = self._lines.get(timeout=ANSWER_SECONDS)
        except Empty:
            raise AssertionError(f"no answer within {ANSWER_SECONDS:.0f} s") from None
        assert line, "the program has ended; its standard error says why"
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Wired:
    """The files of an environment, as a component's developer finds them."""

    project: Project

    @property
    def folder(self) -> Path:
        return self.project.folder / ".devenv"

    def overlay(self, component: str = "nova") -> Path:
        return self.folder / f"{component}.conf"

    def clients(self, component: str = "nova") -> dict[str, Any]:
        """Return keyword arguments by client."""
        return dict(json.loads((self.folder / f"{component}.json").read_text()))

    def clouds(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.folder / "clouds.yaml").read_text())["clouds"])

    def variables(self, component: str = "nova") -> dict[str, str]:
        return dict(self.project.json("env", "--component", component))

    def run(self, program: str, *arguments: str | Path, extra: Mapping[str, str] | None = None) -> Any:
        """Run a program to its end; return the JSON that it prints."""
        done = subprocess.run(
            _command(program, *arguments),
            cwd=self.project.folder,
            env=self.project.environ | dict(extra or {}),
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def peer(self, program: str, *arguments: str | Path, extra: Mapping[str, str] | None = None) -> Iterator[Peer]:
        """Start a program to talk with; kill it in the end."""
        with subprocess.Popen(
            _command(program, *arguments),
            cwd=self.project.folder,
            env=self.project.environ | dict(extra or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            peer = Peer(process)
            try:
                yield peer
            finally:
                # Some take six seconds to stop by themselves, and no test here is about that.
                peer.kill()


def _command(program: str, *arguments: str | Path) -> list[str]:
    # Many consumers' libraries warn on import, mostly of eventlet; no test is about that.
    return [sys.executable, "-W", "ignore", str(PROGRAMS / program), *map(str, arguments)]
