"""Read the logs of pods, and run commands inside them, joined to the program that started these."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from devenv.engine.http import in_lines
from devenv.engine.kubernetes.connection import ApiRefused, Cluster, asking
from devenv.engine.pod import CONTAINER
from devenv.engine.protocol import Tail

if TYPE_CHECKING:
    from devenv.engine.kubernetes.session import PodSession

# The node ends the log of a container that was removed meanwhile with its runtime's own words, those of containerd or
# CRI-O, as if the container had said them.
_REMOVED = re.compile(rb"rpc error: code = NotFound desc = .*\bcontainer \"[0-9a-f]{64}\"")

# ---- logs ----------------------------------------------------------------------------------------------------------


def logs(cluster: Cluster, pod: str, tail: Tail, since: float, timestamps: bool) -> list[str]:
    """Return the lines that a pod logged, from `since` on (in seconds since 1970) if it is given."""
    query = _log_query(tail) | {"timestamps": bool(timestamps or since)}
    if since:
        # The API knows whole seconds: it sends more than is asked for.
        query["sinceTime"] = datetime.fromtimestamp(int(since), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with asking(cluster, f"read the logs of pod {pod}"):
        try:
            sent = b"".join(cluster.stream("GET", cluster.path("pods", pod, "log"), query))
        except ApiRefused as error:
            return _none_yet(error)
    lines = sent.decode(errors="replace").splitlines()
    if since:
        lines = [line for line in lines if _time_of(line) >= since]
    return lines if timestamps or not since else [line.partition(" ")[2] for line in lines]


def follow(cluster: Cluster, pod: str, tail: Tail) -> Iterator[str]:
    """Yield the lines of a pod's log as they come, until its container ends."""
    with asking(cluster, f"follow the logs of pod {pod}"):
        try:
            query = _log_query(tail) | {"follow": True}
            for line in in_lines(cluster.stream("GET", cluster.path("pods", pod, "log"), query)):
                if not _REMOVED.match(line):
                    yield line.decode(errors="replace")
        except ApiRefused as error:
            yield from _none_yet(error)


def _log_query(tail: Tail) -> dict[str, object]:
    return {"container": CONTAINER, **({} if tail == "all" else {"tailLines": tail})}


def _none_yet(error: ApiRefused) -> list[str]:
    """Return no lines for a container that has not begun. Raise any other error."""
    if error.status == 400 and "waiting to start" in str(error):
        return []
    raise error


def _time_of(line: str) -> float:
    """Return the time with which a line begins, in seconds since 1970. The API gives nanoseconds, or fewer digits."""
    whole, _, rest = line.partition(" ")[0].rstrip("Z").partition(".")
    try:
        seconds = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return float("inf")  # a line that is not the API's own is shown
    return seconds + float(f"0.{rest or 0}")


# ---- commands ------------------------------------------------------------------------------------------------------


def execute(
    cluster: Cluster, pod: str, command: Sequence[str], tty: bool, environment: Mapping[str, str] | None = None
) -> PodSession:
    """Start a command in a pod with its input attached. The values of `environment` are one line each."""
    # Imported here: nothing else needs an event loop.
    from devenv.engine.kubernetes.session import WITH_VARIABLES, PodSession

    line, wrapped = b"", list(command)
    if environment:
        line = (" ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items()) + "\n").encode()
        wrapped = [*WITH_VARIABLES, *command]
    session = PodSession(cluster, pod, wrapped, tty, line)
    with asking(cluster, f"run {command[0]} in pod {pod}"):
        session.start()
    return session
