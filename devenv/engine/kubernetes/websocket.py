"""Open WebSockets to a cluster's API, over which it runs commands and forwards ports.

A message begins with the number of its channel. The library's asyncio client is used, even where one thread has one
WebSocket: its other client loses what came last if the server closes at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from devenv.engine.http import NoAnswer, Query, target
from devenv.engine.kubernetes.account import ServiceAccount
from devenv.engine.kubernetes.connection import (
    NO_CONTAINER,
    ApiRefused,
    Cluster,
    Tries,
    refusal_of,
    right_for,
)
from devenv.errors import Unsupported

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

# Commands of 1.30 and later, in which the client can end its input; commands before that, and forwarded ports.
V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
# A message that ends a channel, in V5: this byte and the channel's number.
END = 255
# Seconds between pings, which keep an idle connection open in what lies between. Nobody waits for the answers: a
# server that waits for a slow program reads nothing meanwhile.
_PING_SECONDS = 20.0
_OPEN_SECONDS = 30.0
_Begun = TypeVar("_Begun")


async def connected(cluster: Cluster, path: str, query: Query, protocols: Sequence[str]) -> ClientConnection:
    """Open a WebSocket; `protocols` are those that the client speaks, the best first.

    Raises Refused as a request does, OSError if nothing answers.
    """
    try:
        from websockets.exceptions import InvalidHandshake, InvalidStatus
    except ImportError as error:
        raise Unsupported(
            "cannot run commands and forward ports in a cluster: the package websockets is missing",
            hint="install it beside devenv: pip install websockets",
        ) from error
    where = target(path, query)
    try:
        return await _connecting(cluster, where, protocols)
    except InvalidStatus as error:
        answer = error.response
        right = right_for("GET", path, query)
        after = answer.headers.get("Retry-After", "")
        raise refusal_of(answer.status_code, bytes(answer.body or b""), right, after) from error
    except InvalidHandshake as error:
        raise NoAnswer(f"what answers is no Kubernetes API ({error})") from error


@asynccontextmanager
async def opened(
    cluster: Cluster, path: str, query: Query, protocols: Sequence[str]
) -> AsyncIterator[ClientConnection]:
    """Open a WebSocket and lend it. Raises what `connected` raises.

    A refusal that may pass has begun nothing, so devenv asks again. If the answer got lost, a command may run already.
    """
    connection = await again(lambda: connected(cluster, path, query, protocols))
    try:
        yield connection
    finally:
        await connection.close()


async def again(attempt: Callable[[], Awaitable[_Begun]]) -> _Begun:
    """Begin something that may begin once only: try until it does, the API says no, or the time is over."""
    tries = Tries()
    while True:
        try:
            return await attempt()
        except ApiRefused as error:
            wait = tries.wait(error.after) if error.passes and not NO_CONTAINER.search(str(error)) else None
            if wait is None:
                raise
        await asyncio.sleep(wait)


def _connecting(cluster: Cluster, where: str, protocols: Sequence[str]) -> Awaitable[ClientConnection]:
    from websockets.asyncio.client import connect, unix_connect

    settings: dict[str, Any] = {
        "subprotocols": list(protocols),
        "additional_headers": cluster.way.headers,
        # Compression would need processor time; the answers of a server have any size.
        "compression": None,
        "max_size": None,
        "open_timeout": _OPEN_SECONDS,
        "close_timeout": 1.0,
        "ping_interval": _PING_SECONDS,
        "ping_timeout": None,
        "user_agent_header": None,
    }
    way = cluster.way
    if isinstance(way, ServiceAccount):
        host = f"[{way.host}]" if ":" in way.host else way.host
        return connect(f"wss://{host}:{way.port}{where}", ssl=way.tls, proxy=None, **settings)
    return unix_connect(str(way.socket()), uri=f"ws://localhost{where}", **settings)


@contextmanager
def unless_closed() -> Iterator[None]:
    """End what is done with a WebSocket once the other side has closed it, in order or not."""
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        yield
