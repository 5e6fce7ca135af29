"""Tell objects that devenv created from objects that only carry an environment's label.

An object is devenv's if it also carries the environment's token and has the name that devenv gives. The token is
random, and devenv records it before it creates anything. A label alone may come from anywhere: a copied command, an
image, `docker commit`. An object with the label and without the token is a stranger.

If the record is lost, devenv trusts the token of an object with a name that devenv gives: the network, else the first
container, else the first volume. Objects with another token are strangers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from devenv.errors import NotOurs
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER, LABEL_SERVICE, Desired, Observed
from devenv.names import Names

# What the engine lists with the environment's label: entries by kind.
Listed = Mapping[str, Sequence[Mapping[str, Any]]]

_KINDS = ("network", "container", "volume")


def labels_of(desired: Desired) -> dict[str, str]:
    """Return the labels of everything that devenv creates for the environment."""
    return {LABEL_ENVIRONMENT: desired.environment, LABEL_OWNER: desired.owner}


def carries(listed: Mapping[str, Any], owner: str) -> bool:
    """Return whether an object carries this token. Nothing carries an empty one."""
    return bool(owner) and listed["Labels"].get(LABEL_OWNER) == owner


def name_of(listed: Mapping[str, Any]) -> str:
    """Return the name of an entry in the engine's list, or the beginning of its id."""
    # A container has several names, or none if its removal got stuck. Podman lists an empty `Name` beside them.
    names = listed.get("Names") or [listed.get("Name") or listed["Id"][:12]]
    return str(names[0].lstrip("/"))


def filler(volume: str) -> str:
    """Return the name of the container through which devenv fills a volume."""
    return f"{volume}-fill"


def trusted(environment: str, listed: Listed) -> str:
    """Return the token to trust if none is on record, or nothing."""
    for kind in _KINDS:
        for one in sorted(listed[kind], key=_created):
            if _is_named_by_us(environment, kind, one) and (token := one["Labels"].get(LABEL_OWNER)):
                return str(token)
    return ""


def split(environment: str, listed: Listed, owner: str) -> tuple[Listed, tuple[str, ...]]:
    """Return devenv's objects by kind, and the strangers in words: "container NAME"."""
    ours: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _KINDS}
    strangers = []
    for kind in _KINDS:
        for one in listed[kind]:
            if carries(one, owner) and (_is_named_by_us(environment, kind, one) or _holds_files(kind, one)):
                ours[kind].append(one)
            else:
                strangers.append(f"{kind} {name_of(one)}")
    return ours, tuple(strangers)


def check_names(desired: Desired, observed: Observed, show: str = "") -> None:
    """Raise NotOurs if a stranger has a name that an object of this environment is going to have.

    `show` is the command that shows it; without one, that is Docker's.
    """
    wanted = {f"container {service.container}" for service in desired.services.values()}
    wanted |= {f"volume {volume}" for service in desired.services.values() for volume in service.volumes}
    wanted |= {f"container {filler(v)}" for s in desired.services.values() for v in s.volumes.keys() - observed.volumes}
    # Names of networks are not unique: if this environment's exists, another one is not in the way.
    wanted |= set() if observed.networks else {f"network {desired.network}"}
    for stranger in observed.strangers:
        if stranger in wanted:
            name = stranger.partition(" ")[2]
            raise NotOurs(
                f"cannot create {name}: a {stranger} has this environment's label, but devenv did not create it",
                hint=f"see what it is with '{show or f'docker inspect {name}'}'; rename or remove it yourself",
            )


def _created(listed: Mapping[str, Any]) -> Any:
    return listed.get("Created") or listed.get("CreatedAt") or 0


def _is_named_by_us(environment: str, kind: str, listed: Mapping[str, Any]) -> bool:
    name, names = name_of(listed), Names(environment)
    if kind == "network":
        return name == names.network
    return names.belongs(name, listed["Labels"].get(LABEL_SERVICE, ""))


def _holds_files(kind: str, listed: Mapping[str, Any]) -> bool:
    """Return whether an object is the volume of a container's files, which the engine names."""
    return kind == "volume" and LABEL_SERVICE not in listed["Labels"]
