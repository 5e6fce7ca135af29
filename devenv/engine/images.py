"""Images: list, pull, build, import and remove them, read their files, carry them in one archive."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from devenv.engine import containers
from devenv.engine.connection import Connection, asking, failure
from devenv.engine.http import CHUNK, Refused, decoded
from devenv.engine.image_names import familiar
from devenv.engine.logins import login_for
from devenv.engine.ownership import name_of
from devenv.engine.proxies import BuildProxies
from devenv.errors import LimitRefused, tells_of_full_disk
from devenv.model import LABEL_ENVIRONMENT, SHARED

# Seconds without a byte: older engines write a complete archive to their disk before they send or load it.
_ARCHIVE_TIMEOUT = 1800.0
_NO_ROOM = "if the engine's disk is full: 'devenv gc --keep 0' and 'devenv snapshot rm NAME' make room"
_TRY_AGAIN = "the last lines of that step are above; 'devenv images build' tries again"
_NO_ROOM_TO_LOAD = "if the engine's disk is full: 'devenv gc --keep 0' and 'devenv images prune' make room"
# How often devenv asks Podman for the list of images at most, and the seconds between: an image may take some to go.
_LOOKS, _PAUSE_SECONDS = 10, 0.2
# What the steps of a build may have open and run.
_FEW = ("nofile=1024:4096", "nproc=1024:4096")
# As many characters of a step's name, or of an error, are shown.
_READABLE = 120
# devenv reads an image through a container: the label's value in place of an environment, how the container's name
# begins, and for how many seconds nobody else removes it: longer than reading takes.
_READING, _READER = "reading", "devenv-reading-"
_READING_SECONDS = 600


# ---- list and inspect them ---------------------------------------------------------------------------------------


def images(connection: Connection) -> dict[str, str]:
    """Return the id of every image that the engine can run without a pull, by each reference: tag or digest."""
    return {
        familiar(name): image["Id"]
        for image in _listed(connection)
        for key in ("RepoTags", "RepoDigests")
        for name in image.get(key) or ()
    }


def inspect_image(connection: Connection, reference: str) -> dict[str, Any]:
    """Return all that the engine knows of an image, by reference or id."""
    with asking(f"inspect image {reference}"):
        return _familiar(connection.client.ask("GET", f"/images/{reference}/json"))


def devenv_images(connection: Connection) -> list[dict[str, Any]]:
    """Return all images that devenv made for every environment: their tags, size, labels and time of creation."""
    return [_familiar(image) for image in _listed(connection, {"label": f"{LABEL_ENVIRONMENT}={SHARED}"})]


def image_sizes(connection: Connection) -> dict[str, int]:
    """Return the size in bytes that every image takes on the engine's disk, by each reference: tag or digest."""
    return {
        familiar(name): int(image["Size"])
        for image in _listed(connection)
        for key in ("RepoTags", "RepoDigests")
        for name in image.get(key) or ()
    }


