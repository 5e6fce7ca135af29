"""Show what an operation on an environment does: live on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, NamedTuple

from devenv.model import Action, Operation, Plan, Report

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live as RichLive
    from rich.text import Text

COMPONENT_ACTIONS = ("provision", "log in", "drop")
# More components than this share one line of the live display, which has to fit the screen.
_MOST_COMPONENTS = 6
# A step of a build may be a page of shell; its beginning names it.
_STEP_WIDTH = 60
# The state of a line while an operation runs and after it, by action. A service's line always ends as "ready".
_STATES: Mapping[Action, tuple[str, str]] = {
    "fetch wheels": ("fetching", "fetched"),
    "build image": ("building", "built"),
    "pull image": ("pulling", "pulled"),
    "create network": ("creating", "created"),
    "remove network": ("removing", "removed"),
    "forward": ("forwarding", "forwarded"),
    "remove volume": ("removing", "removed"),
    "fill": ("copying", "copied"),
    "keep": ("keeping", "kept"),
    "save": ("saving", "saved"),
    "create": ("creating", "created"),
    "start": ("starting", "started"),
    "stop": ("stopping", "stopped"),
    "remove": ("removing", "removed"),
    "empty": ("clearing", "cleared"),
    "settle": ("settling", "settled"),
    "prepare": ("preparing", "prepared"),
    "provision": ("adding", "added"),
    "log in": ("logging in", "logged in"),
    "drop": ("dropping", "dropped"),
    "release": ("clearing", "cleared"),
    "ready": ("starting", "ready"),
}
_STATE_WIDTH = max(len(word) for words in _STATES.values() for word in words)


def console(stream: IO[str] | None = None) -> Console:
    """Return a console that knows whether its stream is a terminal, how wide it is, and whether NO_COLOR is set."""
    from rich.console import Console

    chosen = stream or sys.stdout
    # Where nothing says how wide the other end is, tables fit 80 columns.
    width = None if chosen.isatty() or os.environ.get("COLUMNS") else 80
    return Console(file=chosen, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not chosen.isatty())


def reporter(stream: IO[str], plain: bool = False) -> Report:
    """Return the report that suits the stream; a `plain` one if others write to the stream, too."""
    return Live(stream) if wants_live(stream) and not plain else Plain(stream)


def wants_live(stream: IO[str]) -> bool:
    """Return whether a person watches the stream. CI keeps every frame, so it gets plain lines."""
    return stream.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"


def _subject(operation: Operation) -> str:
    """Return the name of the line that shows the operation: a service, a component, the network or the base image."""
    if operation.action in ("create network", "remove network"):
        return "network"
    if operation.action in COMPONENT_ACTIONS:
        return operation.target.rpartition("/")[2]
    return operation.service or operation.target


# ---- plain lines -------------------------------------------------------------------------------------------------


class Plain(Report):
    """Print a line per operation that changes something or fails, and per service that is ready."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._told: dict[str, str] = {}
        self._services: set[str] = set()
        self._left: Counter[tuple[str, str]] = Counter()

    def _line(self, text: str) -> None:
        with self._lock:
            print(text, file=self._stream, flush=True)

    def started(self, operation: Operation) -> None:
        # These take minutes: silence would look like a hang.
        if operation.action in ("build image", "pull image", "fetch wheels"):
            self._line(f"  {operation.key} ({operation.cause}) …")

    def progress(self, operation: Operation, text: str) -> None:
        # Steps of a build are worth a line each; a service that is not ready yet says so at every look.
        if text[:5].lower() == "step " and self._told.get(operation.key) != text:
            self._told[operation.key] = text
            self._line(f"  {operation.key}: {text[:_STEP_WIDTH]}")

    def begin(self, plan: Plan) -> None:
        self._services = {op.target for op in plan.operations if op.action == "ready"}
        parts = [op for op in plan.operations if op.action in COMPONENT_ACTIONS]
        self._left = Counter((op.action, _subject(op)) for op in parts)

    def finished(self, operation: Operation, seconds: float) -> None:
        cause = f" ({operation.cause})" if operation.cause else ""
        words, key = operation.key, (operation.action, _subject(operation))
        if operation.action in COMPONENT_ACTIONS and key[1] not in self._services:
            # One line per component, not one per service that it has a part of.
            with self._lock:
                self._left[key] -= 1
                if self._left[key]:
                    return
            words = " ".join(key)
        self._line(f"  {words}{cause}: {seconds:.1f} s")

    def failed(self, operation: Operation, seconds: float, reason: str) -> None:
        if reason:
            self._line(f"  {operation.key} FAILED after {seconds:.1f} s: {reason}")

    def note(self, text: str) -> None:
        self._line(text)


# ---- a terminal --------------------------------------------------------------------------------------------------


class _Shown(NamedTuple):
    """Hold what a line shows besides its name and its time."""

    mark: str
    style: str
    state: str
    detail: str = ""


