"""Stand in for an engine where every service is attached: it has nothing, and nobody needs a real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

from devenv.engine.protocol import Capability, Engine
from devenv.errors import Unsupported
from devenv.model import Desired, Observed


class _Nothing:
    """An engine without containers, networks, volumes and images. What needs one is Unsupported."""

    url = ""
    named = False
    local = True
    inside = False
    can: frozenset[Capability] = frozenset()

    def host_name(self, container: str, service: str) -> str:
        return service

    def check_reach(self) -> None: ...

    def check_names(self, desired: Desired, observed: Observed) -> None: ...

    def observe(self, environment: str, owner: str) -> Observed:
        return Observed(owner=owner)

    def environments(self, owners: Mapping[str, str]) -> dict[str, Observed]:
        return {}

    def images(self) -> dict[str, str]:
        return {}

    def devenv_images(self) -> list[dict[str, Any]]:
        return []

    def with_networks(self) -> set[str]:
        return set()

    def leftover_volumes(self, environment: str, owner: str) -> tuple[str, ...]:
        return ()

    def publisher(self, port: int) -> str:
        return ""

    def forward(self, desired: Desired) -> None: ...

    def forwarded(self, environment: str) -> None: ...

    def end_forward(self, environment: str) -> None: ...

    def __getattr__(self, verb: str) -> Callable[..., NoReturn]:
        def refuse(*_: object) -> NoReturn:
            raise Unsupported(
                f"cannot {verb.replace('_', ' ')}: every service is attached, so devenv runs no container",
                "ask who runs them",
            )

        return refuse


NOTHING = cast(Engine, _Nothing())
