"""Write what the services of an environment offer where programs look for it: files under .devenv/.

`env` and `endpoints.json` come from the services' data; every other file is put together from the templates
that services keep for it in their folder: right under `wire/` for the environment, in `wire/component/` for each
component (whose name stands for the word "component" in the file's name), in `wire/catalog/` for each one that is in
the service catalog, in `wire/section/` and `wire/typed-section/` for each section that a component lists.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path

from devenv.errors import ConfigError
from devenv.model import ComponentChoice, Desired, DesiredService, Provision, ServiceDefinition
from devenv.spec.components import endpoints_of
from devenv.spec.profile import WIRED_FOLDER as FOLDER
from devenv.spec.template import render_file
from devenv.store.files import beside, way_out, write_files
from devenv.store.locks import held
from devenv.store.places import state_folder

# The clouds of the environment, for openstacksdk.
CLOUDS = "clouds.yaml"
_OVERLAY = "component.conf"
_REPEATABLE = "# Repeatable"
# In single quotes a shell takes all but a quote as it is; libraries know escapes, variables and more line ends, too.
_UNQUOTABLE = re.compile(r"['\x00-\x1f\x7f-\x9f\u2028\u2029]|\\(?=\\|\Z)|\$\{")
_HEADER = "# Written by devenv; 'devenv up' writes it anew.\n"


# ---- the flat map --------------------------------------------------------------------------------------------


def flat_map(views: Mapping[str, DesiredService | Provision]) -> dict[str, str]:
    """DEVENV_<SERVICE>_HOST, _PORT, _URL and what else a service tells, and the names that clients know (OS_*).

    `views` are services as the administrator or as a component sees them, by name. The first endpoint of a service is
    the one that goes by the service's name alone.
    """
    values: dict[str, str] = {}
    for service, view in views.items():
        name = service.upper().replace("-", "_")
        for number, (key, endpoint) in enumerate(view.endpoints.items()):
            prefix = f"DEVENV_{name}" if number == 0 else f"DEVENV_{name}_{key.upper().replace('-', '_')}"
            values |= {f"{prefix}_HOST": endpoint.host, f"{prefix}_PORT": str(endpoint.port)}
            values[f"{prefix}_URL"] = endpoint.url
        values |= {f"DEVENV_{name}_{key}": value for key, value in view.outputs.items()}
        values |= view.environment
    return values


def component_map(services: Mapping[str, DesiredService], component: str, overlay: str) -> dict[str, str]:
    """The same as one component sees it, with its overlay as the variables that oslo.config reads by itself.

    A section with an option that may be repeated is left out as a whole: oslo.config takes the letters of its value
    for values. Templates mark such options with a comment.
    """
    # Loaded where it is needed: the other commands start quicker.
    from devenv.wiring import ini as initext

    views = {name: s.components[component] for name, s in services.items() if component in s.components}
    options = initext.options(overlay, f"{component}.conf")
    repeated = {section for (section, _), values in options.items() if len(values) > 1} | _marked(overlay)
    return flat_map(views) | {
        f"OS_{section.upper()}__{option.upper()}": values[0]
        for (section, option), values in options.items()
        if section not in repeated
    }


def _marked(overlay: str) -> set[str]:
    """The sections that hold an option marked as one that may be repeated."""
    section, found = "", set()
    for line in overlay.splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        if line.startswith(_REPEATABLE):
            found.add(section)
    return found


def run_variables(
    desired: Desired, component: str, overlay: Path, catalogue: Mapping[str, ServiceDefinition]
) -> tuple[dict[str, str], str]:
    """What a program finds in its environment that runs as the component; and the overlay's text.

    `overlay` is where that text is to be found.
    """
    variables, text = job_variables(desired, component, catalogue)
    return variables | {"DEVENV_OSLO_CONF": str(overlay)}, text


def job_variables(
    desired: Desired, component: str, catalogue: Mapping[str, ServiceDefinition]
) -> tuple[dict[str, str], str]:
    """The same for a program that finds none of devenv's files."""
    texts = wired_files(desired, catalogue)
    text = texts.get(overlay_name(component), "")
    known = component_map(desired.services, component, text)
    named = conventional(desired.services, component, texts, catalogue)
    return {"DEVENV_COMPONENT": component} | known | named, text


