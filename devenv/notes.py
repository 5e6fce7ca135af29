"""What is noted of an environment on its record while a plan is carried out, by several threads."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

from devenv.state import State


class Notes:
    """Notes on the record of one environment, for who holds its lock.

    They are made at once: whoever kills devenv a moment later must not lose what a service has by then.
    """

    def __init__(self, state: State) -> None:
        self._state, self._lock = state, threading.Lock()

    def starts(self, begun: Sequence[str], finished: Sequence[str]) -> None:
        """Which services were started for the first time and are not known to have got through it."""
        with self._lock:
            self._state.amend(unfinished=sorted({*self._state.load().unfinished, *begun} - set(finished)))

    def made(self, service: str) -> None:
        """A service has new data. If it was to get other data, it has that by now, and is not known to work."""
        with self._lock:
            record = self._state.load()
            if service in record.renewing:
                self._state.amend(renewed=sorted({*record.renewed, service}))

    def renewed(self, services: Collection[str]) -> None:
        """Services that were to get other data work with it: they are not to lose that, too."""
        with self._lock:
            record = self._state.load()
            self._state.amend(
                renewing={name: source for name, source in record.renewing.items() if name not in services},
                renewed=[name for name in record.renewed if name not in services],
            )

    def parts(self, parts: Mapping[str, str]) -> None:
        """What components have of services, by pair, with the digest of what they have or nothing."""
        with self._lock:
            self._state.amend(provisioned={**self._state.load().provisioned, **parts})

    def no_parts(self, pairs: Collection[str]) -> None:
        """What components had of services and have no more."""
        with self._lock:
            provisioned = self._state.load().provisioned
            self._state.amend(provisioned={pair: digest for pair, digest in provisioned.items() if pair not in pairs})
