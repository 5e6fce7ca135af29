"""Lend the account that OpenStack's own test suites expect in each database: openstack_citest.

All runs of an environment that ask for it share the account; the last one drops it. If that one is killed, the next
`up`, run or `gc` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TypeVar

from devenv.errors import ConfigError, NotOurs
from devenv.lifecycle import loans
from devenv.lifecycle.execute import carry_out
from devenv.lifecycle.picture import Definitions
from devenv.lifecycle.plan import provision
from devenv.lifecycle.world import World
from devenv.model import DesiredService, Plan
from devenv.services.base import Component, Provisioner
from devenv.services.readiness import provisioner_of
from devenv.spec.components import ACCOUNT, CITEST
from devenv.wiring.contents import citest_variables

T = TypeVar("T")
# What is done with the account in one service.
_Act = Callable[[Provisioner, Component], T]


def databases(defined: Definitions, names: Sequence[str]) -> list[str]:
    """Return those of a run's services that can have the account."""
    return [name for name in defined.select(names) if defined.catalogue[name].citest]


def no_database(defined: Definitions, names: Sequence[str]) -> ConfigError:
    """Return the error of a run that asked for the account and has no database."""
    services = ", ".join(defined.select(names)) or "none"
    known = " or ".join(sorted(name for name, service in defined.catalogue.items() if service.citest))
    return ConfigError(
        f"cannot lend {ACCOUNT}: no database is among the run's services ({services})",
        f"name one after --citest: {known}",
    )


@contextmanager
def lent(world: World, names: Sequence[str], drop: bool = True, before: str = "") -> Iterator[dict[str, str]]:
    """Have the account in databases while the body runs; yield the variable that names them to oslo.db.

    `before` is the variable's value, of a run around this one. The databases work already. The last run drops the
    account; without `drop`, it leaves that to `loans.clear`. Raise NotOurs if a database has an account or data of that
    name that devenv did not create, and ServiceFailed if the account does not work.
    """
    with loans.own_stack() as stack:
        with world.changing():
            # The stack ends in reverse order: whether another run has the account shows when this one has let it go.
            if drop:
                stack.callback(_take_back, world)
            stack.enter_context(world.state.lent(CITEST, together=True))
            services = _create(world, world.define(names), names)
        yield citest_variables(services, before)


def _create(world: World, defined: Definitions, names: Sequence[str]) -> dict[str, DesiredService]:
    defined = world.with_lent(defined)
    picture = world.look(replace(defined, citest=defined.citest | {*names}), names)
    services = {name: picture.everything.services[name] for name in names}
    known = world.state.load().provisioned
    new = {name: service for name, service in services.items() if service.components[CITEST].pair not in known}
    _refuse_others(_in_each(new, lambda provisioner, account: provisioner.found(account)), services)
    # On record before it is there: a killed run leaves it, and a snapshot that is restored meanwhile does not have it.
    world.state.amend(citest=sorted({*world.state.load().citest, *names}))
    plan = Plan(tuple(provision(service.components[CITEST], "for test suites") for service in services.values()))
    carry_out(world, plan, picture)
    _in_each(services, lambda provisioner, account: provisioner.try_out(account))
    for name, service in services.items():
        _tell_port(world, name, service, defined)
    return services


def _refuse_others(found: Mapping[str, str], services: Mapping[str, DesiredService]) -> None:
    """Raise NotOurs if a database has something by the account's name that devenv did not create."""
    for name, what in found.items():
        if what:
            drop = f"drop that with 'devenv exec {name} …'"
            if services[name].attached:
                drop = "another job may use it now, and one at a time can: repeat this later, drop that there"
            raise NotOurs(
                f"cannot lend {ACCOUNT} in {name}: it has {what} of that name that devenv did not create",
                f"{drop} if nobody needs it, or run without --citest",
            )


def _in_each(services: Mapping[str, DesiredService], act: _Act[T]) -> dict[str, T]:
    def one(service: DesiredService) -> T:
        with closing(provisioner_of(service)) as provisioner:
            return act(provisioner, Component(CITEST, service.components[CITEST].settings))

    with ThreadPoolExecutor(max(1, len(services))) as pool:
        return dict(zip(services, pool.map(one, services.values()), strict=True))


def _tell_port(world: World, name: str, service: DesiredService, defined: Definitions) -> None:
    """Tell the user if a suite with the login in its code does not find the service."""
    for key, endpoint in defined.catalogue[name].endpoints.items():
        if (port := service.endpoints[key].port) != endpoint.port:
            pin = f"services: {{{name}: {{ports: {{{key}: {endpoint.port}}}}}}}"
            why = f"suites with a login in their code use {endpoint.port}"
            world.report.note(f"{name} has port {port}, and {why}: pin it with '{pin}'")


def _take_back(world: World) -> None:
    with world.changing():
        loans.clear_accounts(world)
