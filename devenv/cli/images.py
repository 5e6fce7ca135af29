"""Define the commands about images: list, build, prune, sbom, save, load, push, key."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from devenv.cli.common import Group, environment_of, format_option, print_done, print_json, services_argument
from devenv.errors import ConfigError

if TYPE_CHECKING:
    from devenv.images.bundle import Archive
    from devenv.images.inventory import ImageStatus

_STANDARD = "-"


@click.group(cls=Group)
def images() -> None:
    """List, build, save and load the images of services."""


@images.command(name="list")
@format_option
@click.pass_context
def images_list(context: click.Context, format_: str) -> None:
    """Show the image of each service with its digest and version."""
    found = environment_of(context).list_images()
    if format_ == "json":
        print_json([asdict(image) for image in found])
        return
    from devenv.cli.tables import rows_table

    click.echo(rows_table(("SERVICE", "IMAGE", "DIGEST", "VERSION", "SIZE"), map(_row, found)))


def _row(image: ImageStatus) -> tuple[str, ...]:
    if image.size is None:
        return image.service, image.reference, "-", "-", "not here"
    from devenv.images.sbom import upstream

    digest = (image.digest or image.id).rpartition(":")[2][:12]
    version = (upstream(image.version) or "-") if image.genuine else "not ours"
    return image.service, image.reference, digest, version, f"{image.size / 1e6:.0f} MB"


@images.command(name="build")
@services_argument
@click.option("--golden", is_flag=True, help="Also build images with golden states, to load onto nodes of a cluster.")
@format_option
@click.pass_context
def images_build(context: click.Context, services: tuple[str, ...], golden: bool, format_: str) -> None:
    """Build or pull the images that are missing."""
    began, environment = time.monotonic(), environment_of(context)
    result = environment.build_images(services)
    states = environment.build_golden(services) if golden else []
    print_done(result, format_, "images ready", began, {"golden": states} if golden else None)
    for state in states if format_ == "text" else ():
        click.echo(state)


@images.command(name="prune")
@format_option
@click.pass_context
def images_prune(context: click.Context, format_: str) -> None:
    """Remove images that devenv built and no longer needs."""
    removed = environment_of(context).prune_images()
    if format_ == "json":
        print_json(removed)
    else:
        click.echo("\n".join(f"removed {reference}" for reference in removed) or "nothing to remove")


@images.command(name="sbom")
@services_argument
@click.pass_context
def images_sbom(context: click.Context, services: tuple[str, ...]) -> None:
    """Print which packages the images contain, as SPDX in JSON.

    Lists Debian and Python packages with their versions and package URLs.
    """
    print_json(environment_of(context).sbom(services))


def _file_argument(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("file", type=click.Path(path_type=Path, allow_dash=True))(command)


@images.command(name="save")
@_file_argument
@services_argument
@format_option
@click.pass_context
def images_save(context: click.Context, file: Path, services: tuple[str, ...], format_: str) -> None:
    """Write images of services and their golden states to a file.

    If FILE is -, writes to standard output. Layers that images share are written once.
    """
    from devenv.store.files import check_place

    began = time.monotonic()
    environment = environment_of(context)
    if str(file) == _STANDARD:
        if sys.stdout.isatty():
            raise click.UsageError("cannot write an archive to a terminal: name a file, or pipe it into a program")
        _tell("saved", environment.save_images(sys.stdout.buffer, services), began, format_, to_stderr=True)
        return
    check_place(file, environment.project)
    _tell("saved", environment.save_images(file, services), began, format_)


@images.command(name="load")
@_file_argument
@format_option
@click.pass_context
def images_load(context: click.Context, file: Path, format_: str) -> None:
    """Load images and golden states from a file that `save` wrote.

    If FILE is -, reads standard input. devenv loads nothing if the file contains an image that neither devenv made
    nor the profile names.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        if str(file) == _STANDARD:
            # Only here: importing these two would cost every other command some milliseconds.
            import shutil
            import tempfile

            # devenv checks the complete archive before it loads any of it.
            archive: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(sys.stdin.buffer, archive)
            archive.seek(0)
        else:
            try:
                archive = stack.enter_context(file.open("rb"))
            except OSError as error:
                raise ConfigError(
                    f"cannot load {file}: {error.strerror}", "name a file that 'devenv images save' wrote"
                ) from error
        loaded = environment_of(context).load_images(archive, "standard input" if str(file) == _STANDARD else str(file))
    _tell("loaded", loaded, began, format_)


@images.command(name="push")
@click.argument("registry", required=False, default="")
@services_argument
@click.option("--golden", is_flag=True, help="Push images with golden states, too.")
@format_option
@click.pass_context
def images_push(context: click.Context, registry: str, services: tuple[str, ...], golden: bool, format_: str) -> None:
    """Push the images of services to a registry, for pods to pull.

    REGISTRY is HOST[:PORT][/FOLDER]; the images keep their names and tags in it. Without one, it is `image_registry` of
    devenv.yaml. Uses the login of `docker login`.
    """
    began = time.monotonic()
    pushed = environment_of(context).push_images(registry, services, golden)
    if format_ == "json":
        print_json(asdict(pushed))
        return
    parts = _counted(pushed.images, "image") + (f" and {_counted(pushed.golden, 'golden state')}" if golden else "")
    click.echo(f"pushed {parts}, in {time.monotonic() - began:.1f} s")


@images.command(name="key")
@services_argument
@format_option
@click.pass_context
def images_key(context: click.Context, services: tuple[str, ...], format_: str) -> None:
    """Print cache keys for the file that `save` writes.

    Prints NAME=value lines. `images` changes with the images. `golden` begins with the same text and also changes
    with the content of golden states. devenv needs no engine for either.
    """
    keys = environment_of(context).cache_keys(services)
    if format_ == "json":
        print_json(keys)
        return
    for name, key in keys.items():
        click.echo(f"{name}={key}")


def _counted(things: Sequence[str], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _tell(done: str, archive: Archive, began: float, format_: str, to_stderr: bool = False) -> None:
    if to_stderr or format_ != "json":
        parts = f"{_counted(archive.images, 'image')} and {_counted(archive.golden, 'golden state')}"
        seconds = time.monotonic() - began
        click.echo(f"{done} {parts}, {archive.size / 1e6:.0f} MB, in {seconds:.1f} s", err=to_stderr)
    else:
        print_json(asdict(archive))
