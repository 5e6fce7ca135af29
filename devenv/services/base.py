"""The contracts of a service: a probe that checks it, a provisioner that creates what components get in it.

A probe is a function `check(target)`. It returns when the service works and raises NotReady with the reason when it
does not work yet. A provisioner is a subclass of Provisioner. `_make` and `_remove` say what to do for one component.
Where the service supports them, `_empty` says what a reset does, `_settle` what a snapshot needs, `_log_in` what
components need after each start, and `_found` and `_try_out` what an account for test suites needs. All of them raise
Refused with the reason when the service does not let them.

devenv finds both by name among entry points, so another package can bring one (see lookup.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from devenv.errors import Hopeless, NotOurs, ServiceFailed, Unreachable, tells_of_full_disk
from devenv.hiding import hide

# The limits of one attempt of a probe, in seconds. A healthy service answers in milliseconds; a wedged one must not
# hide its reason for long.
PROBE_CONNECT_SECONDS = 2.0
PROBE_ANSWER_SECONDS = 5.0
# The limits of one request of a provisioner. On the loopback address a connection is there immediately or never. 32
# requests at a time wait for each other, 40 ms each in Keystone's one process; a busy machine is ten times slower.
CONNECT_SECONDS = 2
ANSWER_SECONDS = 30


# The settings that are names of users and of what they have.
_NAMES = ("user", "root", "database", "vhost", "project")


@dataclass(frozen=True)
class Target:
    """The server to talk to: an endpoint's host view, and the `probe` or `provisioner` settings of the service.

    `service` is its name, as in `devenv logs SERVICE`, unless it is `attached`: then somebody else runs it, and devenv
    has nothing of it but this login.
    """

    host: str
    port: int
    url: str = field(repr=False)
    settings: Mapping[str, str] = field(repr=False)
    service: str = ""
    attached: bool = False


Check = Callable[[Target], None]


@dataclass(frozen=True)
class Component:
    """A component to provision: its name in devenv.yaml, and its user, password and more in this service.

    If it is `new`, an attached server had nothing by its names a moment ago. Others may be just making that, too.
    """

    name: str
    settings: Mapping[str, str] = field(repr=False)
    new: bool = False


class Refused(Exception):
    """Raised inside a provisioner: the service's reason (users see one line of it) and a hint."""

    def __init__(self, reason: object, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class NoAnswer(Refused):
    """Raised inside a provisioner: nobody answers, or no longer."""


class Denied(Refused):
    """Raised inside a provisioner: the server does not let the administrator's login do this."""


class Taken(Refused):
    """Raised inside a provisioner: somebody else was faster, so what a new component was to get is theirs."""

    def __init__(self, what: str) -> None:
        super().__init__(f"somebody else has made {what} of that name meanwhile", "give the component another name")


class Provisioner:
    """Creates and removes what components get in one service. Each step can be repeated at any time.

    One instance serves one service during one run, and up to 32 threads at a time, each with another component.
    """

    what = ""  # What a component gets, for errors: "the database".
    needs = ""  # What an administrator's login has to be allowed, for errors: "a superuser's rights".
    # Removing is so slow that devenv removes nothing one by one before it removes the service itself.
    slow_to_drop = False

    def __init__(self, target: Target) -> None:
        """Take the target, whose settings hold the administrator's credentials."""
        self.target = target

    def prepare(self) -> None:
        """Configure the service itself, once, before any component. Raise ServiceFailed."""

    def lacks(self) -> bool:
        """Look whether `prepare` has to make something in an attached service. Raise ServiceFailed."""
        with self._explained(f"cannot prepare {self.target.service}"):
            return self._lacks()

    def release(self) -> None:
        """Remove what `prepare` made in an attached service, unless others use it by now. Raise ServiceFailed."""
        with self._explained(f"cannot clear {self.target.service}"):
            self._release()

    def ensure(self, component: Component) -> None:
        """Create what is missing and fix what differs. Raise ServiceFailed, or NotOurs if a new one's name is taken."""
        with self._explained(f"cannot create {self.what} of component {component.name}", component):
            self._make(component)

    def drop(self, component: Component) -> None:
        """Remove what `ensure` created; a missing part counts as removed. Raise ServiceFailed."""
        with self._explained(f"cannot remove {self.what} of component {component.name}", component):
            self._remove(component)

    def log_in(self, component: Component) -> None:
        """Log in as a component that has its part, where the service has a setting `log_in`. Raise ServiceFailed."""
        with self._explained(f"cannot log in to {self.target.service} as component {component.name}", component):
            self._log_in(component)

    def empty(self, initial: bytes) -> None:
        """Return a running service to the state after its first start, where it has a setting `initial`.

        `initial` is the content of the file that this setting names. Raise ServiceFailed.
        """
        with self._explained(f"cannot clear {self.target.service}"):
            self._empty(initial)

    def found(self, component: Component) -> str:
        """Return what the service has by the component's names: "an account"; nothing if "". Raise ServiceFailed."""
        with self._explained(f"cannot look for account {component.name}", component):
            return self._found(component)

    def try_out(self, component: Component) -> None:
        """Log in as a component that has all rights, and create and remove something. Raise ServiceFailed."""
        with self._explained(f"cannot use account {component.name}", component):
            self._try_out(component)

    def settle(self) -> None:
        """Write to disk all that the service has confirmed, where it has a setting `settle`. Raise ServiceFailed."""
        with self._explained(f"cannot flush {self.target.service} to disk"):
            self._settle()

    def close(self) -> None:
        """Close the connections that the provisioner keeps."""

    # These two are not abstract: a subclass that overrides `ensure` and `drop` needs neither.

    def _make(self, component: Component) -> None:
        """Create the component's part, or fix it."""
        raise NotImplementedError

    def _remove(self, component: Component) -> None:
        """Remove all of the component's part."""
        raise NotImplementedError

    def _log_in(self, component: Component) -> None:
        raise Refused("its provisioner does not support it")

    def _empty(self, initial: bytes) -> None:
        raise Refused("its provisioner does not support it")

    def _lacks(self) -> bool:
        """Return whether `prepare` has to make something. Most services need no preparation."""
        return False

    def _release(self) -> None:
        """Remove what `prepare` made. Most services need no preparation."""

    def _settle(self) -> None:
        raise Refused("its provisioner does not support it")

    def _found(self, component: Component) -> str:
        raise Refused("its provisioner does not support it")

    def _try_out(self, component: Component) -> None:
        raise Refused("its provisioner does not support it")

    @contextmanager
    def _explained(self, cannot: str, component: Component | None = None) -> Iterator[None]:
        try:
            yield
        except (Refused, ValueError) as error:
            line = (str(error).strip().splitlines() or ["no reason given"])[0]
            # Servers quote what devenv sent to them.
            known = [self.target.settings, *([component.settings] if component else [])]
            names = {settings.get(key, "") for settings in known for key in _NAMES} | {self.target.service}
            line = hide(line, [settings.get("password", "") for settings in known], names)
            where, hint = f"{self.target.host}:{self.target.port}", getattr(error, "hint", "")
            hint = hint or self._hint(error)
            if isinstance(error, Taken):
                raise NotOurs(f"{cannot} at {where}: {line[:200]}", hint) from None
            if self.target.attached and isinstance(error, NoAnswer):
                raise Unreachable(f"cannot reach {self.target.service} at {where}: {line[:200]}", hint) from None
            failed = ServiceFailed(f"{cannot} at {where}: {line[:200]}", hint)
            failed.disk_full = tells_of_full_disk(line)
            raise failed from None

    def _hint(self, error: Exception) -> str:
        if not self.target.attached:
            return f"'devenv logs {self.target.service}' shows its side"
        if isinstance(error, NoAnswer):
            return f"repeat this when {self.target.service} answers"
        if isinstance(error, Denied) and self.needs:
            return f"the login for {self.target.service}, from devenv.yaml or DEVENV_ATTACH_*, needs {self.needs}"
        return f"somebody else runs {self.target.service}, so only they can see its log"


# ---- what probes say ---------------------------------------------------------------------------------------------


def no_connection(error: BaseException | None, usual: str) -> str:
    """Return why a connection failed.

    While no server listens behind it, the engine's port proxy looks different each time. That is the `usual` reason.
    """
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return "no answer in time" if isinstance(error, TimeoutError) else usual


def no_login(error: BaseException | None) -> str:
    """Return why a connection failed to a server that asks for a login first."""
    return no_connection(error, "not accepting logins yet")


def check_version(found: object, target: Target) -> None:
    """Raise Hopeless if an attached server is older than the setting `oldest`, the oldest that devenv can use."""
    oldest = target.settings.get("oldest", "")
    if oldest and _numbers(found) < _numbers(oldest):
        raise Hopeless(f"its version is {found}, and devenv needs {oldest} or newer")


def _numbers(version: object) -> list[int]:
    """Return the numbers that a version begins with: "8.0.36-log" gives 8, 0, 36."""
    begin = re.match(r"\d+(?:\.\d+)*", str(version))
    return [int(number) for number in begin[0].split(".")] if begin else []


def first_line(words: object) -> str:
    """Return the first line of a server's message."""
    return (str(words).strip().splitlines() or [type(words).__name__])[0][:200]
