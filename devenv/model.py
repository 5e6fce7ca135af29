"""The types that all of devenv uses, as frozen data: defined, chosen, desired, observed and planned. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from devenv.names import Pair

LABEL_ENVIRONMENT = "io.devenv.environment"
# The token on objects that devenv created; other objects may carry the label, too (see engine/ownership.py).
LABEL_OWNER = "io.devenv.owner"
LABEL_SERVICE = "io.devenv.service"
LABEL_CONFIG_HASH = "io.devenv.config-hash"
# A hash per input (JSON), so that the cause of a recreate can name the input that changed.
LABEL_CONFIG_PARTS = "io.devenv.config-parts"
# Host ports (JSON, container port -> host port): the engine forgets them while a container is stopped.
LABEL_PORTS = "io.devenv.ports"
# The value of LABEL_ENVIRONMENT on images that serve every environment: devenv makes one per content.
SHARED = "shared"

# A user and a group for images that do not say theirs as a number. No image gives it rights.
NOBODY = 65534

STARTED = "service_started"
HEALTHY = "service_healthy"


# ---- defined: one folder under compose/ ------------------------------------------------------------------


@dataclass(frozen=True)
class ConfigFile:
    """A file of a service's folder. devenv renders it and copies it to `target` in the container."""

    source: Path
    target: str


@dataclass(frozen=True)
class EndpointDefinition:
    """An address of a service: its port in the container and the template of its URL."""

    port: int
    url: str


@dataclass(frozen=True)
class Requirement:
    """A role that another service must fill before (service_healthy) or while (service_started) a service starts.

    `component` is the name of the service as a component of the other one, e.g. for keystone's database.
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
    """The templates for each component of a service: how it reaches the service and what it gets there.

    `urls`, by endpoint, replace the endpoints' own. The provisioner gets `settings`, which are for it alone,
    and `outputs`. No component may have a name in `reserved`.
    """

    urls: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    reserved: Sequence[str] = ()


@dataclass(frozen=True)
class Client:
    """A program with which people use a service.

    `command` runs in the service's container. Without one, the program is on the user's machine, where the Python
    package `package` installs it, and finds its login in clouds.yaml, by these variables.
    """

    command: tuple[str, ...] = ()
    package: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attachment:
    """A server that somebody else runs, by its URL.

    `places` are host and port by endpoint. `words` are the URL's parts for templates, its login among them. `shown` is
    the URL without the login, and `settings` are what devenv was given, with it.
    """

    places: Mapping[str, tuple[str, int]]
    words: Mapping[str, str] = field(repr=False)
    shown: str
    settings: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class ServiceDefinition:
    """One service as its Compose file defines it; templates are not filled in yet.

    `provisioner` says what creates components' parts; it is empty if the service has no parts for them. `wire` is the
    folder with the templates of wired files. `package` is the package in the image whose version is the service's, and
    `official` the public image of that version, for CIs. `extra` is the extra of devenv's own package with what its
    probe and provisioner need. The `default` service of a role fills it where a profile says nothing else. `citest` is
    the URL by which OpenStack's own test suites use its account for them. `clients` are by name, the usual one first.
    `page` is the template of the URL of a page for a browser, if the service has one. `uid` is the number of its user
    in devenv's image and in official ones; 0, if any number works. A service with an `attachment` is attached: devenv
    runs no container of it.
    """

    name: str
    role: str
    folder: Path
    image: str
    options: ContainerOptions
    build: bool = False
    wheels: str = ""
    package: str = ""
    official: str = ""
    extra: str = ""
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
    # Templates use them as `setting.NAME`; switches and plugins can change them.
    settings: Mapping[str, str] = field(default_factory=dict)
    # The volumes that the next environment may start from a copy of.
    golden: tuple[str, ...] = ()
    # Whether the next start completes a first start that was killed, and keeps data that was complete.
    resumes: bool = False
    default: bool = False
    citest: str = ""
    clients: Mapping[str, Client] = field(default_factory=dict)
    page: str = ""
    uid: int = 0
    wire: Path = Path("wire")
    attachment: Attachment | None = None


Catalogue = Mapping[str, ServiceDefinition]


# ---- chosen: a profile with a project's overrides ---------------------------------------------------------


@dataclass(frozen=True)
class ServiceChoice:
    """The settings of one service in a profile or devenv.yaml.

    `ports` are pinned host ports by endpoint; `switches` turn features of the service on or off; `plugins` are more
    of those that the server ships. `attach` holds the URLs and the login of a server that somebody else runs.
    """

    image: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)
    plugins: Sequence[str] = ()
    attach: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ComponentChoice:
    """The settings of one component in devenv.yaml.

    `wire` are the project's own files to merge its options into. `roles` are roles of its service user besides
    "service". `catalog` is its type, name and url in the service catalog, or empty. `sections` are sections of its
    config about other services that it talks to, each with the service's type, which may be empty.
    """

    name: str
    wire: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    catalog: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProjectFile:
    """A project's devenv.yaml as devenv read it: its real path and the hash of its bytes.

    `images` are those that it names, by service. They are programs, so the user has to trust the file. So it is with
    `addresses` of attached services, by service, since devenv would log in there; with an `engine` that is not this
    host's own; with the `registry` of images that pods run; and with the name of a `shared` environment.
    """

    path: Path
    digest: str
    images: Mapping[str, str] = field(default_factory=dict)
    engine: str = ""
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    registry: str = ""
    shared: str = ""


@dataclass(frozen=True)
class Profile:
    """A named choice of services. `source` is the file to blame in errors; `left_out` are services set to false.

    `roles` says which service fills a role for those that require it. The project's own file or the caller lists the
    services in `named`; the others are the shipped profile's, which `roles` may replace.

    With `citest`, runs get the account for OpenStack's own test suites. `durable` turns on the switch `durable` of each
    service that has one, unless its own settings say otherwise. `file` is the project's devenv.yaml, if it has one,
    and `engine` the kind of engine that it asks for. Pods and exports get devenv's images from `image_registry`, with
    the logins in `image_pull_secrets`.
    """

    name: str
    services: Mapping[str, ServiceChoice]
    source: str = ""
    description: str = ""
    left_out: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)
    components: Mapping[str, ComponentChoice] = field(default_factory=dict)
    durable: bool = False
    citest: bool = False
    file: ProjectFile | None = None
    engine: str = ""
    image_registry: str = ""
    image_pull_secrets: tuple[str, ...] = ()


# ---- desired ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """An address of a service, as programs reach it."""

    host: str
    port: int
    # It may hold a password.
    url: str = field(repr=False)


@dataclass(frozen=True)
class Page:
    """A page of a service for a browser, and the login that it asks for."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class Image:
    """An image: its reference, and how to get it: "pull", "build", or "base" (the image that built ones stand on).

    `wheels` names the list of Python packages that devenv fetches before it builds the image. Engines that cannot build
    get it from `registry`, if any; `pull_secrets` name the objects of a cluster that hold its login.
    """

    reference: str
    how: str
    service: str = ""
    wheels: str = ""
    registry: str = ""
    pull_secrets: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Return where an engine that cannot build gets the image."""
        return f"{self.registry}/{self.reference}" if self.registry else self.reference

    @property
    def policy(self) -> str:
        """Return whether a node may pull the image, in Kubernetes' words.

        It uses one that is there as it is: a tag of devenv's names one content. It does not look for devenv's own in
        Docker's registry, where anybody could have an image of that name.
        """
        return "Never" if self.how == "build" and not self.registry else "IfNotPresent"


@dataclass(frozen=True)
class Provision:
    """One component's part of one service: the provisioner's settings, their digest, and the component's view."""

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
        """Return the part's name in plans and on record: "mysql/nova"."""
        return str(Pair(self.provider, self.component))


