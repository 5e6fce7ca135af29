"""Find out whether a service works: probe it until it does, its container ends, or the time is up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from devenv.clock import now
from devenv.engine.protocol import Engine
from devenv.errors import DevenvError, Hopeless, NotReady, NotReadyInTime, ServiceFailed, tells_of_full_disk
from devenv.model import DesiredService, Observed
from devenv.services.base import Provisioner, Target
from devenv.services.lookup import load_probe, load_provisioner
from devenv.spec.components import endpoints_of

# The pauses between two looks at a service that is not ready. One look takes less than 0.5 ms of a processor.
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.025, 0.05, 1.3
# How often devenv asks the engine whether a container that does not answer still runs.
_LOOK_SECONDS = 0.25
_LOG_LINES = 20
# For so long an attached server may refuse its administrator: it may be about to create that account.
_HOPELESS_SECONDS = 5


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now. `state` is ready, starting, stopped, failed or absent.

    `attached` is the URL, without a login, of a server that somebody else runs.
    """

    role: str
    state: str
    image: str
    container: str
    endpoints: Mapping[str, Mapping[str, Any]] = field(repr=False)
    reason: str = ""
    attached: str = ""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and what ends the wait earlier."""

    seconds: float
    cancelled: threading.Event


def target_of(service: DesiredService, settings: Mapping[str, str]) -> Target:
    """Return the server that a probe or a provisioner of this service talks to, by the settings of either."""
    endpoint = service.endpoints[settings["endpoint"]]
    return Target(endpoint.host, endpoint.port, endpoint.url, settings, service.name, bool(service.attached))


def provisioner_of(service: DesiredService) -> Provisioner:
    """Return a new provisioner of the service, which acts as its administrator."""
    return load_provisioner(service.provisioner["kind"])(target_of(service, service.provisioner))


def wait_until_ready(
    service: DesiredService, container: str, engine: Engine, patience: Patience, tell: Callable[[str], None]
) -> None:
    """Probe until the service works.

    Raise ServiceFailed as soon as the container does not run any more, NotReadyInTime with the last reason when the
    time is up. Both carry the end of the log. An attached service has no container. If it answers that it does not let
    the administrator in, raise ServiceFailed soon: nobody but its owner will change that.
    """
    check = load_probe(service.probe["kind"])
    target = target_of(service, service.probe)
    deadline = now() + patience.seconds
    pause, look_at, waits_for = _FIRST_PAUSE, now() + _LOOK_SECONDS, ""
    hopeless_at = deadline
    while True:
        try:
            return check(target)
        except NotReady as error:
            reason, hopeless, hint = str(error), isinstance(error, Hopeless), error.hint or _hint(service)
        at = now()
        hopeless_at = min(hopeless_at, at + _HOPELESS_SECONDS) if hopeless else deadline
        if service.attached and hopeless and at >= hopeless_at:
            raise ServiceFailed(f"cannot use {_called(service)}: {reason}", hint)
        if (at >= look_at or at >= deadline) and not service.attached:
            waits_for = _check_alive(service, container, engine, reason)
            look_at = at + _LOOK_SECONDS
        reason = waits_for or reason
        if at >= deadline:
            late = NotReadyInTime(
                f"cannot use {_called(service)}: not ready after {patience.seconds:g} s: {reason}",
                hint=f"{hint}; --wait-timeout gives it more time",
                detail=() if service.attached else engine.logs(container, _LOG_LINES),
            )
            raise _with_cause(late)
        tell(reason)
        patience.cancelled.wait(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def _called(service: DesiredService) -> str:
    return f"{service.name} at {service.attached}" if service.attached else service.name


def _hint(service: DesiredService) -> str:
    where = "its URL and login are in devenv.yaml or DEVENV_ATTACH_*"
    return where if service.attached else f"'devenv logs {service.name}' shows more"


def _check_alive(service: DesiredService, container: str, engine: Engine, reason: str) -> str:
    """Return what a container that is on its way waits for, as its engine says. Raise ServiceFailed if it ended."""
    state = engine.state(container)
    if state.status in ("running", "restarting"):
        return state.reason
    if state.status in ("waiting", "gone"):
        raise ServiceFailed(f"cannot use {service.name}: {state.reason}", state.hint)
    if state.status == "created":
        raise ServiceFailed(f"cannot use {service.name}: its container was never started", "run 'devenv up'")
    if state.status == "paused":
        raise ServiceFailed(f"cannot use {service.name}: its container is paused", f"run 'devenv start {service.name}'")
    killed = ", killed because it used too much memory" if state.out_of_memory else ""
    killed += f", {state.reason}" if state.reason else ""
    ended = ServiceFailed(
        f"cannot use {service.name}: its container exited {state.exit_code}{killed} (last answer: {reason})",
        hint=f"its last log lines are above; 'devenv logs {service.name}' shows all, 'devenv up' tries again",
        detail=engine.logs(container, _LOG_LINES),
    )
    raise _with_cause(ended)


def _with_cause(error: DevenvError) -> DevenvError:
    """Return the error; its field `disk_full` says whether the log in its detail tells of a full disk."""
    error.disk_full = tells_of_full_disk("\n".join((error.message, *error.detail)))
    return error


# The exit codes of a container that was asked to stop: success, or the numbers of SIGKILL and SIGTERM.
_STOPPED = (0, 137, 143)


def status_of(service: DesiredService, observed: Observed, engine: Engine) -> ServiceStatus:
    """Return the state of one service, probing it if it runs."""
    container = observed.containers.get(service.name)
    state, reason = _state_of(service, observed, engine)
    return ServiceStatus(
        role=service.role,
        state=state,
        image=container.image if container and not service.attached else service.image.reference,
        container=container.name if container and not service.attached else "",
        endpoints=endpoints_of(service.endpoints),
        reason=reason,
        attached=service.attached,
    )


def _state_of(service: DesiredService, observed: Observed, engine: Engine) -> tuple[str, str]:
    container = observed.containers.get(service.name)
    if container is None and not service.attached:
        return "absent", "no container"
    if service.attached or container is None or container.running:
        try:
            load_probe(service.probe["kind"])(target_of(service, service.probe))
        except NotReady as error:
            idle = [name for name in service.depends if not observed.runs(name)]
            if observed.forwarded is not None and not observed.forwarded.issuperset(service.ports.values()):
                return "starting", "the way to its ports is closed: 'devenv wait' opens it"
            return "starting", f"needs {', '.join(idle)}, which does not run" if idle else str(error)
        return "ready", ""
    if container.state in ("waiting", "gone"):
        return "failed", container.reason
    if container.exit_code is None:
        return "stopped", f"container is {container.state}"
    if container.reason:
        return "failed", f"exited {container.exit_code}, {container.reason}"
    if engine.state(container.id).out_of_memory:
        return "failed", f"exited {container.exit_code}, killed because it used too much memory"
    return "stopped" if container.exit_code in _STOPPED else "failed", f"exited {container.exit_code}"
