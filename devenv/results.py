"""What is told of an environment: what an operation did, and how its services and images are now. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devenv.model import DesiredService, Plan, Timing


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


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now. `state` is ready, starting, stopped, failed or absent."""

    role: str
    state: str
    image: str
    container: str
    endpoints: Mapping[str, Mapping[str, Any]] = field(repr=False)
    reason: str = ""


@dataclass(frozen=True)
class ImageStatus:
    """The image of a service: its size in bytes, or None if the engine does not have it.

    `id` is the image's own digest, `digest` the name and digest by which it was pulled, if it was; `base` is the public
    image that it was built on, by its digest. `version` is that of the package that matters in it. An image that is not
    `genuine` has a name of devenv's and other content: it is not used.
    """

    service: str
    reference: str
    size: int | None = None
    id: str = ""
    digest: str = ""
    version: str = ""
    base: str = ""
    genuine: bool = True