@dataclass(frozen=True)
class DesiredService:
    """One service exactly as it should be on the engine.

    `files` maps a target path to the bytes to copy there; `ports` a container port to a host port on 127.0.0.1;
    `depends` a service's name to the condition to wait for; `parts` an input's name to its hash.

    `components` are the parts that components should have, `former` those that nobody asks for any more, `own` is the
    administrator's. `needs` are the parts of other services ("mysql/keystone") that it cannot work without.

    `attached` is the URL, without a login, of a server that somebody else runs: devenv runs no container of it.
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
    # The volumes that its golden state consists of.
    golden: tuple[str, ...] = ()
    # Whether its data is to outlive more than the engine keeps by itself.
    durable: bool = False
    # The number of its user in devenv's image and in official ones, for engines that take no names.
    uid: int = 0
    # A digest of the provisioner's settings.
    prepared: str = ""
    attached: str = ""

    @property
    def user_id(self) -> int:
        """Return the number of the user that the service runs as, for engines that take no names."""
        name = self.options.user.partition(":")[0]
        return int(name) if name.isdigit() else self.uid or NOBODY


@dataclass(frozen=True)
class Source:
    """The image with a volume's first data, and the cause to show: "golden state", "snapshot before-tests"."""

    image: str
    cause: str
    golden: bool = False


