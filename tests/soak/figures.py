"""Hold the figures of a load. This imports no client's library: some of them change the process that imports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import mean

SERVICES = ("mysql", "rabbitmq", "etcd", "keystone")
# If the last quarter takes more than so many times the first quarter's memory, the process has grown.
_FLAT = 1.1


@dataclass
class Work:
    """The work of one client: uses by service, errors by their text, and how many components it had."""

    uses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    components: int = 0

    def add(self, other: Work) -> None:
        self.uses += other.uses
        self.errors += other.errors
        self.components += other.components


@dataclass(frozen=True)
class Load:
    """The outcome of a load: `resident` are megabytes of devenv's own process while clients worked, `closing` the
    seconds until it had dropped all components, `left` what the services hold afterwards and did not hold before.
    """

    components: int
    clients: int
    seconds: float
    work: Work
    resident: tuple[float, ...]
    closing: float
    left: tuple[str, ...]

    @property
    def first_quarter(self) -> float:
        return mean(self.resident[: max(1, len(self.resident) // 4)])

    @property
    def last_quarter(self) -> float:
        return mean(self.resident[-max(1, len(self.resident) // 4) :])

    @property
    def grown(self) -> bool:
        return self.last_quarter > self.first_quarter * _FLAT

    @property
    def problems(self) -> list[str]:
        """Return what should not be."""
        found = [f"{count} times {error}" for error, count in self.work.errors.items()]
        found += [f"{service} was not used" for service in SERVICES if not self.work.uses[service]]
        return [*found, *(f"not dropped: {name}" for name in self.left)]
