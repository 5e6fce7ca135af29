"""The words of devenv as frozen data: what is defined, desired, observed and planned. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devenv.names import Pair

LABEL_ENVIRONMENT = "io.devenv.environment"
# The token that tells what devenv made from what only carries the label (see ownership.py).
LABEL_OWNER = "io.devenv.owner"
LABEL_SERVICE = "io.devenv.service"
LABEL_CONFIG_HASH = "io.devenv.config-hash"
# Hash per input (JSON), so that a recreate can say which one changed.
LABEL_CONFIG_PARTS = "io.devenv.config-parts"
# Host ports (JSON, container port -> host port): the engine forgets them while a container is stopped.
LABEL_PORTS = "io.devenv.ports"
# Images are made once per content and serve every environment.
SHARED = "shared"

STARTED = "service_started"
HEALTHY = "service_healthy"


# ---- defined: one folder under compose/ ------------------------------------------------------------------


@dataclass(frozen=True)
class ConfigFile:
    """A file of a service's folder that is rendered and copied to `target` in the container."""

    source: Path
    target: str


@dataclass(frozen=True)
class EndpointDefinition:
    """Where a service answers: its port in the container and the template of its URL."""

    port: int
    url: str


@dataclass(frozen=True)
class Requirement:
    """A role that must be filled before (service_healthy) or while (service_started) a service starts.

    `component` is the name under which the service is a component of that role's service, e.g. keystone's
    database.
    """

    role: str
    condition: str
    component: str


@dataclass(frozen=True)
class ContainerOptions:
    """The Compose keys that devenv hands to the engine as they are; sizes are in bytes, durations in whole seconds."""

    user: str = ""
    hostname: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    tmpfs: tuple[str, ...] = ()
    read_only: bool = False
    init: bool = False
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    nofile: int = 0
    pids_limit: int = 0
    mem_limit: int = 0
    shm_size: int = 0
    stop_signal: str = ""
    stop_grace_period: int = 10


@dataclass(frozen=True)
class ComponentDefinition:
    """How each component sees a service and what it gets of it; templates.

    `urls` are by endpoint and stand for the endpoints' own. `settings` are for the provisioner alone, which is also
    told the `outputs`. `reserved` are names that no component may have there.
    """

    urls: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    reserved: Sequence[str] = ()


@dataclass(frozen=True)
class ServiceDefinition:
    """One service as its Compose file defines it; templates are not filled in yet.

    `provisioner` says what makes components their own parts and is empty if the service has none for them.
    `wire` is the folder of the templates of wired files, `package` the one in its image whose version is the service's.
    """

    name: str
    role: str
    folder: Path
    image: str
    options: ContainerOptions
    build: bool = False
    wheels: str = ""
    package: str = ""
    files: tuple[ConfigFile, ...] = ()
    volumes: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    endpoints: Mapping[str, EndpointDefinition] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    probe: Mapping[str, str] = field(default_factory=dict)
    provisioner: Mapping[str, str] = field(default_factory=dict)
    component: ComponentDefinition = ComponentDefinition()
    requires: tuple[Requirement, ...] = ()
    # What its templates call `setting.NAME`: all that a switch can change in them.
    settings: Mapping[str, str] = field(default_factory=dict)
    # Those of its volumes that the next environment may start from a copy of.
    golden: tuple[str, ...] = ()
    # Whether a first start that was killed is made good by the next one, without losing what was complete.
    resumes: bool = False
    wire: Path = Path("wire")


# ---- chosen: a profile with a project's overrides ---------------------------------------------------------


@dataclass(frozen=True)
class ServiceChoice:
    """What a profile or devenv.yaml says about one service.

    `ports` are pinned host ports by endpoint; `switches` are what the service lets one turn on or off.
    """

    image: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentChoice:
    """What devenv.yaml says about one component.

    `wire` are the project's own files to merge its options into; `roles` what its service user may be besides
    "service"; `catalog` its type, name and url in the service catalog, or nothing; `sections` the other services that
    it talks to: a section of its config and their type, which may be empty.
    """

    name: str
    wire: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    catalog: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProjectFile:
    """A project's devenv.yaml as it was read: its real path, the hash of its very bytes, and what is not just data.

    `images` are those that it names, by service.
    """

    path: Path
    digest: str
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """A named choice of services. `source` is the file to blame in errors; `left_out` are services set to false.

    With `durable`, each service that has a switch of that name has it on, unless it says otherwise itself. `file` is
    the project's own, where there is one.
    """

    name: str
    services: Mapping[str, ServiceChoice]
    source: str = ""
    description: str = ""
    left_out: frozenset[str] = frozenset()
    components: Mapping[str, ComponentChoice] = field(default_factory=dict)
    durable: bool = False
    file: ProjectFile | None = None


# ---- desired ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """Where a service answers, in one of its two views (host or network)."""

    host: str
    port: int
    # It may hold a password.
    url: str = field(repr=False)


@dataclass(frozen=True)
class Image:
    """An image by reference and how to get it: "pull", "build", or "base" (what built images stand on).

    `wheels` names the list of Python packages that have to be fetched before it can be built.
    """

    reference: str
    how: str
    service: str = ""
    wheels: str = ""


