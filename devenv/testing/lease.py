"""Lend environments to one process of a test run: start services on demand, create a component for each test.

All processes of a run share an environment. Each has its own components in it. The last process stops what the run
started.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devenv.errors import ConfigError, DevenvError, NoEngine
from devenv.lifecycle.environment import Environment
from devenv.lifecycle.loans import Borrowed
from devenv.model import Desired, DesiredService, Endpoint, Provision
from devenv.store.files import write_files
from devenv.store.registry import all_records
from devenv.testing.pool import Made, Pool, owner
from devenv.wiring import contents

if TYPE_CHECKING:
    from oslo_config.cfg import ConfigOpts

    from devenv.images.golden import Golden
    from devenv.model import Report

_log = logging.getLogger(__name__)
# The environment of a run that begins with no data. It leaves the developer's own environment alone.
FRESH = "pytest"
# So many lines of each service are in the report of a test.
_LOG_LINES = 100


@dataclass(frozen=True)
class Service:
    """Hold a service as the administrator or a component sees it. `env` is its part of what `devenv env` prints."""

    name: str
    role: str
    endpoints: Mapping[str, Endpoint] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)

    @property
    def endpoint(self) -> Endpoint:
        """Return the first endpoint, which has a `host`, a `port` and a `url`."""
        return next(iter(self.endpoints.values()))


def _service(service: DesiredService, view: DesiredService | Provision) -> Service:
    return Service(service.name, service.role, view.endpoints, contents.flat_map({service.name: view}))


class LentComponent:
    """Lend a component that has an empty part of each service that the test asked for."""

    def __init__(self, lease: Lease, made: Made, pool: Pool) -> None:
        self.lease, self.name = lease, made.name
        self._made, self._pool = made, pool

    @property
    def services(self) -> list[str]:
        """Return the names of the services in which it has a part."""
        return list(self._made.parts)

    def service(self, name: str) -> Service:
        """Return a service as the component sees it: URLs have its login. Raise ConfigError if it has no part there."""
        if name not in self._made.parts:
            raise ConfigError(
                f"cannot use {name!r} as component {self.name}: it only has a part of {', '.join(self._made.parts)}",
                "name the service in the test's marker: @pytest.mark.devenv(services=[…])",
            )
        return _service(self._made.desired.services[name], self._made.parts[name])

    @cached_property
    def env(self) -> dict[str, str]:
        """Return the variables that `devenv run` gives a command."""
        variables, text = contents.run_variables(self._made.desired, self.name, self._made.note, self._pool.catalogue)
        write_files({self._made.note: text.encode()})
        return variables

    @property
    def environ(self) -> dict[str, str]:
        """Return all variables for a program that runs as the component: `env`, and what this process has besides.

        Leave out what would lead the program to another cloud, such as OS_CLOUD.
        """
        return contents.inherited(os.environ, self.env, contents.replaced(self.env, self._pool.catalogue))

    @property
    def overlay(self) -> Path:
        """Return the path of its options for oslo.config, for `--config-file`."""
        return Path(self.env["DEVENV_OSLO_CONF"])

    @cached_property
    def conf(self) -> ConfigOpts:
        """Return the options of the overlay, loaded. Arguments and OS_* variables do not change them.

        Raises ConfigError without oslo.config.
        """
        try:
            from devenv.testing import options
        except ModuleNotFoundError as error:
            if error.name != "oslo_config":
                raise
            hint = "run 'pip install oslo.config'"
            raise ConfigError("cannot load options: oslo.config is not installed", hint) from None
        return options.load(self.overlay)

    def give_back(self) -> None:
        """Drop the component, in the background."""
        self._pool.give_back(self._made)


class Lease:
    """Hold what one process uses of one environment. Threads may share a lease."""

    def __init__(self, environment: Environment, fresh: bool = False, citest: bool = False) -> None:
        """With `citest`, or if devenv.yaml asks for it, the databases get an account for OpenStack's own suites."""
        self.environment = environment
        self._fresh, self._citest = fresh, citest
        # The databases that have the account.
        self._accounts: set[str] = set()
        self._lock, self._stack = threading.RLock(), ExitStack()
        self._notes: Callable[[], Path] | None = None
        self._known: dict[tuple[str, ...], Borrowed] = {}
        self._failed: dict[str, DevenvError] = {}
        self._pools: dict[tuple[str, ...], Pool] = {}
        self._background: threading.Thread | None = None

    def begin(self, names: Sequence[str], components: Iterable[Sequence[str]] = ()) -> None:
        """Start services in the background, and create components in advance, each with parts of these services.

        Does not raise: asking for a service or a component that failed does. `services` waits for all of this.
        """

        def bring_up() -> None:
            # Asking for a service raises its error again; an interrupted run asks for none. A test that runs meanwhile
            # may block sockets, which raises anything.
            try:
                self._prepare(names, components)
            except Exception:
                _log.debug("this is where starting services in the background failed:", exc_info=True)

        self._background = threading.Thread(target=bring_up, name="devenv-up", daemon=True)
        self._background.start()

    def _prepare(self, names: Sequence[str], components: Iterable[Sequence[str]]) -> None:
        self._desired(names)
        pools = [self._pool(services) for services in components]
        for pool in pools:
            pool.fill()
        # The first components of a process are slow: it imports clients, which connect.
        for pool in pools:
            pool.wait()

    def service(self, name: str) -> Service:
        """Return a service that is ready, as the administrator sees it."""
        service = self._desired([name]).services[name]
        return _service(service, service)

    def services(self, names: Sequence[str] = ()) -> dict[str, Service]:
        """Return services that are ready (all of the profile if none is named). Waits for those that `begin` starts."""
        if self._background:
            self._background.join()
        return {name: _service(s, s) for name, s in self._desired(names).services.items()}

    def component(self, names: Sequence[str] = ()) -> LentComponent:
        """Return a fresh component with a part of each of these services, of all of the profile if none is named.

        Raises the error if the services do not start.
        """
        pool = self._pool(names)
        return LentComponent(self, pool.take(), pool)

    def view(self, service: str, since: float) -> tuple[str, list[str]]:
        """Return "ready", or why a service is not ready now, and what it logged since that time."""
        environment = self.environment
        status = environment.status([service])[service]
        lines = [] if status.attached else environment.logs(service, _LOG_LINES, since)
        return status.reason or status.state, lines

    @property
    def passwords(self) -> list[str]:
        """Return the passwords of its components, which are on no record."""
        return [password for pool in [*self._pools.values()] for password in pool.passwords]

    def close(self) -> None:
        """Drop the components and stop using the environment. It keeps running: see `clear`."""
        self.environment.cancel()
        if self._background:
            self._background.join()
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._stack.close()
            self._pools, self._known, self._notes, self._accounts = {}, {}, None, set()

    def _pool(self, names: Sequence[str]) -> Pool:
        borrowed, key = self._borrowed(names), _key(names)
        with self._lock:
            if key not in self._pools:
                going = self.environment.going(borrowed.catalogue)
                self._pools[key] = Pool(borrowed.desired, borrowed.catalogue, self._opened(), going)
            return self._pools[key]

    def leave(self) -> None:
        """Stop using the environment; `clear` drops the components."""
        self._stack.close()

    # ---- services ----------------------------------------------------------------------------------------------

    def _desired(self, names: Sequence[str]) -> Desired:
        return self._borrowed(names).desired

    def _borrowed(self, names: Sequence[str]) -> Borrowed:
        key = _key(names)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._known_with_others(key) or self._borrow(key)
            return self._known[key]

    def _known_with_others(self, names: tuple[str, ...]) -> Borrowed | None:
        """Return services that this process borrowed together with others, None if it did not."""
        found = (one for one in self._known.values() if names and one.desired.services.keys() >= {*names})
        return next((_only(one, names) for one in found), None)

    def _borrow(self, names: tuple[str, ...]) -> Borrowed:
        """Start services. Raise the same error again for services that failed once: no test waits for them twice."""
        if self._failed:
            needed = {"", *self.environment.selected(names)} if names else self._failed.keys()
            if errors := [error for name, error in self._failed.items() if name in needed]:
                raise errors[0]
        try:
            self._opened()
            borrowed = self.environment.borrow(names)
            self.lend_accounts(names)
        except DevenvError as error:
            self._blame(error)
            raise
        return _only(borrowed, names) if names else borrowed

    def lend_accounts(self, names: Sequence[str] = ()) -> None:
        """Lend the account for test suites in the databases among these services, and name them to oslo.db.

        There is none unless devenv.yaml or the caller of this class asks for it.
        """
        with self._lock:
            found = self.environment.databases(names, self._citest, required=False)
            if missing := [name for name in found if name not in self._accounts]:
                self._opened()
                self.environment.borrow(missing)
                # `clear` drops them: this process may not be able to do it at its end.
                os.environ.update(self._stack.enter_context(self.environment.citest(missing, drop=False)))
                self._accounts |= {*missing}

    def _opened(self) -> Callable[[], Path]:
        """Begin to use the environment unless that is done; return the function that makes notes."""
        if not self._notes:
            if self._fresh:
                self.environment.make_room()
            self._notes = _noted(self._stack.enter_context(self.environment.shared()))
        return self._notes

    def _blame(self, error: DevenvError) -> None:
        """Remember which services failed; the empty name stands for all."""
        names = {operation.service for operation in error.operations}
        if isinstance(error, NoEngine):
            names = {""}
        self._failed |= dict.fromkeys(names, error)


