"""Keep services that somebody else runs: where they are, and what devenv has made in them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from devenv.errors import ConfigError, Unsupported
from devenv.model import Desired, Profile, ServiceChoice
from devenv.names import Names, Pair
from devenv.spec.catalogue import load_catalogue
from devenv.spec.desired import Inputs, check_reach, resolve, secret_names

if TYPE_CHECKING:
    from devenv.lifecycle.picture import Picture
    from devenv.store.state import State

# What the record has beside the settings of an attached service: its URL without the login.
_SHOWN = "shown"


def check_attached(state: State, picture: Picture) -> None:
    """Raise ConfigError if a wanted service is another server's now, and devenv has something in the former one.

    The record of what components have would be about the wrong server: devenv could overwrite what others have.
    """
    check_reach(picture.wanted)
    before, provisioned = state.attachments(), state.load().provisioned
    there = {*picture.observed.containers, *picture.observed.volumes.values()}
    for name, service in picture.wanted.services.items():
        was = before.get(name, {}).get(_SHOWN, "")
        parts = [pair for pair in provisioned if Pair.parse(pair).service == name]
        if was == service.attached or not (parts or (service.attached and name in there)):
            continue
        wanted = f"attach {name} at {service.attached}" if service.attached else f"run {name}"
        has = f"attached at {was}" if was else "in a container of devenv's"
        raise ConfigError(
            f"cannot {wanted}: this environment has it {has}",
            f"'devenv down --volumes {name}' removes what devenv made there; 'devenv --env NAME' is another one",
        )


def keep_attached(state: State, picture: Picture) -> None:
    """Remember, before anything is made there, where services are attached: `down` finds it without any file."""
    before, now = state.attachments(), dict[str, dict[str, str]]()
    for name, service in picture.wanted.services.items():
        if found := picture.defined.catalogue[name].attachment:
            now[name] = {**found.settings, _SHOWN: service.attached}
    others = {name: settings for name, settings in before.items() if name not in picture.wanted.services}
    if {**others, **now} != before:
        state.attach({**others, **now})


def attached_on_record(state: State, names: Collection[str] = ()) -> Desired:
    """Return services that are attached by the record, with the parts that components may have of them.

    Those of `names`, or all.
    """
    nothing = Desired(state.id, Names(state.id).network, {})
    if not state.attachments():  # Most environments have none, and their `down` reads nothing more.
        return nothing
    known = {name: s for name, s in state.attachments().items() if not names or name in names}
    profile, catalogue = Profile("", dict.fromkeys(known, ServiceChoice())), load_catalogue(attached=known)
    services = list(known)
    pairs = [Pair.parse(pair) for pair in state.load().provisioned]
    former = sorted({pair.component for pair in pairs if pair.service in services} - {""})
    secrets = state.secrets(secret_names(services, profile, catalogue, former), keep=False)
    return resolve(services, Inputs(state.id, profile, catalogue, {}, {}, secrets, former))


def refuse_data(verb: str, names: Collection[str], attached: Collection[str], hint: str) -> None:
    """Raise Unsupported if one of these services is attached: its data are somebody else's."""
    if theirs := [name for name in names if name in attached]:
        raise Unsupported(f"cannot {verb} {', '.join(theirs)}: somebody else runs it and may need its data", hint)


def refuse_attached(names: Sequence[str], attached: Collection[str]) -> None:
    """Raise Unsupported if one of these services is attached: devenv has no container or data of it."""
    if theirs := [name for name in names if name in attached]:
        raise Unsupported(
            f"cannot do this with {', '.join(theirs)}: somebody else runs it, and devenv has no container of it",
            "ask who runs it; 'devenv status' shows where it is",
        )
