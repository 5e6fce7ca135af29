"""Find the engine that has an environment, or would have it, and remember which one that is."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from devenv.engine import KUBERNETES, asked_for, connect, kind_of
from devenv.engine.nothing import NOTHING
from devenv.engine.protocol import Engine
from devenv.errors import ConfigError, NoEngine
from devenv.model import Observed, Profile
from devenv.spec.attach import from_variables
from devenv.store.record import NO_TUNNEL
from devenv.store.state import State


class Seat:
    """The engine of an environment. `option`, `context` and `namespace` are the caller's choice; see `connect`.

    `profile` reads what devenv.yaml, at `file`, says.
    """

    def __init__(
        self, state: State, option: str, context: str, namespace: str, profile: Callable[[], Profile], file: Path
    ) -> None:
        self._state, self._option, self._place = state, option, (context, namespace)
        self._profile, self._file = profile, file
        # Whether all that is asked for needs an engine. Until the definitions are read, the record says it.
        self._needed: bool | None = None

    # ---- which one ---------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """Connect to the engine at first use, and return it; a stand-in if none is needed. Raise NoEngine."""
        if self._needed is None:
            self._needed = bool(self._state.shared) or not (self._state.without_engine() or self._never_here())
        return self._connected if self._needed else NOTHING

    def settle(self, attaches: bool, runs: bool) -> None:
        """Say whether the definitions attach services, and whether devenv runs some of those that are asked for.

        No engine is needed where devenv runs none, or what is on record is attached, too: those that it runs need one
        once somebody asks for them (see `ask_for`).
        """
        used = bool(self._state.shared or self._state.load().engine)
        self._needed = not attaches or used or (runs and not self._state.without_engine())

    def ask_for(self, runs: bool) -> None:
        """Say that somebody asks for services; devenv `runs` some of them itself, or none."""
        self._needed = self._needed or runs

    def _never_here(self) -> bool:
        """Return whether the caller attaches services, nothing is on record, and no engine answers: nothing is there.

        A CI's job takes down what a run before it has removed already.
        """
        if self._state.load().owner or not from_variables(os.environ):
            return False
        try:
            return not self._connected
        except NoEngine:
            return True

    @cached_property
    def _connected(self) -> Engine:
        kind = self.kind()
        return connect(kind, self._state.load().engine, *self._place) if kind == KUBERNETES else connect()

    def kind(self) -> str:
        """Return the kind of engine that the user asks for, else the record's, else devenv.yaml's, else none."""
        if kind := asked_for(self._option) or kind_of(self._state.load().engine):
            return kind
        # Without a record, `down` with a broken devenv.yaml looks where it always looked.
        with suppress(ConfigError):
            return self._profile().engine
        return ""

    @property
    def known(self) -> bool:
        """Return whether the user names the kind of engine, or the environment is on one already."""
        return bool(asked_for(self._option) or self._state.load().engine)

    # ---- whether it is the one that has the environment ------------------------------------------------------------

    def check_kind(self, wanted: str) -> None:
        """Raise ConfigError if another kind of engine is asked for than the one that has the environment.

        `wanted` is devenv.yaml's. A user who names the very engine, by a context or DOCKER_HOST, may leave one that is
        gone for good.
        """
        known, asked = self._state.load().engine, asked_for(self._option)
        kind = asked or wanted
        if known and kind and kind_of(known) != kind and not (asked and self.engine.named):
            source = "" if asked else f" of {self._file}"
            raise ConfigError(
                f"cannot use engine {kind}{source}: the engine at {known} has environment {self._state.id}",
                hint="'devenv down --volumes' removes the environment there, with its data; or go on there with "
                f"'devenv --engine {kind_of(known)} …'",
            )

    def check(self, observed: Observed) -> None:
        """Raise ConfigError if another engine has this environment, and nobody chose the one in use.

        devenv may find another engine while the first one is stopped. There, `up` would begin with new data, and
        `down --volumes` would forget the passwords of data that stays. An engine that has a part of it is the same one
        by another name: behind a proxy, for one.
        """
        there, here = self._state.load().engine, self.engine.url
        has = observed.containers or observed.volumes or observed.networks
        if there and not has and not self.engine.named and _real(there) != _real(here):
            hint = f"start that engine; or choose this one: 'DOCKER_HOST={here} devenv …'"
            if KUBERNETES in (kind_of(there), kind_of(here)):
                hint = f"'devenv --engine {kind_of(there)} …' uses it there, 'down --volumes' removes it with its data"
            raise ConfigError(
                f"cannot use environment {self._state.id} here: the engine at {there} has it, "
                f"and devenv found that at {here}",
                hint,
            )

    def keep(self) -> None:
        """Remember, before anything changes, which engine has the environment."""
        if self._state.load().engine != self.engine.url:
            self._state.amend(engine=self.engine.url)

    def keep_tunnel(self, wanted: bool | None) -> None:
        """Remember whether devenv forwards the ports of an engine elsewhere, unless `wanted` is None."""
        if wanted is None or wanted == (self._state.load().tunnel != NO_TUNNEL):
            return
        self._state.amend(tunnel="" if wanted else NO_TUNNEL)
        if not wanted:
            self.engine.end_forward(self._state.id)


def _real(url: str) -> str:
    """Return an engine's URL in one way: a socket has several paths where /var/run is a link."""
    scheme, _, place = url.partition("://")
    return f"{scheme}://{os.path.realpath(place)}" if scheme == "unix" else url