def conventional(
    services: Mapping[str, DesiredService],
    component: str,
    texts: Mapping[str, str],
    catalogue: Mapping[str, ServiceDefinition],
) -> dict[str, str]:
    """The variables that programs know by other names: DATABASE_URL and the like, and those of pifpaf.

    Of pifpaf's URLs, `PIFPAF_URL` is the first one's, and `PIFPAF_URLS` has all of them.
    """
    found = from_dotenv(texts.get(f"{component}.env", ""))
    for name, service in services.items():
        if component in service.components:
            for path in _templates(catalogue[name].wire / "run"):
                found |= from_dotenv(render_file(path, service.components[component].values))
    urls = [found[key] for name in services if (key := f"PIFPAF_{name.upper()}_URL") in found]
    return found | ({"PIFPAF_URL": urls[0], "PIFPAF_URLS": ";".join(urls)} if urls else {})


def from_dotenv(text: str) -> dict[str, str]:
    """What `as_dotenv` wrote, or a template in its form."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name: value.strip("'") for name, _, value in pairs}


def as_json(values: Mapping[str, str]) -> str:
    return json.dumps(values, indent=2) + "\n"


def as_dotenv(values: Mapping[str, str]) -> str:
    """NAME=value lines in single quotes. Raises ConfigError for a value that not every program would read as it is."""
    return "".join(f"{name}='{_quotable(name, value)}'\n" for name, value in values.items())


def as_shell(values: Mapping[str, str]) -> str:
    """Lines for `eval` in a POSIX shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


FORMATS = {"json": as_json, "dotenv": as_dotenv, "shell": as_shell}


def _quotable(name: str, value: str) -> str:
    if found := _UNQUOTABLE.search(value):
        raise ConfigError(
            f"cannot write {name}: its value holds {found[0]!r}, which not every program reads as it is",
            "mend the service's outputs",
        )
    return value


# ---- the files -----------------------------------------------------------------------------------------------


def wired_files(desired: Desired, catalogue: Mapping[str, ServiceDefinition]) -> dict[str, str]:
    """Every file of an environment by its path below the folder, with its content.

    Raises ConfigError for a template that names an unknown value, and for a component whose file is another's, too.
    """
    services = desired.services
    endpoints = {name: endpoints_of(service.endpoints) for name, service in services.items()}
    fragments: dict[str, list[str]] = {}
    for name, service in services.items():
        folder = catalogue[name].wire
        for path in _templates(folder):
            fragments.setdefault(path.name, []).append(render_file(path, service.values))
        for path in _templates(folder / "component"):
            if path.name == _OVERLAY and service.own:
                fragments.setdefault("oslo.conf", []).append(render_file(path, service.own.values))
    for choice in desired.components.values():
        _add_component(choice, services, catalogue, fragments)
        overlay = "".join(fragments.get(overlay_name(choice.name), ()))
        for section in choice.sections:
            if overlay.count(f"\n[{section}]\n") > 1:
                raise ConfigError(
                    f"cannot add section {section!r} for component {choice.name!r}: devenv writes one of that name",
                    hint="take it out of 'sections'",
                )
    files = {path: _joined(path, texts) for path, texts in fragments.items()}
    return {
        "env": _HEADER + as_dotenv(flat_map(services)),
        "endpoints.json": json.dumps(endpoints, indent=2) + "\n",
        **files,
        # For --config-dir, which reads every file of a folder: no other component's may lie there.
        **{f"{c}.conf.d/{c}.conf": text for c in desired.components if (text := files.get(overlay_name(c)))},
    }


def overlay_name(component: str) -> str:
    """The file for `--config-file`."""
    return _OVERLAY.replace("component", component)


def _add_component(
    choice: ComponentChoice,
    services: Mapping[str, DesiredService],
    catalogue: Mapping[str, ServiceDefinition],
    fragments: dict[str, list[str]],
) -> None:
    taken = {*fragments, "env", "endpoints.json"}
    for name, service in services.items():
        if choice.name not in service.components:
            continue
        values = service.components[choice.name].values
        for kind, more in _kinds(choice):
            for path in _templates(catalogue[name].wire / kind):
                file = path.name.replace("component", choice.name)
                if file in taken and file != path.name:
                    raise ConfigError(f"cannot name a component {choice.name!r}: {file} is another's", "rename it")
                fragments.setdefault(file, []).append(render_file(path, {**values, **more}))


def _kinds(choice: ComponentChoice) -> Iterator[tuple[str, dict[str, str]]]:
    """The folders of templates that a component makes use of, in their order, with the values of each use."""
    yield "component", {}
    if choice.catalog:
        yield "catalog", {}
    for section, kind in choice.sections.items():
        words = {"section.name": section, "section.type": kind}
        yield "section", words
        if kind:
            yield "typed-section", words


