"""What one process of a test run uses of environments: services on demand, and a component for each test.

All processes of a run share an environment. Each has its own components of it; the last one that uses it ends it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devenv.errors import Cancelled, ConfigError, DevenvError, NoEngine
from devenv.lifecycle.environment import Environment
from devenv.model import Desired, DesiredService, Endpoint, Provision
from devenv.store.state import all_records, write_files
from devenv.testing.pool import Made, Pool
from devenv.wiring import folder as wiring

if TYPE_CHECKING:
    from oslo_config.cfg import ConfigOpts

    from devenv.images.golden import Golden
    from devenv.model import Report

# Of a run that is to begin with nothing: it leaves the developer's own environment alone.
FRESH = "pytest"
# Of each service in the report of a test.
_LOG_LINES = 100


@dataclass(frozen=True)
class Service:
    """A service as the administrator or a component sees it. `env` is its part of what `devenv env` prints."""

    name: str
    role: str
    endpoints: Mapping[str, Endpoint] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)

    @property
    def endpoint(self) -> Endpoint:
        """The one that goes by the service's name alone: its `host`, `port` and `url`."""
        return next(iter(self.endpoints.values()))


def _service(service: DesiredService, view: DesiredService | Provision) -> Service:
    return Service(service.name, service.role, view.endpoints, wiring.flat_map({service.name: view}))


class LentComponent:
    """A component with a part of each service that was asked for, and nothing in them yet."""

    def __init__(self, lease: Lease, made: Made, pool: Pool) -> None:
        self.lease, self.name = lease, made.name
        self._made, self._pool = made, pool

    @property
    def services(self) -> list[str]:
        """The names of the services that it has a part of."""
        return list(self._made.parts)

    def service(self, name: str) -> Service:
        """A service as the component sees it: URLs have its login. Raises ConfigError if it has no part of it."""
        if name not in self._made.parts:
            raise ConfigError(
                f"cannot use {name!r} as {self.name}: it has a part of {', '.join(self._made.parts)}",
                "name the service in the test's marker: @pytest.mark.devenv(services=[…])",
            )
        return _service(self._made.desired.services[name], self._made.parts[name])

    @cached_property
    def env(self) -> dict[str, str]:
        """The variables that `devenv run` gives a command."""
        variables, text = wiring.run_variables(
            self._made.desired, self.name, self._made.note, self.lease.environment.catalogue
        )
        write_files({self._made.note: text.encode()})
        return variables

    @property
    def overlay(self) -> Path:
        """Its options for oslo.config, as a file for `--config-file`."""
        return Path(self.env["DEVENV_OSLO_CONF"])

    @cached_property
    def conf(self) -> ConfigOpts:
        """The options of the overlay, loaded, and no others: neither arguments nor OS_* variables are looked at.

        Raises ConfigError without oslo.config.
        """
        try:
            from oslo_config import cfg
        except ImportError:
            raise ConfigError("cannot make a ConfigOpts: there is no oslo.config", "pip install oslo.config") from None
        conf = cfg.ConfigOpts()
        files, folders = [str(self.overlay)], list[str]()
        conf([], project="devenv", default_config_files=files, default_config_dirs=folders, use_env=False)
        return conf

    def give_back(self) -> None:
        """Have it dropped."""
        self._pool.give_back(self._made)