@dataclass
class _Row:
    """Hold the operations that one line shows, and how far each has come.

    `running` maps the keys of those that run to what they last reported.
    """

    operations: list[Operation] = field(default_factory=list)
    service: bool = False
    began: float | None = None
    ended: float = 0.0
    running: dict[str, str] = field(default_factory=dict)
    done: list[Operation] = field(default_factory=list)
    failure: str = ""

    @property
    def over(self) -> bool:
        """Return whether nothing more happens here."""
        return not self.running and (bool(self.failure) or len(self.done) == len(self.operations))

    def shown(self, pending: Mapping[str, str], ended: bool) -> _Shown:
        """Return what the line shows. `pending` maps each operation of the plan that is not done to its line."""
        if self.failure and not self.running:
            return _Shown("✗", "bold red", "failed", self.failure)
        if self.over:
            return _Shown("✓", "green", self._final())
        if ended:
            return _Shown("-", "dim", "not ready" if self.service else "not done")
        if not self.service and self.operations[0].action in COMPONENT_ACTIONS:
            state = _STATES[self.operations[0].action][0]
            return _Shown("…", "yellow", state, f"{len(self.done)} of {len(self.operations)} done")
        if not self.running:
            return _Shown("…", "yellow", "waiting", self._waiting(pending))
        key = next(reversed(self.running))
        operation = next(op for op in self.operations if op.key == key)
        return _Shown("…", "yellow", self._state(operation), self.running[key] or self._cause(operation))

    def _final(self) -> str:
        if self.service:
            return "ready"
        last = self.done[-1].action
        return "done" if last in COMPONENT_ACTIONS else _STATES[last][1]

    def _cause(self, operation: Operation) -> str:
        """Return why the operation runs, unless an earlier one has said so: a container that starts does exist."""
        new = operation.cause and operation.cause not in (op.cause for op in self.done)
        return f"({operation.cause})" if new else ""

    def _state(self, operation: Operation) -> str:
        if operation.action == "ready" and not any(op.action in ("start", "empty") for op in self.operations):
            return "checking"  # it runs already
        return _STATES[operation.action][0]

    def _waiting(self, pending: Mapping[str, str]) -> str:
        """Return what the next operation waits for, in words."""
        following = next(op for op in self.operations if op not in self.done)
        own = {op.key for op in self.operations}
        names = dict.fromkeys(pending[key] for key in following.after if key in pending and key not in own)
        return f"for {', '.join(names)}" if names else ""


class Live(Report):
    """Show a line per service that changes in place: its state, for how long, and what devenv waits for."""

    def __init__(self, stream: IO[str]) -> None:
        self._console = console(stream)
        self._lock = threading.Lock()
        self._live: RichLive | None = None
        self._reset(Plan(()))

    def _reset(self, plan: Plan) -> None:
        self._services = [op.target for op in plan.operations if op.action == "ready"]
        components = {_subject(op) for op in plan.operations if op.action in COMPONENT_ACTIONS} - {*self._services}
        self._together = len(components) > _MOST_COMPONENTS
        self._rows = {name: _Row(service=True) for name in self._services}
        for operation in plan.operations:
            self._rows.setdefault(self._row_of(operation), _Row()).operations.append(operation)
        # By key, the line of each operation that is not done.
        self._pending = {operation.key: self._row_of(operation) for operation in plan.operations}
        self._began, self._ended = time.monotonic(), False

    def begin(self, plan: Plan) -> None:
        from rich.live import Live as RichLive

        with self._lock:
            self._reset(plan)
        self._live = RichLive(console=self._console, get_renderable=self._lines, refresh_per_second=10)
        self._live.start()

    def end(self) -> None:
        with self._lock:
            self._ended = True
        if self._live:
            self._live.stop()

    def started(self, operation: Operation) -> None:
        with self._lock:
            row = self._rows[self._row_of(operation)]
            row.running[operation.key] = ""
            row.began = row.began or (self._began if row.service else time.monotonic())

    def progress(self, operation: Operation, text: str) -> None:
        if text:
            with self._lock:
                self._rows[self._row_of(operation)].running[operation.key] = text

    def finished(self, operation: Operation, seconds: float) -> None:
        with self._lock:
            self._pending.pop(operation.key)
            self._settled(operation).done.append(operation)

    def failed(self, operation: Operation, seconds: float, reason: str) -> None:
        with self._lock:
            row = self._settled(operation)
            row.failure = row.failure or reason or "as another says"

    def note(self, text: str) -> None:
        self._console.print(text)

    def _settled(self, operation: Operation) -> _Row:
        row = self._rows[self._row_of(operation)]
        row.running.pop(operation.key, None)
        row.ended = time.monotonic()
        return row

    def _row_of(self, operation: Operation) -> str:
        subject = _subject(operation)
        one_of_many = self._together and operation.action in COMPONENT_ACTIONS and subject not in self._services
        return "components" if one_of_many else subject

    def _lines(self) -> Text:
        from rich.text import Text

        lines = Text(no_wrap=True, overflow="ellipsis")
        with self._lock:
            rows = {name: row for name, row in self._rows.items() if row.service or row.began}
            width = max(map(len, rows), default=0)
            for name, row in rows.items():
                shown = row.shown(self._pending, self._ended)
                until = row.ended if row.over else time.monotonic()
                lines.append(f"{shown.mark} ", shown.style)
                lines.append(f"{name:<{width}}  ")
                lines.append(f"{shown.state:<{_STATE_WIDTH}}", shown.style)
                lines.append(f" {until - (row.began or self._began):6.1f} s  ")
                lines.append(f"{shown.detail}\n", "dim")
            lines.append("".join(self._summary()))
        return lines

    def _summary(self) -> Iterator[str]:
        """Yield how many of the services are ready."""
        if self._services:
            ready = sum(any(op.action == "ready" for op in self._rows[name].done) for name in self._services)
            yield f"{ready} of {len(self._services)} {'service' if len(self._services) == 1 else 'services'} ready"
