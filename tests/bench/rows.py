"""From samples to rows: what is held against which target."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.measure import (
    DOWN_VOLUMES,
    FIRST_UP,
    MANY_COMPONENTS,
    ONE_COMPONENT,
    SECOND_UP,
    STEPS,
    Samples,
)

# Of the peer's time.
_RATIOS = {FIRST_UP: 0.5, SECOND_UP: 0.5, DOWN_VOLUMES: 0.5}
_HELP_MS, _MEMORY_MB, _IMAGES_MB = 150.0, 600.0, 1100.0
_COMPONENT_MS, _MANY_COMPONENTS_S = 250.0, 15.0


@dataclass(frozen=True)
class Row:
    """One measured thing. `value` (lower is better) is held against `target`, if there is one.

    It is a ratio, with the unit "x", wherever a peer was measured: `ours` over `peer_value`, both in seconds
    (or in MB, for memory). Else it is `ours`.
    """

    name: str
    value: float
    unit: str
    target: float | None
    ours: float
    peer: str | None = None
    peer_value: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.value <= self.target


def make_rows(samples: Samples, images_mb: float, peer: str) -> list[Row]:
    """All rows in their order. `peer` names the peer and its version; empty if there is none."""
    rows = [_against_peer(samples, what, peer, "s", _RATIOS.get(what)) for what in STEPS]
    rows.append(_ours("devenv --help", samples.median("--help", "devenv"), "ms", _HELP_MS))
    rows.append(_ours("devenv status", samples.median("status", "devenv"), "ms"))
    rows.append(_ours(ONE_COMPONENT, samples.median(ONE_COMPONENT, "devenv"), "ms", _COMPONENT_MS))
    rows.append(_ours(MANY_COMPONENTS, samples.median(MANY_COMPONENTS, "devenv"), "s", _MANY_COMPONENTS_S))
    rows.append(_ours("memory, all services", samples.median("memory", "devenv"), "MB", _MEMORY_MB))
    if peer:
        rows.append(_against_peer(samples, "memory", peer, "MB", None))
    rows.append(_ours("images, all services", images_mb, "MB", _IMAGES_MB))
    return rows


def _against_peer(samples: Samples, what: str, peer: str, unit: str, target: float | None) -> Row:
    ours, theirs = samples.median(what, "devenv"), samples.median(what, "compose")
    if ours is None:
        raise ValueError(f"{what} was not measured")
    if not theirs:
        return Row(what, round(ours, 3), unit, None, round(ours, 3))
    return Row(what, round(ours / theirs, 3), "x", target, round(ours, 3), peer, round(theirs, 3))


def _ours(name: str, value: float | None, unit: str, target: float | None = None) -> Row:
    if value is None:
        raise ValueError(f"{name} was not measured")
    return Row(name, round(value, 1), unit, target, round(value, 1))