@dataclass(frozen=True)
class Provision:
    """What one component gets of one service: settings for the provisioner and their digest, and its view of it."""

    provider: str
    component: str
    settings: Mapping[str, str] = field(repr=False)
    digest: str = ""
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict, repr=False)
    outputs: Mapping[str, str] = field(default_factory=dict, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def pair(self) -> str:
        """The name under which it is planned and remembered: "mysql/nova"."""
        return str(Pair(self.provider, self.component))


@dataclass(frozen=True)
class DesiredService:
    """One service exactly as it should be on the engine.

    `files` maps a target path to the bytes to copy there; `ports` a container port to a host port on
    127.0.0.1; `depends` a service's name to the condition to wait for; `parts` each input's hash by name.

    `components` are to have a part of it, `former` ones have one that nobody asks for any more, `own` is its part
    for the environment's administrator. `needs` are the parts ("mysql/keystone") that it cannot work without.
    """

    name: str
    role: str
    image: Image
    container: str
    options: ContainerOptions
    config_hash: str
    parts: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    volumes: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, int] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict, repr=False)
    depends: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    outputs: Mapping[str, str] = field(default_factory=dict, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    probe: Mapping[str, str] = field(default_factory=dict, repr=False)
    provisioner: Mapping[str, str] = field(default_factory=dict, repr=False)
    components: Mapping[str, Provision] = field(default_factory=dict)
    former: Mapping[str, Provision] = field(default_factory=dict)
    own: Provision | None = None
    needs: tuple[str, ...] = ()
    # Those of its volumes that a golden state is made of.
    golden: tuple[str, ...] = ()
    # What its provisioner works with, as a digest.
    prepared: str = ""


@dataclass(frozen=True)
class Source:
    """The image that holds a volume's first data, and what to call it: "golden state", "snapshot before-tests"."""

    image: str
    cause: str
    golden: bool = False


@dataclass(frozen=True)
class Desired:
    """Everything that should be: services in an order in which nothing comes before what it needs.

    `sources` are the images that volumes are filled from when they are made, with the cause to name; volumes that
    have none begin empty. With `keep`, golden states that are not there are kept for the next environment. `owner` is
    the token that all that is made carries.
    """

    environment: str
    network: str
    services: Mapping[str, DesiredService]
    images: tuple[Image, ...] = ()
    components: Mapping[str, ComponentChoice] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    keep: bool = False
    owner: str = ""


# ---- observed -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObservedContainer:
    """A container of ours as the engine reports it. `state` is the engine's own word."""

    id: str
    name: str
    service: str
    state: str
    image: str = ""
    config_hash: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, int] = field(default_factory=dict)
    exit_code: int | None = None
    networks: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def alive(self) -> bool:
        """Whether there are processes, and so ports that are taken and something to stop."""
        return self.state in ("running", "paused", "restarting")


@dataclass(frozen=True)
class Observed:
    """What the engine has of one environment: what carries the token `owner`.

    `networks` are ids; `volumes` maps names to services; `images` maps all references that the engine can run to
    their ids. `strangers` only carry the environment's label: "container NAME".
    """

    containers: Mapping[str, ObservedContainer] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[ObservedContainer, ...] = ()
    owner: str = ""
    strangers: tuple[str, ...] = ()

    @property
    def services(self) -> set[str]:
        """Those of which anything is there: a container, or data."""
        return {*self.containers, *self.volumes.values()}

    def runs(self, service: str) -> bool:
        """Whether there is a running container of it."""
        return service in self.containers and self.containers[service].running


# ---- planned ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One step of a plan: `action` on `target` because of `cause`, once the operations in `after` are done.

    An operation is named by its key, "action target"; the keys of a plan are unique, and `after` holds keys. `subject`
    is what the engine knows the target by: an id, a reference, a name. `service` is the service that it acts on, if it
    acts on one, and `component` the component whose part of that service it makes or drops. `golden` says that a volume
    is filled from a golden state.
    """

    action: str
    target: str
    cause: str = ""
    after: tuple[str, ...] = ()
    subject: str = ""
    service: str = ""
    component: str = ""
    golden: bool = False

    @property
    def key(self) -> str:
        return f"{self.action} {self.target}"


@dataclass(frozen=True)
class Plan:
    """Operations in an order in which each one comes after all that it waits for.

    `files` are those of the project's own that will change, too.
    """

    operations: tuple[Operation, ...]
    files: tuple[Path, ...] = ()

    @property
    def changes(self) -> tuple[Operation, ...]:
        """The operations that write something: all but readiness checks."""
        return tuple(op for op in self.operations if op.action != "ready")


@dataclass(frozen=True)
class Timing:
    """When an operation ran, in seconds since the plan began."""

    operation: Operation
    began: float
    ended: float


@dataclass(frozen=True)
class Result:
    """What an operation on an environment did: the plan as executed, the services acted on, the files that changed.

    `written` are files of devenv's own and those of the project that something was merged into; `restored` are the
    project's again as they were; `components` are those that have a part of some service by now.
    """

    plan: Plan
    services: Mapping[str, DesiredService] = field(default_factory=dict, repr=False)
    timings: Sequence[Timing] = ()
    written: Sequence[Path] = ()
    restored: Sequence[Path] = ()
    components: Sequence[str] = ()


class Report:
    """Who is told what happens. This one tells nobody. Called from several threads."""

    def begin(self, plan: Plan) -> None: ...
    def started(self, operation: Operation) -> None: ...
    def progress(self, operation: Operation, text: str) -> None: ...
    def finished(self, operation: Operation, seconds: float) -> None: ...
    def failed(self, operation: Operation, seconds: float, reason: str) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...
