"""The verbs that devenv needs of any container engine (`Engine`), and what they take and give.

Planning, executing and looking use these verbs alone. `Docker` in docker.py implements them for Docker and Podman,
`Kubernetes` in the package kubernetes for a cluster; nothing.py stands in where every service is attached.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

from devenv.model import Desired, DesiredService, Observed
from devenv.store.central import Central

if TYPE_CHECKING:
    import socket

# A service's files go into a volume of their own: the engine copies nothing into a read-only root file system.
CONFIG_FOLDER = "/etc/devenv"
# In each data volume, the one folder that any user may write to: the user's id differs between images.
DATA_FOLDER = "data"
# In an image that pods start from (images/push.py), the folder with the first data of a volume.
FIRST_DATA = "/devenv-first-data"
# How many of the last lines of a log.
Tail = int | Literal["all"]
# Labels of an object's environment: its id and its token (see ownership.py).
Labels = Mapping[str, str]


class Capability(Enum):
    """Abilities that only some engines have. `Engine.can` holds those of one engine; plans ask it first."""

    BUILD = "build images"
    BUNDLE = "save images to an archive and load them"
    FILL = "fill new volumes from images that it gets itself"
    KEEP_DATA = "keep the data of volumes as images"
    KEEP_STOPPED = "keep the data of stopped containers that are not durable"
    PAUSE = "pause containers"
    PULL = "pull images"
    PUSH = "push images to a registry"
    READ_IMAGES = "read the files of an image"


@dataclass(frozen=True)
class About:
    """What an engine is and what it runs on.

    `name` is its kind in words ("rootless Podman"), `api` the version of its API. `architecture` is as the kernel
    names it (x86_64, aarch64; empty if unknown), `memory` in bytes (0 if unknown). `ahead` is how many seconds its
    clock is ahead of this host's, if it says. With `daemon`, a daemon with root's rights runs the containers. With
    `here`, the engine shares this host's kernel and disks, and keeps images and data in `folders`. With `loopback`, the
    network of the engine's host has this host's 127.0.0.1.
    """

    name: str
    version: str
    api: str
    architecture: str = ""
    memory: int = 0
    ahead: float | None = None
    daemon: bool = True
    here: bool = True
    loopback: bool = True
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ContainerState:
    """How a container is doing: created, running, paused, restarting, exited or dead; also waiting or gone.

    `exit_code` counts once it exited; `out_of_memory` says that the kernel killed it for using too much memory.
    `reason` says what the engine knows: what a container that counts as running still waits for, or why one ended, does
    not start ("waiting": only a change from outside helps) or is gone. `hint` says what to do about it.
    """

    status: str
    exit_code: int = 0
    out_of_memory: bool = False
    reason: str = ""
    hint: str = ""


class Session(Protocol):
    """A command that runs in a container, joined to the program that started it.

    That program can wait for the `stream` with select, and use it without blocking. The command reads what the program
    writes to the stream, until the program shuts it down for writing. The stream ends when the command ends.
    """

    @property
    def stream(self) -> socket.socket:
        """Return the command's input and output."""

    def output(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take apart what was read from the stream, in the order in which it came.

        Each part is 1 (standard output) or 2 (standard error), and bytes. Keeps an incomplete part for the next call.
        Call it with no data first: the engine may have sent some together with its answer.
        """

    def resize(self, rows: int, columns: int) -> None:
        """Give the command's terminal a size. Raises ServiceFailed if the command is over."""

    def exit_code(self) -> int:
        """Return the command's exit code, once its stream has ended."""


class Engine(Protocol):
    """One container engine. Thread-safe.

    Verbs that change a container, network or volume take its id, or a name that holds the environment's id. All verbs
    raise NoEngine if the engine does not answer and ServiceFailed if it refuses (NoSpace if its disk is full); their
    own docstrings name other errors. Verbs that need a capability raise Unsupported without it.
    """

    @property
    def url(self) -> str:
        """Return where the engine answers, as its users write it."""

    @property
    def named(self) -> bool:
        """Return whether the user named this engine. Otherwise devenv found it, and may find another one tomorrow."""

    @property
    def local(self) -> bool:
        """Return whether the ports that the engine publishes are on this host's 127.0.0.1."""

    @property
    def inside(self) -> bool:
        """Return whether this process is among the engine's containers, and reaches services by their `host_name`."""

    @property
    def can(self) -> frozenset[Capability]:
        """Return the abilities of this engine beyond those of every engine."""

    # ---- look at the engine and at an environment ----------------------------------------------------------------

    def about(self) -> About:
        """Ask the engine what it is and what it runs on."""

    def check_reach(self) -> None:
        """Raise ConfigError, with the way out, if this process cannot reach the ports that the engine publishes."""

    def observe(self, environment: str, owner: str) -> Observed:
        """Return everything that carries the environment's label, and every image that the engine can run.

        An object is the environment's own if it carries the token `owner` and has a name that devenv gives; all others
        are strangers. Without a token, `observe` trusts the one that it finds (see ownership.py).
        """

    def environments(self, owners: Mapping[str, str]) -> dict[str, Observed]:
        """Return what every environment has, by its id, as `observe` does; without images.

        `owners` are the tokens of known environments, by id.
        """

    def check_names(self, desired: Desired, observed: Observed) -> None:
        """Raise NotOurs if a stranger has a name that `create`, `create_network` or `fill_volume` is going to use."""

    def host_name(self, container: str, service: str) -> str:
        """Return the name by which other containers of its environment reach a service, by its own and its container's.

        This asks nobody.
        """

    def state(self, container: str) -> ContainerState:
        """Return how a container is doing. Raises ServiceFailed if the container does not exist."""

    def memory(self, container: str) -> int | None:
        """Return how many bytes of memory a running container uses; None if the engine does not say.

        Some engines take a second to answer.
        """

    def volume_sizes(self) -> dict[str, int]:
        """Return the size in bytes of each volume that the engine can measure, by name. This reads all volumes."""

    def publisher(self, port: int) -> str:
        """Return the running container that publishes this host port, in words for a person; empty without one."""

    def with_networks(self) -> set[str]:
        """Return the ids of all environments that have a network, of any project."""

    def leftover_volumes(self, environment: str, owner: str) -> tuple[str, ...]:
        """Return the environment's volumes of files that no container uses: somebody removed their containers."""

    def central(self, environment: str, note: Path, lost: Callable[[], None]) -> Central:
        """Return the place of what hosts have in common of a shared environment. Raises Unsupported if it has none.

        `note` is a file of this host, for the token under which it has the lock there. `lost` is called, in a thread,
        if another host takes that lock.
        """

    # ---- ports of an engine elsewhere ----------------------------------------------------------------------------

    def forward(self, desired: Desired) -> None:
        """Make the published ports of these services, and of no others, answer on this host's 127.0.0.1.

        Does nothing where they do without that. Raises PortTaken if another program has a port here, NoEngine with the
        cause if no way leads there.
        """

    def forwarded(self, environment: str) -> frozenset[int] | None:
        """Return the ports that `forward` has open here; None if this engine needs no forwarder."""

    def end_forward(self, environment: str) -> None:
        """End what `forward` has begun. Does nothing if nothing runs."""

    # ---- create and remove ---------------------------------------------------------------------------------------

    def create_network(self, name: str, labels: Labels) -> str:
        """Create a network and return its id. If a killed devenv already made it, return that one's id.

        Raises NotOurs if another network has the name, AddressPoolExhausted if the engine has no addresses left.
        """

    def remove_network(self, network: str) -> None:
        """Remove a network by id. Does nothing if it is gone.

        What the engine makes late for a killed devenv is in no removal's way: a container that never started goes, too.
        """

    def remove_volume(self, name: str) -> None:
        """Remove a volume and its data, and late containers as above. Does nothing if it is gone."""

    def create(self, service: DesiredService, labels: Labels, network: str) -> str:
        """Create the service's container, which does not run yet, and return its id.

        - `service.files` are in it, below CONFIG_FOLDER, readable by every user.
        - Each of `service.volumes` is mounted. The engine creates a missing one with the labels and the service's name.
          One that is not `durable` may go with its container when that stops, unless the engine can KEEP_STOPPED.
          Each one holds the folder DATA_FOLDER, in which every user may write.
        - On the network (by id), other containers reach it by its `host_name`.
        - Once started, `service.ports` answer on this host's 127.0.0.1, or the engine's if it is not `local`.

        If a killed devenv already created it, this creates it again. Raises NotOurs if another container or volume has
        a name that it needs.
        """

    def start(self, container: str, name: str) -> None:
        """Start a container, or let a paused one go on; `name` is what errors call it.

        Raises PortTaken if another program has one of its ports, and LimitRefused if the engine may not set its limit
        on open files. Then remove the container and create it again: `create` asks for no limit from then on.
        """

    def stop(self, container: str, seconds: int) -> None:
        """Ask a container to end, and kill it after `seconds`. Stops a paused one, too. Does nothing if it is gone."""

    def remove(self, container: str) -> None:
        """Remove a container, running or not, with the volume of its files. Its data stay. Does nothing if it is gone.

        Returns when the name and the ports are free, even if another program began the removal.
        """

    # ---- read from containers, and run commands in them ----------------------------------------------------------

    def logs(self, container: str, tail: Tail = "all", since: float = 0, timestamps: bool = False) -> list[str]:
        """Return the lines that a container logged; from `since` on, in seconds since 1970, if it is given.

        With `timestamps`, each line begins with its time as RFC 3339 and a space.
        """

    def follow(self, container: str, tail: Tail = "all") -> Iterator[str]:
        """Yield the lines of a container's log as they come, until the container ends."""

    def execute(
        self, container: str, command: Sequence[str], tty: bool, environment: Mapping[str, str] | None = None
    ) -> Session:
        """Start a command in a running container; with `tty`, in a terminal; with these variables beside its own."""

    # ---- images --------------------------------------------------------------------------------------------------

    def images(self) -> dict[str, str]:
        """Return the id of each image that the engine can run without a pull, by each of its references.

        A reference is a name with a tag or a digest, as `familiar` spells it.
        """

    def devenv_images(self) -> list[dict[str, Any]]:
        """Return the images that every environment shares: RepoTags, Size (bytes), Labels, Created (since 1970).

        Of a cluster, those that each node has, if the login may look at nodes.
        """

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """Return what the engine knows of an image, by reference or id.

        Its keys are the engine API's: Id, Size (bytes, compressed on some engines), RepoDigests, RootFS.Layers, and
        Config with Env, User, Labels …
        """

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        """Pull an image by its full reference, with the user's credentials; `progress` may raise to end it."""

    def remove_image(self, reference: str) -> bool:
        """Remove an image by reference or id. Return False if it is gone or something still needs it."""

    # ---- only some engines: see Capability -----------------------------------------------------------------------

    def build(
        self,
        tag: str,
        context: IO[bytes],
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> None:
        """Build an image from a tar stream with a Dockerfile in it. Needs BUILD.

        It stands on images that the engine has, or that anybody may pull. Its steps get the user's proxies that they
        can reach, and the image holds none of these.

        `progress` gets each first line of output and may raise to end it. Raises ServiceFailed with the last lines of
        the step that failed.
        """

    def import_image(self, tag: str, tarball: Path, labels: Mapping[str, str]) -> None:
        """Make an image of one layer from a root file system. Needs BUILD."""

    def pause(self, container: str) -> None:
        """Freeze all processes of a running container, so that its data do not change. Needs PAUSE."""

    def unpause(self, container: str) -> None:
        """Let a paused container go on. Does nothing if it is gone. Needs PAUSE."""

    def read_folder(self, container: str, folder: str) -> Generator[bytes, None, None]:
        """Yield a folder of a container, running or not, as a tar stream. Needs KEEP_DATA or READ_IMAGES.

        Its entries begin with the folder's last name. Close the generator: the engine may lock the container until
        then.
        """

    def import_data(self, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]) -> None:
        """Make an image of one layer from a tar stream of data. Needs KEEP_DATA.

        The image exists only if the stream came to its end. Raises what the stream raises.
        """

    def fill_volume(self, volume: str, image: str, folder: str, labels: Labels, service: str) -> None:
        """Create a volume for a service and copy into it what the image has in `folder`. Needs KEEP_DATA or FILL.

        No program of the image runs for that. Raises NotOurs if a stranger has a name that it needs.

        An engine with FILL only notes that. The container that `create` makes next for the volume copies the data when
        it starts, with the image's own programs, unless the volume has data by then.
        """

    def image_sizes(self) -> dict[str, int]:
        """Return the size in bytes that every image takes on disk, by tag or digest. Needs KEEP_DATA."""

    def save_images(self, references: Sequence[str]) -> Generator[bytes, None, None]:
        """Yield an archive of these images; a layer that several share is in it once. Needs BUNDLE."""

    def load_images(self, stream: Iterable[bytes]) -> None:
        """Load the images of such an archive under their names. Needs BUNDLE."""

    def push(self, reference: str, address: str, progress: Callable[[str], None]) -> None:
        """Push an image under another name, with the user's credentials for its registry. Needs PUSH.

        The other name is gone here afterwards, unless it was there before. `progress` may raise to end it.
        """

    def unstarted(self, image: str) -> AbstractContextManager[str]:
        """Lend a container to read an image's files from. Needs READ_IMAGES.

        It never starts, and devenv removes it afterwards. Also removes such containers that killed devenvs left.
        """

    def has(self, container: str, path: str) -> bool:
        """Return whether a container, running or not, has a file or folder. Needs READ_IMAGES."""

    # ---- see why something failed, as the engine says it ---------------------------------------------------------

    def inspect(self, container: str) -> dict[str, Any]:
        """Return everything that the engine knows of a container."""

    def belongings(self, environment: str) -> dict[str, Any]:
        """Return the engine's `version`, and the environment's `networks` and `volumes`."""

    def events(self, environment: str) -> list[dict[str, Any]]:
        """Return what happened to the environment's containers, as far back as the engine remembers."""
