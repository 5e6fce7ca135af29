"""Measure how long after a service is ready devenv knows it: the service's own log line against devenv's progress.

devenv prints a line when an operation has ended, and the bench notes when the line comes. So this errs upwards, by the
time that a line takes from one process to another.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import re
import threading
import time
from collections.abc import Mapping, Sequence

from tests.bench.engine import Engine
from tests.bench.process import Done
from tests.bench.samples import Samples, Tell
from tests.bench.sides import Devenv

READY = "ready to known, "
# The line that each service logs when it is ready. etcd logs none at devenv's level, so the bench asks it (below).
LINES = {
    "mysql": re.compile(r"mysqld: ready for connections"),
    "rabbitmq": re.compile(r"completed with \d+ plugins"),
    "keystone": re.compile(r"serving http\S+ after"),
}
ETCD = "etcd"
_ETCD_PORT = 2379
_ETCD_PAUSE = 0.005
_ETCD_LONGEST = 60.0
# A line of devenv's progress: "  ready mysql (cause): 1.2 s".
_PROGRESS = re.compile(r"\s*(?P<operation>(?:create|start|ready) \S+?)(?: \(.*\))?: [\d.]+ s\s*$")


def up_watched(side: Devenv, engine: Engine, samples: Samples, tell: Tell) -> Done:
    """Run `up`; add for each service how many milliseconds after it was ready devenv stopped waiting for it."""
    watch = _Watch(engine, side.label)
    done = side.up(hear=watch.hear)
    known, ready = watch.ended, watch.ready()
    for service, when in ready.items():
        if (told := known.get(f"ready {service}")) is not None:
            samples.add(f"{READY}{service}", side.name, (told - when) * 1000)
    late = ", ".join(
        f"{s} {(known[f'ready {s}'] - when) * 1000:.0f}" for s, when in ready.items() if f"ready {s}" in known
    )
    tell(f"  {side.name:<8} {'ready to known':<24} {late} ms")
    return done


class _Watch:
    """Hears devenv's progress, and asks etcd itself. All times are in seconds since 1970."""

    def __init__(self, engine: Engine, label: str) -> None:
        self._engine, self._label = engine, label
        self._began = time.time()
        self._asking: threading.Thread | None = None
        self._etcd: float | None = None
        self.ended: dict[str, float] = {}

    def hear(self, when: float, line: str) -> None:
        if operation := ended_operation(line):
            self.ended[operation] = when
            if operation == f"create {ETCD}":
                self._asking = threading.Thread(target=self._ask_etcd, daemon=True)
                self._asking.start()

    def ready(self) -> dict[str, float]:
        """Return when each service was ready, as far as the bench knows."""
        found = ready_times(self._engine.logs(self._label), self._began)
        if self._asking:
            self._asking.join(_ETCD_LONGEST)
        return found | ({ETCD: self._etcd} if self._etcd else {})

    def _ask_etcd(self) -> None:
        port, deadline = self._engine.published(self._label, ETCD, _ETCD_PORT), time.time() + _ETCD_LONGEST
        while port and time.time() < deadline:
            if _healthy(port):
                self._etcd = time.time()
                return
            time.sleep(_ETCD_PAUSE)  # The precision of the measurement; a shorter pause would keep etcd busy.


def _healthy(port: int) -> bool:
    """Return whether etcd says that it is healthy; the answer's `health` is a string."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            answer = connection.getresponse()
            return answer.status == 200 and b'"health":"true"' in answer.read()
    return False


def ended_operation(line: str) -> str:
    """Return the operation that ended according to a line of devenv's progress; empty for any other line."""
    found = _PROGRESS.match(line)
    return found["operation"] if found else ""


def ready_times(logs: Mapping[str, Sequence[str]], since: float) -> dict[str, float]:
    """Return when each service logged for the last time that it is ready, if that was after `since`."""
    found = {}
    for service, pattern in LINES.items():
        whens = [_when(line) for line in logs.get(service, ()) if pattern.search(line)]
        if whens and whens[-1] > since:
            found[service] = whens[-1]
    return found


def _when(line: str) -> float:
    """Return the time before a line from the engine, which has nanoseconds; Python takes six digits."""
    stamp = re.sub(r"(\.\d{6})\d*", r"\1", line.split(" ", 1)[0])
    return datetime.datetime.fromisoformat(stamp).timestamp()
