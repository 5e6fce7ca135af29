"""Whose a container, a network or a volume is that carries an environment's label.

Ours is what carries the environment's token, too: a random one that is on record before anything is made. The label
alone may come from anywhere: a copied command, an image's own labels. What carries no more than that is a stranger.

A record that was lost holds no token. Then the one of what has a name that devenv gives is trusted: of the network,
else of the first container, else of the first volume. What carries another one is a stranger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devenv.errors import NotOurs
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER, LABEL_SERVICE, Desired, Observed

# What the engine lists with the environment's label, by kind.
Listed = Mapping[str, Sequence[Mapping[str, Any]]]

_KINDS = ("network", "container", "volume")


def labels_of(desired: Desired) -> dict[str, str]:
    """What everything carries that is made for the environment."""
    return {LABEL_ENVIRONMENT: desired.environment, LABEL_OWNER: desired.owner}


def is_ours(listed: Mapping[str, Any], owner: str) -> bool:
    """Whether it carries this token. Without one, nothing is ours."""
    return bool(owner) and listed["Labels"].get(LABEL_OWNER) == owner


def name_of(listed: Mapping[str, Any]) -> str:
    return str(listed["Names"][0].lstrip("/") if "Names" in listed else listed["Name"])


def trusted(environment: str, listed: Listed) -> str:
    """The token to go by where none is on record, or nothing."""
    for kind in _KINDS:
        for one in sorted(listed[kind], key=_created):
            if _is_named_by_us(environment, kind, one) and (token := one["Labels"].get(LABEL_OWNER)):
                return str(token)
    return ""


def strangers(listed: Listed, owner: str) -> tuple[str, ...]:
    """What is not ours, in words: "container NAME"."""
    return tuple(f"{kind} {name_of(one)}" for kind in _KINDS for one in listed[kind] if not is_ours(one, owner))


def check_names(desired: Desired, observed: Observed) -> None:
    """Raise NotOurs if a stranger has a name that one of ours is to get."""
    wanted = {f"container {service.container}" for service in desired.services.values()}
    wanted |= {f"volume {volume}" for service in desired.services.values() for volume in service.volumes}
    # Names of networks are not unique: where ours is there, another one is not in the way.
    wanted |= set() if observed.networks else {f"network {desired.network}"}
    for stranger in observed.strangers:
        if stranger in wanted:
            name = stranger.partition(" ")[2]
            raise NotOurs(
                f"cannot create {name}: a {stranger} carries this environment's label and was not made by it",
                hint=f"look at 'docker inspect {name}'; rename or remove it yourself",
            )


def _created(listed: Mapping[str, Any]) -> Any:
    return listed.get("Created") or listed.get("CreatedAt") or 0


def _is_named_by_us(environment: str, kind: str, listed: Mapping[str, Any]) -> bool:
    name, network = name_of(listed), f"devenv-{environment}"
    if kind == "network":
        return name == network
    container = f"{network}-{listed['Labels'].get(LABEL_SERVICE, '')}"
    return name == container if kind == "container" else name.startswith(f"{container}-")
