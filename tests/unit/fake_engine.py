"""An engine in memory, for what the executor and the environment ask of one. Written by hand, no mock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from builders import inspected

from devenv.engine.ownership import check_names
from devenv.engine.protocol import Capability, ContainerState
from devenv.errors import NotReady
from devenv.model import Desired, DesiredService, Observed, Operation, Plan, Report
from devenv.services.base import Target


class FakeEngine:
    """Records every call as "action target"; `on` holds what else happens at such a call.

    A service is ready once `answers` has nothing left to say against it.
    """

    local = True
    url = "fake://"
    can = frozenset(Capability)

    def __init__(self, observed: Observed | None = None) -> None:
        self.calls: list[str] = []
        self.on: dict[str, Callable[[], Any]] = {}
        self.answers: list[str] = []
        self.states: dict[str, ContainerState] = {}
        self.log = ["first line", "last line"]
        self.observed = observed or Observed()
        self.networks: dict[str, str] = {}
        self.imported: dict[str, bytes] = {}
        # What is said of images that devenv did not make.
        self.inspected: dict[str, dict[str, Any]] = {}
        self.leftovers: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def _call(self, action: str, target: str = "") -> Any:
        key = f"{action} {target}".strip()
        with self._lock:
            self.calls.append(key)
        return self.on[key]() if key in self.on else None

    # ---- what an engine is asked ---------------------------------------------------------------------------------

    def check_reach(self) -> None: ...

    def check_names(self, desired: Desired, observed: Observed) -> None:
        check_names(desired, observed)

    def observe(self, _: str, _owner: str) -> Observed:
        self._call("observe")
        return self.observed

    def leftover_volumes(self, _: str, _owner: str) -> tuple[str, ...]:
        return self.leftovers

    def images(self) -> Mapping[str, str]:
        return self.observed.images

    def inspect_image(self, reference: str) -> dict[str, Any]:
        return self.inspected.get(reference) or inspected(reference)

    def devenv_images(self) -> list[dict[str, Any]]:
        return [{"RepoTags": [tag], "Size": 100, "Created": 1} for tag in self.observed.images]

    def remove_image(self, reference: str) -> bool:
        self._call("remove image", reference)
        left = {name: identity for name, identity in self.observed.images.items() if name != reference}
        self.observed = replace(self.observed, images=left)
        return True

    def image_sizes(self) -> dict[str, int]:
        return dict.fromkeys(self.observed.images, 1)

    def publisher(self, _: int) -> str:
        return ""

    def state(self, container: str) -> ContainerState:
        self._call("state", container)
        return self.states.get(container, ContainerState("running"))

    def logs(self, container: str, tail: Any = "all", timestamps: bool = False) -> list[str]:
        self._call("logs", container)
        return self.log if tail == "all" else self.log[-tail:]

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        progress(f"pulling {reference}")
        self._call("pull", reference)

    def create_network(self, name: str, _: Mapping[str, str]) -> str:
        self._call("create network", name)
        return f"id-of-{name}"

    def remove_network(self, network: str) -> None:
        self._call("remove network", network)

    def remove_volume(self, name: str) -> None:
        self._call("remove volume", name)

    def fill_volume(self, volume: str, image: str, folder: str, _labels: Mapping[str, str], _service: str) -> None:
        self._call("fill", f"{volume} from {folder} of {image}")

    def read_folder(self, container: str, folder: str) -> Iterator[bytes]:
        self._call("read", f"{folder} of {container}")
        yield from (b"one", b"two")

    def import_data(self, tag: str, stream: Iterable[bytes], _labels: Mapping[str, str]) -> None:
        content = b"".join(stream)
        self._call("import", tag)
        self.imported[tag] = content
        self.observed = replace(self.observed, images={**self.observed.images, tag: "id"})

    def pause(self, container: str) -> None:
        self._call("pause", container)
        self.states[container] = ContainerState("paused")

    def unpause(self, container: str) -> None:
        self._call("unpause", container)
        self.states[container] = ContainerState("running")

    def create(self, service: DesiredService, _labels: Mapping[str, str], network: str) -> str:
        self.networks[service.name] = network
        return self._call("create", service.name) or f"new-{service.name}"

    def start(self, container: str, _name: str) -> None:
        self._call("start", container)

    def stop(self, container: str, seconds: int) -> None:
        self._call("stop", f"{container} {seconds}")

    def remove(self, container: str) -> None:
        self._call("remove", container)

    # ---- the service itself --------------------------------------------------------------------------------------

    def check(self, target: Target) -> None:
        """A probe."""
        self._call("check", str(target.port))
        if self.answers:
            raise NotReady(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


class Recorder(Report):
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, plan: Plan) -> None:
        self.told.append(f"begin {len(plan.operations)}")

    def started(self, operation: Operation) -> None:
        self.told.append(f"started {operation.key}")

    def progress(self, operation: Operation, text: str) -> None:
        self.told.append(f"progress {operation.key}: {text}")

    def finished(self, operation: Operation, seconds: float) -> None:
        self.told.append(f"finished {operation.key}")

    def failed(self, operation: Operation, seconds: float, reason: str) -> None:
        self.told.append(f"failed {operation.key}: {reason}")

    def note(self, text: str) -> None:
        self.told.append(f"note {text}")

    def end(self) -> None:
        self.told.append("end")