@dataclass(frozen=True)
class Desired:
    """The state that an environment should have. `services` are in order: each after those that it needs.

    `roles` says which service fills each role; a component that has parts of several is configured for that one.
    `sources` are the images that devenv fills new volumes from, by volume; a volume without one begins empty. With
    `keep`, devenv keeps missing golden states for the next environment. `owner` is the token on all that it creates.
    """

    environment: str
    network: str
    services: Mapping[str, DesiredService]
    images: tuple[Image, ...] = ()
    components: Mapping[str, ComponentChoice] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    keep: bool = False
    owner: str = ""


# ---- observed -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObservedContainer:
    """A container of this environment, as the engine reports it. `state` and `reason` are as in `ContainerState`."""

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
    reason: str = ""

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def alive(self) -> bool:
        """Return whether the container has processes: then it has its ports, and devenv has to stop it."""
        return self.state in ("running", "paused", "restarting", "waiting")


@dataclass(frozen=True)
class Observed:
    """The objects of one environment on the engine: those that carry the token `owner`.

    `networks` are ids; `volumes` maps names to services; `images` maps each reference that the engine can run to its
    id. `strangers` carry the environment's label, but devenv did not create them: "container NAME". `forwarded` are the
    ports of an engine elsewhere that answer on this host; None if the engine needs no forwarder. `attached` services
    are somebody else's, so no engine knows them.
    """

    containers: Mapping[str, ObservedContainer] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[ObservedContainer, ...] = ()
    owner: str = ""
    strangers: tuple[str, ...] = ()
    forwarded: frozenset[int] | None = None
    attached: frozenset[str] = frozenset()

    @property
    def services(self) -> set[str]:
        """Return the services that have a container or data, or are attached."""
        return {*self.containers, *self.volumes.values(), *self.attached}

    def runs(self, service: str) -> bool:
        """Return whether the service has a running container, or somebody else runs it."""
        return service in self.attached or (service in self.containers and self.containers[service].running)


# ---- planned ------------------------------------------------------------------------------------------------


# The kinds of operations: `lifecycle/execute.py` has a function for each, `cli/progress.py` the words that show it.
Action = Literal[
    "fetch wheels",
    "build image",
    "pull image",
    "create network",
    "remove network",
    "forward",
    "fill",
    "keep",
    "save",
    "create",
    "start",
    "stop",
    "remove",
    "remove volume",
    "empty",
    "settle",
    "prepare",
    "provision",
    "log in",
    "drop",
    "release",
    "ready",
]


def key_of(action: Action, target: str) -> str:
    """Return the key of an operation: "start mysql"."""
    return f"{action} {target}"


@dataclass(frozen=True)
class Operation:
    """One step of a plan: `action` on `target` because of `cause`, once the operations in `after` are done.

    Its key is unique in a plan; `after` holds keys. `subject` is the id, reference or name that the
    engine gets: the target's, or the image's that "fill" reads or "save" writes. `service` is the service that it acts
    on, if any, and `component` the component whose part of that service it creates or drops. With `golden`, it fills a
    volume from a golden state.
    """

    action: Action
    target: str
    cause: str = ""
    after: tuple[str, ...] = ()
    subject: str = ""
    service: str = ""
    component: str = ""
    golden: bool = False

    @property
    def key(self) -> str:
        return key_of(self.action, self.target)


@dataclass(frozen=True)
class Plan:
    """Operations in order: each after those that it waits for.

    `files` are the project's own files that will change, too.
    """

    operations: tuple[Operation, ...]
    files: tuple[Path, ...] = ()

    @property
    def changes(self) -> tuple[Operation, ...]:
        """Return the operations that change something: all but readiness checks."""
        return tuple(op for op in self.operations if op.action != "ready")


@dataclass(frozen=True)
class Timing:
    """When an operation ran, in seconds since the plan began."""

    operation: Operation
    began: float
    ended: float


@dataclass(frozen=True)
class Result:
    """The outcome of an operation on an environment: the plan as executed, the services acted on, the changed files.

    `written` are devenv's own files and the project's that devenv merged into; `restored` are the project's files that
    are as they were before; `components` are those that have a part of some service now.
    """

    plan: Plan
    services: Mapping[str, DesiredService] = field(default_factory=dict, repr=False)
    timings: Sequence[Timing] = ()
    written: Sequence[Path] = ()
    restored: Sequence[Path] = ()
    components: Sequence[str] = ()


class Report:
    """Receives what happens while a plan runs. This class ignores it. Several threads call its methods.

    An operation may have `failed` without a reason: that of another one has told it already.
    """

    def begin(self, plan: Plan) -> None: ...
    def started(self, operation: Operation) -> None: ...
    def progress(self, operation: Operation, text: str) -> None: ...
    def finished(self, operation: Operation, seconds: float) -> None: ...
    def failed(self, operation: Operation, seconds: float, reason: str) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...