class Lease:
    """One environment as one process uses it. Threads may share it."""

    def __init__(self, environment: Environment, fresh: bool = False) -> None:
        self.environment = environment
        self._fresh = fresh
        self._lock, self._stack = threading.RLock(), ExitStack()
        self._notes: Callable[[], Path] | None = None
        self._known: dict[tuple[str, ...], Desired] = {}
        self._failed: dict[str, DevenvError] = {}
        self._pools: dict[tuple[str, ...], Pool] = {}
        self._background: threading.Thread | None = None

    def begin(self, names: Sequence[str], components: Iterable[Sequence[str]] = ()) -> None:
        """Bring services up in the background, and make components ahead that have parts of these services each.

        Whoever asks for them learns what came of it. `services` waits for all of this.
        """

        def bring_up() -> None:
            # Whoever asks for them gets the error; an interrupted run asks for nothing any more.
            with suppress(DevenvError, Cancelled):
                self._desired(names)
                pools = [self._pool(services) for services in components]
                for pool in pools:
                    pool.fill()
                # The first ones of a process are the slow ones: clients are imported, and connect.
                for pool in pools:
                    pool.wait()

        self._background = threading.Thread(target=bring_up, name="devenv-up", daemon=True)
        self._background.start()

    def service(self, name: str) -> Service:
        """A service that works, as the administrator sees it."""
        service = self._desired([name]).services[name]
        return _service(service, service)

    def services(self, names: Sequence[str] = ()) -> dict[str, Service]:
        """Services that work (all of the profile, if none is named); first of all, those that `begin` brings up."""
        if self._background:
            self._background.join()
        return {name: _service(s, s) for name, s in self._desired(names).services.items()}

    def component(self, names: Sequence[str] = ()) -> LentComponent:
        """A fresh component with a part of these services (all of the profile, if none is named).

        Raises what the services cannot be brought up for.
        """
        pool = self._pool(names)
        return LentComponent(self, pool.take(), pool)

    def view(self, service: str, since: float) -> tuple[str, list[str]]:
        """What the probe says of a service now ("ready", or why it is not), and what it logged since that time."""
        environment = self.environment
        status = environment.status([service])[service]
        return status.reason or status.state, environment.logs(service, _LOG_LINES, since)

    @property
    def passwords(self) -> list[str]:
        """Those of its components, which no record has."""
        return [password for pool in [*self._pools.values()] for password in pool.passwords]

    def close(self) -> None:
        """Drop the components, and use the environment no longer. It goes on running: see `clear`."""
        self.environment.cancel()
        if self._background:
            self._background.join()
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._stack.close()
            self._pools, self._known, self._notes = {}, {}, None

    def _pool(self, names: Sequence[str]) -> Pool:
        desired, key = self._desired(names), _key(names)
        with self._lock:
            if key not in self._pools:
                going = self.environment.going()
                self._pools[key] = Pool(desired, self.environment.catalogue, self._opened(), going)
            return self._pools[key]

    def leave(self) -> None:
        """Use the environment no longer; `clear` drops the components."""
        self._stack.close()

    # ---- services ----------------------------------------------------------------------------------------------

    def _desired(self, names: Sequence[str]) -> Desired:
        key = _key(names)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._borrowed(key)
            return self._known[key]

    def _borrowed(self, names: tuple[str, ...]) -> Desired:
        """Raises the same again for services that could not be brought up once: no test has to wait for that twice."""
        if self._failed:
            needed = {"", *self.environment.selected(names)} if names else self._failed.keys()
            if errors := [error for name, error in self._failed.items() if name in needed]:
                raise errors[0]
        try:
            self._opened()
            desired = self.environment.borrow(names)
        except DevenvError as error:
            self._blame(error)
            raise
        return replace(desired, services={name: desired.services[name] for name in names}) if names else desired

    def _opened(self) -> Callable[[], Path]:
        """Notes for components, from the first use of the environment on."""
        if not self._notes:
            if self._fresh:
                self.environment.make_room()
            self._notes = _noted(self._stack.enter_context(self.environment.shared()))
        return self._notes

    def _blame(self, error: DevenvError) -> None:
        """Remember which services cannot be had; with the empty name, none can."""
        names = {name if name in self.environment.catalogue else "" for name in error.services}
        if isinstance(error, NoEngine):
            names = {""}
        self._failed |= dict.fromkeys(names, error)


def _noted(folder: Path) -> Callable[[], Path]:
    """What makes a note for a new component, named by the process's folder and a number. Threads may share it."""
    numbers = count(1)

    def new() -> Path:
        note = folder / f"test-{folder.name}-{next(numbers)}.conf"
        note.touch(mode=0o600)
        return note

    return new


def _key(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


class Leases:
    """All environments that one process uses, each by what makes it another one."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def get(
        self,
        project: Path,
        name: str = "default",
        profile: str = "",
        settings: Mapping[str, Any] | None = None,
        fresh: bool = False,
    ) -> Lease:
        """The lease of an environment; the settings and the profile are those that it is asked for with first."""
        key = repr((project, name, profile, settings or {}, fresh))
        if key not in self._leases:
            environment = Environment(project, name, profile, settings=settings)
            self._leases[key] = Lease(environment, fresh)
        return self._leases[key]

    @property
    def passwords(self) -> list[str]:
        """Those of the components of all leases."""
        return [password for lease in [*self._leases.values()] for password in lease.passwords]

    def close(self) -> None:
        """Drop all components, and use no environment any longer."""
        while self._leases:
            self._leases.popitem()[1].close()

    def leave(self) -> None:
        """Use no environment any longer, and leave the components to `clear`."""
        while self._leases:
            self._leases.popitem()[1].leave()


def clear(project: Path) -> None:
    """Take away what runs brought up in a project's environments and nobody uses now, and what killed ones left."""
    for environment in environments(project):
        environment.clear(others=False)


@dataclass(frozen=True)
class Collected:
    """What went of an environment: services that a run had brought up, and components of killed runs."""

    environment: str
    services: Sequence[str]
    components: Sequence[str]


def collect(environment: Environment, limit: int, report: Report | None = None) -> tuple[list[Collected], list[Golden]]:
    """What `Environment.collect` removes in all environments of its project; returns what that was."""
    others = [one for one in environments(environment.project, report) if one.name != environment.name]
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
    """The components of killed runs."""
    return {*environment.state.abandoned(), *environment.state.left_behind()}


def environments(project: Path, report: Report | None = None) -> list[Environment]:
    """Those of a project that anything is on record of."""
    names = [record.name for record in all_records() if record.project == str(project)]
    return [Environment(project, name, report=report) for name in names]


if __name__ == "__main__":  # for a process that can start no threads any more
    try:
        clear(Path(sys.argv[1]))
    except DevenvError as error:
        sys.exit(f"devenv: {error.message}; {error.hint}")
