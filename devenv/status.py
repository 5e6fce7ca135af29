"""Whether a service works, and if not, why: what its container and its probe say."""

from __future__ import annotations

from devenv.engine import Engine
from devenv.errors import NotReady
from devenv.model import DesiredService, Observed
from devenv.probe import load_probe
from devenv.readiness import target_of
from devenv.results import ServiceStatus
from devenv.wiring import endpoints_of

# What a container's end is called when somebody asked for it: by SIGTERM's and SIGKILL's numbers, or success.
_STOPPED = (0, 137, 143)


def status_of(service: DesiredService, observed: Observed, engine: Engine) -> ServiceStatus:
    """One service as it is now."""
    container = observed.containers.get(service.name)
    state, reason = _state_of(service, observed, engine)
    return ServiceStatus(
        role=service.role,
        state=state,
        image=container.image if container else service.image.reference,
        container=container.name if container else "",
        endpoints=endpoints_of(service.endpoints),
        reason=reason,
    )


def _state_of(service: DesiredService, observed: Observed, engine: Engine) -> tuple[str, str]:
    container = observed.containers.get(service.name)
    if container is None:
        return "absent", "no container"
    if container.running:
        try:
            load_probe(service.probe["kind"])(target_of(service, service.probe))
        except NotReady as error:
            idle = [name for name in service.depends if not observed.runs(name)]
            return "starting", f"needs {', '.join(idle)}, which does not run" if idle else str(error)
        return "ready", ""
    if container.exit_code is None:
        return "stopped", f"container is {container.state}"
    if engine.state(container.id).get("OOMKilled"):
        return "failed", f"exited {container.exit_code}, killed for want of memory"
    return "stopped" if container.exit_code in _STOPPED else "failed", f"exited {container.exit_code}"