def _listed(connection: Connection, filters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    query = {"filters": filters or {}}
    with asking("list images"):
        for _ in range(_LOOKS - 1 if connection.client.podman else 0):
            # Podman 4 fails if somebody removes an image while it lists them.
            with suppress(Refused):
                return list(connection.client.ask("GET", "/images/json", query))
            time.sleep(_PAUSE_SECONDS)
        return list(connection.client.ask("GET", "/images/json", query))


def _familiar(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return the image with familiar names."""
    return {**image, **{key: [*map(familiar, image.get(key) or ())] for key in ("RepoTags", "RepoDigests")}}


# ---- make and remove them ----------------------------------------------------------------------------------------


def pull(connection: Connection, reference: str, progress: Callable[[str], None]) -> None:
    """Pull an image by its full reference: with a tag or a digest."""
    name, _, tag = reference.rpartition("@" if "@" in reference else ":")
    login = login_for(reference, progress)
    hint = "check the name and the network, or build it under that name"
    hint = f"{login.fault}, so devenv pulled without a login; mend that, or {hint}" if login.fault else hint
    with (
        asking(f"pull image {reference}", hint),
        closing(
            connection.client.lines("/images/create", {"fromImage": name, "tag": tag}, None, login.headers)
        ) as lines,
    ):
        for message in _told(lines):
            if "error" in message:
                raise Refused(0, message["error"])
            progress(str(message.get("status", "")))


def push(connection: Connection, reference: str, address: str, progress: Callable[[str], None]) -> None:
    """Push an image to the registry in `address`, a full reference with a tag, and take that name away again."""
    name, _, tag = address.rpartition(":")
    login = login_for(address, progress)
    hint = "check the name and the network, and log in with 'docker login'"
    hint = f"{login.fault}, so devenv pushed without a login; mend that, or {hint}" if login.fault else hint
    # An engine wants this header even where there is no login.
    headers = login.headers or {"X-Registry-Auth": base64.urlsafe_b64encode(b"{}").decode()}
    client = connection.client
    with asking(f"push image {address}", hint):
        here = familiar(address) in images(connection)
        client.ask("POST", f"/images/{reference}/tag", {"repo": name, "tag": tag})
        try:
            with closing(client.lines(f"/images/{name}/push", {"tag": tag}, None, headers)) as lines:
                for message in _told(lines):
                    if "error" in message:
                        raise Refused(0, message["error"])
                    progress(str(message.get("status", "")))
        finally:
            if not here:
                remove_image(connection, address)


def build(
    connection: Connection,
    tag: str,
    context: IO[bytes],
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    progress: Callable[[str], None],
    proxies: BuildProxies,
) -> None:
    """Build an image from a tar stream. Raises ServiceFailed with the last lines of the step that failed.

    No login goes with it: it stands on an image that the engine has.
    """
    query = _build_query(tag, arguments, labels, proxies)
    files = context.read()
    try:
        _build(connection, tag, query, files, progress, proxies.left_out)
    except LimitRefused:
        # Podman asks for more open files and processes than a host that is a container itself may give.
        _build(connection, tag, {**query, "ulimits": json.dumps(_FEW)}, files, progress, proxies.left_out)


def _build(
    connection: Connection,
    tag: str,
    query: Mapping[str, str | bool],
    context: bytes,
    progress: Callable[[str], None],
    left_out: str,
) -> None:
    said: list[str] = []
    step = "its first step"
    with asking(f"build image {tag}"), closing(connection.client.lines("/build", query, context)) as lines:
        for message in _told(lines):
            text = re.sub(r"\x1b\[[0-9;]*m", "", message.get("stream", "")).strip()
            if re.match(r"step \d", text, re.IGNORECASE):
                step, said = text, []
            progress(text.partition("\n")[0])
            said.extend(text.splitlines())
            if "error" in message:
                what = f"cannot build image {tag}: {_shortened(step)} failed: {_shortened(message['error'])}"
                hint = "; ".join(filter(None, (_TRY_AGAIN, left_out)))
                limited = connection.client.podman and "ulimits" not in query and "setting rlimit" in "\n".join(said)
                raise LimitRefused(what, hint) if limited else failure(what, hint, said[-20:])


def _shortened(text: str) -> str:
    """Return the first line of a text without its middle if that is long: both ends say what matters.

    Engines repeat all of a step's script in the step's name and in their error.
    """
    line = (text.splitlines() or [""])[0]
    if len(line) <= _READABLE or tells_of_full_disk(text):
        return line
    return f"{line[: _READABLE // 2]} … {line[-_READABLE // 2 :]}"


def _build_query(
    tag: str, arguments: Mapping[str, str], labels: Mapping[str, str], proxies: BuildProxies
) -> dict[str, str | bool]:
    query: dict[str, str | bool] = {
        "t": tag,
        "buildargs": json.dumps({**proxies.arguments, **arguments}),
        "labels": json.dumps(dict(labels)),
        # Remove what steps leave, also those of a build that fails.
        "rm": True,
        "forcerm": True,
    }
    return {**query, "networkmode": "host"} if proxies.host_network else query


def import_image(connection: Connection, tag: str, tarball: Path, labels: Mapping[str, str]) -> None:
    """Make an image of one layer from a root file system."""
    _import_layer(connection, f"import image {tag}", tag, _chunks(tarball), labels)


def import_data(connection: Connection, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]) -> None:
    """Make an image of one layer from a tar stream of data. A stream that breaks off leaves no image."""
    _import_layer(connection, f"keep data as {tag}", tag, stream, labels)


def _import_layer(
    connection: Connection, what: str, tag: str, stream: Iterable[bytes], labels: Mapping[str, str]
) -> None:
    changes = [f'LABEL {key}="{value}"' for key, value in labels.items()]
    # Not `tag`: Podman 4 does not look at it, and would name the image ":latest".
    query = {"fromSrc": "-", "repo": tag, "changes": changes}
    with asking(what, _NO_ROOM):
        _check_told(connection.client.stream("POST", "/images/create", query, stream))


def load_images(connection: Connection, stream: Iterable[bytes]) -> None:
    """Load the images of an archive under their names. Layers that the engine already has stay as they are."""
    with asking("load images", _NO_ROOM_TO_LOAD):
        _check_told(connection.client.stream("POST", "/images/load", None, stream, _ARCHIVE_TIMEOUT))


def _check_told(answer: Iterable[bytes]) -> None:
    """Raise Refused if the engine says in the middle of its answer that it failed."""
    for message in _told(b"".join(answer).splitlines()):
        if "error" in message:
            raise Refused(0, message["error"])


def _told(lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """Yield the messages of an engine, one a line."""
    return map(decoded, filter(bytes.strip, lines))


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def remove_image(connection: Connection, reference: str) -> bool:
    """Remove an image by tag or id. Return False if it is gone, or if a container or another image still needs it."""
    with asking(f"remove image {reference}"):
        try:
            connection.client.ask("DELETE", f"/images/{reference}")
        except Refused as error:
            if error.status not in (404, 409):
                raise
            return False
    return True


# ---- read them ---------------------------------------------------------------------------------------------------


def save_images(connection: Connection, references: Sequence[str]) -> Generator[bytes, None, None]:
    """Yield an archive of these images; a layer that several share is in it once."""
    with asking("save images"):
        query = {"names": list(references)}
        yield from connection.client.stream("GET", "/images/get", query, timeout=_ARCHIVE_TIMEOUT)


@contextmanager
def unstarted(connection: Connection, image: str) -> Iterator[str]:
    """Lend a container to read an image's files from. It never starts, and devenv removes it afterwards.

    Also removes such containers that killed devenvs left.
    """
    client = connection.client
    with asking(f"look into image {image}"):
        query = {"all": True, "filters": {"label": f"{LABEL_ENVIRONMENT}={_READING}"}}
        for left in client.ask("GET", "/containers/json", query):
            old = left["State"] == "created" and time.time() - left["Created"] > _READING_SECONDS
            if old and name_of(left).startswith(_READER):
                containers.discard(connection, left["Id"])
        wanted = containers.never_started(image, {LABEL_ENVIRONMENT: _READING})
        name = _READER + secrets.token_hex(8)
        container = str(client.ask("POST", "/containers/create", {"name": name}, wanted)["Id"])
    try:
        yield container
    finally:
        containers.discard(connection, container)
