"""Everything that devenv reports as a failure, and the exit code of each.

    DevenvError                     1  unexpected; also: `wire --check` shows changes, or a check of `doctor` failed
    ├── ConfigError                 3  a file is wrong, untrusted or unwritable, a name unknown or taken, nothing is up
    │   └── Unsupported                the engine cannot do what is asked for
    ├── NoEngine                    4  no container engine answers
    ├── ServiceFailed               5  an image, a container or a provisioning step failed
    │   ├── NoSpace                    the engine's disk is full
    │   ├── AddressPoolExhausted       the engine has no addresses left for another network
    │   ├── LimitRefused               the engine may not set a limit that a container asks for
    │   ├── LostLock                   another host has taken over a shared environment, or it is gone
    │   └── Unreachable                a server that somebody else runs does not answer
    ├── NotReadyInTime              6  a service runs but did not become ready; also: `status --exit-code` shows one
    └── NotOurs                     7  something in the way does not belong to devenv
        └── PortTaken                  another program has a port that a container was to publish

Callers decide by class and field, never by the text of a message. Only the code that asks an engine or a server reads
its words.

A message starts with "cannot", says what and where; the hint says what to do next. Exit code 2 (usage) is
click's own, 130 (interrupted) belongs to KeyboardInterrupt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class DevenvError(Exception):
    """A failure with one clear line, a hint, and optional detail lines (a log tail, a list of errors)."""

    exit_code = 1
    # The failed operations of a plan, if any: each a `model.Operation`, which this file cannot import.
    operations: Sequence[Any] = ()
    # Whether a full disk is the cause, as the engine says, or a service at the end of its log.
    disk_full = False

    def __init__(self, message: str, hint: str = "", detail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = tuple(detail)


class ConfigError(DevenvError):
    exit_code = 3


class Unsupported(ConfigError):
    """The engine in use cannot do what the user asks for."""


class NoEngine(DevenvError):
    exit_code = 4


class ServiceFailed(DevenvError):
    exit_code = 5


class NoSpace(ServiceFailed):
    """The engine's disk is full."""

    disk_full = True


class AddressPoolExhausted(ServiceFailed):
    """The engine has no range of addresses left for another network; each environment takes one."""


class LimitRefused(ServiceFailed):
    """The engine may not set a limit, `limit` in words. devenv creates later containers without it."""

    def __init__(self, message: str, hint: str = "", limit: str = "") -> None:
        super().__init__(message, hint)
        self.limit = limit


class LostLock(ServiceFailed):
    """This process does not have the lock of a shared environment any more, so it must not change anything."""


class Unreachable(ServiceFailed):
    """A server that somebody else runs does not answer."""


class NotReadyInTime(DevenvError):
    exit_code = 6


class NotOurs(DevenvError):
    exit_code = 7


class PortTaken(NotOurs):
    """Another program got a port after devenv chose it and before the container that publishes it started."""


class NotReady(Exception):
    """Raised by a probe: the reason why a service is not ready for use yet. Not a failure by itself.

    `hint` says what to do if it stays like that, where that is not the same for every reason.
    """

    def __init__(self, reason: object = "", hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class Hopeless(NotReady):
    """Waiting will not help: the server does not let this login in, or is too old."""


class Cancelled(Exception):
    """Raised inside a running step when the user interrupts devenv."""


def tells_of_full_disk(text: str) -> bool:
    """Return whether an engine or a server says in its own words, or in its log, that a disk is full.

    Programs repeat the kernel's text for ENOSPC, in upper or lower case.
    """
    return "no space left on device" in text.lower()