def _noted(folder: Path) -> Callable[[], Path]:
    """Return a function that makes a note for a new component. Threads may share it."""
    numbers = count(1)

    def new() -> Path:
        note = folder / f"test-{folder.name}-{next(numbers)}.conf"
        note.touch(mode=0o600)
        return note

    return new


def _only(borrowed: Borrowed, names: Sequence[str]) -> Borrowed:
    services = {name: borrowed.desired.services[name] for name in names}
    return replace(borrowed, desired=replace(borrowed.desired, services=services))


def _key(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


class Leases:
    """Hold all environments that one process uses. A forked child begins with none: its parent's stay as they are."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._owner = owner()
        # Those from before eventlet or gevent replaced locks.
        self._former: list[Lease] = []
        self._projects: set[Path] = set()

    def get(
        self,
        project: Path,
        name: str = "default",
        profile: str = "",
        settings: Mapping[str, Any] | None = None,
        fresh: bool = False,
        citest: bool = False,
    ) -> Lease:
        """Return the lease of an environment with this profile and these settings."""
        leases, key = self._own(), repr((project, name, profile, settings or {}, fresh))
        if key not in leases:
            self._projects.add(project)
            leases[key] = Lease(Environment(project, name, profile, settings=settings), fresh, citest)
        return leases[key]

    def _own(self) -> dict[str, Lease]:
        """Return the leases of this process, for the locks that it has now."""
        before, self._owner = self._owner, owner()
        if before[0] != self._owner[0]:
            self._leases, self._former, self._projects = {}, [], set()
        elif before != self._owner:
            self._former += self._leases.values()
            self._leases = {}
        return self._leases

    @property
    def projects(self) -> set[Path]:
        """Return the projects whose environments this process has used."""
        self._own()
        return self._projects

    @property
    def passwords(self) -> list[str]:
        """Return the passwords of the components of all leases."""
        return [password for lease in [*self._own().values(), *self._former] for password in lease.passwords]

    def close(self) -> None:
        """Drop all components and stop using the environments."""
        leases = self._own()
        while leases:
            leases.popitem()[1].close()
        self.leave()

    def leave(self) -> None:
        """Stop using the environments, and leave the components to `clear`."""
        leases = [*self._own().values(), *self._former]
        self._leases, self._former = {}, []
        for lease in leases:
            lease.leave()


def clear(project: Path) -> None:
    """Stop what runs started in a project's environments and nobody uses now. Remove leftovers of killed runs."""
    for environment in environments(project):
        environment.clear(others=False)


@dataclass(frozen=True)
class Collected:
    """Hold what devenv removed from an environment: services that a run had started, components of killed runs."""

    environment: str
    services: Sequence[str]
    components: Sequence[str]


def collect(environment: Environment, limit: int, report: Report | None = None) -> tuple[list[Collected], list[Golden]]:
    """Call `Environment.collect` for all environments of its project; return what that removed."""
    names = [name for name in _names(environment.project) if name != environment.name]
    others = [environment.sibling(name, report) for name in names]
    collected: list[Collected] = []
    golden: list[Golden] = []
    for one in (environment, *others):
        before, left = one.observe(), _left(one)
        golden += one.collect(limit)
        after = one.observe()
        ended = [name for name in before.services if name not in after.services or before.runs(name) > after.runs(name)]
        if ended or left - _left(one):
            collected.append(Collected(one.name, sorted(ended), sorted(left - _left(one))))
    return collected, golden


def _left(environment: Environment) -> set[str]:
    """Return the components of killed runs."""
    return {*environment.state.abandoned(), *environment.state.left_behind()}


def environments(project: Path) -> list[Environment]:
    """Return the environments of a project that have a record."""
    return [Environment(project, name) for name in _names(project)]


def _names(project: Path) -> list[str]:
    return [record.name for record in all_records() if record.project == str(project)]


if __name__ == "__main__":  # for a process that can no longer start threads
    try:
        clear(Path(sys.argv[1]))
    except DevenvError as error:
        sys.exit(f"devenv: {error.message}; {error.hint}")