@cache
def _templates(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def _joined(path: str, texts: Sequence[str]) -> str:
    """One file of what several services say: JSON objects are merged, all else stands one below the other."""
    if not path.endswith(".json"):
        return _HEADER + "".join(texts)
    merged: dict[str, object] = {}
    for text in texts:
        try:
            merged |= json.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"cannot put {path} together: a template is no JSON object", f"mend it: {error}"
            ) from error
    return json.dumps(merged, indent=2) + "\n"


def folder_of(project: Path, name: str) -> Path:
    """Where the files of an environment go: right into .devenv/ for the default one, each other has its own."""
    top = project / FOLDER
    return top if name == "default" else top / "environments" / name


def write(project: Path, folder: Path, files: Mapping[str, str], before: Iterable[str]) -> list[Path]:
    """Make the folder hold these files and none of the others that were written `before`; returns what was written.

    Raises ConfigError, with nothing written, if it is not a folder of the project's own.
    """
    with _alone():
        for part in sorted({(folder / name).parent for name in files}):
            _make(project, part)
        changed = {folder / name: text.encode() for name, text in files.items() if _content(folder / name) != text}
        write_files(changed)
        _remove(folder, set(before) - set(files))
    return list(changed)


def remove(project: Path, folder: Path, files: Iterable[str]) -> None:
    """Take away what devenv wrote, and the folders if nothing else is in them."""
    if any(part.is_symlink() for part in _parts(project, folder)):
        return
    with _alone():
        _remove(folder, files)
        for part in reversed(_parts(project, folder)):
            ignored = part / ".gitignore"
            with suppress(OSError):
                if part.name == FOLDER and list(part.iterdir()) == [ignored]:
                    ignored.unlink()
                part.rmdir()


def _alone() -> AbstractContextManager[None]:
    """The environments of a project have locks of their own and .devenv/ together: one may not remove it as another
    writes there.
    """
    return held(state_folder() / "folders.lock", lambda _: None)


def known_files(catalogue: Mapping[str, ServiceDefinition]) -> set[str]:
    """The names of all files that devenv may write for an environment without components."""
    templates = {path.name for service in catalogue.values() for path in _templates(service.wire)}
    return templates | {"env", "endpoints.json", "oslo.conf"}


def check(project: Path, folder: Path) -> None:
    """Find out before the work whether the folder can be written, or made. Raises ConfigError if not."""
    _refuse_links(project, folder)
    nearest = next(part for part in (folder, *folder.parents) if part.exists())
    if not nearest.is_dir():
        raise ConfigError(f"cannot write to {nearest}: it is not a folder", hint="rename or remove it")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {nearest}: permission denied, or read-only", hint="allow writing there")


def _parts(project: Path, folder: Path) -> list[Path]:
    """The folder and those above it that are devenv's, the outermost first."""
    return [*(part for part in reversed(folder.parents) if part.is_relative_to(project / FOLDER)), folder]


def _refuse_links(project: Path, folder: Path) -> None:
    for part in _parts(project, folder):
        if part.is_symlink():
            raise ConfigError(
                f"cannot write to {part}: it is a symbolic link (to {part.readlink()})",
                hint="devenv writes secrets there, and only inside the project: remove the link",
            )


def _make(project: Path, folder: Path) -> None:
    _refuse_links(project, folder)
    for part in _parts(project, folder):
        try:
            part.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            reason = "it is not a folder" if part.exists() else error.strerror
            raise ConfigError(f"cannot create {part}: {reason}", hint="make room or allow writing there") from error
    ignored = project / FOLDER / ".gitignore"
    if not ignored.exists() or not ignored.stat().st_size:
        write_files({ignored: b"*\n"})


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files of ours, and what a killed devenv left of them. A folder of such a name is none of ours."""
    for path in map(folder.joinpath, names):
        # A record may have been changed, and a folder of ours be a link by now.
        if ".." in path.parts or not path.is_relative_to(folder) or way_out(path.parent, folder):
            continue
        for name in (path, beside(path)):
            if name.is_symlink() or not name.is_dir():
                with suppress(OSError):
                    name.unlink()
        if path.parent != folder:
            with suppress(OSError):
                path.parent.rmdir()


def _content(path: Path) -> str | None:
    """What the file holds now; None makes it be written, as does a mode that lets others read."""
    try:
        if path.is_symlink() or path.stat().st_mode & 0o077:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
