"""Export the environment in other tools' formats, from templates under compose/export/: a file or folder per tool.

A template can use `${services}` and `${addresses}`, which are the filled-in templates `export/TOOL` and `export/attach`
of the services. `${attached}` is what a job tells `devenv ci` about these. There are also `${project}`, `${names}` and
`${left_out}`. `${install}` is what pip installs for devenv and the project. A name alone on a line gives its
indentation to all lines of its value.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent

from devenv.errors import ConfigError
from devenv.model import Catalogue, Desired, Image, Profile
from devenv.names import hint_for
from devenv.spec.catalogue import data_folder
from devenv.spec.desired import Inputs, resolve, secret_names, select
from devenv.spec.ports import usual_ports
from devenv.spec.template import render, render_file
from devenv.store.files import check_place, way_out, write_files
from devenv.wiring import contents
from devenv.wiring.compose import compose_file
from devenv.wiring.kubernetes import manifests
from devenv.wiring.packages import Packages

COMPOSE = "compose"
KUBERNETES = "kubernetes"
# The tools that run the services themselves, with this environment's passwords.
WHOLE = (COMPOSE, KUBERNETES)
# This export describes what runs now; all others describe what devenv would create.
PRESENT = "devstack"
# Its jobs run in a container beside the services.
_INSIDE = "gitlab"
# The variables that tell devenv where a job's services are.
_ADDRESSES = "attach"
# The tools whose files hold passwords of this environment.
SECRET = (*WHOLE, PRESENT)
# These services live as long as a job, and everybody can read the file. CIs blank a password wherever a log has it, so
# it is no word that logs need.
_PASSWORD = "no-secret"  # noqa: S105
_ALONE = re.compile(r"^( *)\$\{([a-z_]+)\}$", re.MULTILINE)


def tools() -> list[str]:
    """Return the tools that devenv exports for."""
    return sorted(path.name for path in _folder().glob("*"))


def check_tool(tool: str, install: str = "") -> None:
    """Raise ConfigError for a tool that devenv does not know, and if it is to install devenv and cannot."""
    if tool not in tools():
        raise ConfigError(f"cannot export for {tool!r}", hint_for(tool, tools(), "devenv exports for"))
    if install and tool in SECRET:
        raise ConfigError(f"cannot export for {tool} with --install: it installs no devenv", "leave --install out")


def whole(tool: str, desired: Desired, catalogue: Catalogue) -> dict[str, str]:
    """Return the file for a tool that runs the services itself."""
    written = {COMPOSE: compose_file, KUBERNETES: manifests}[tool](desired, catalogue)
    return {"": _text(_folder() / tool, {"environment": desired.environment}) + written}


def exported(desired: Desired, catalogue: Catalogue) -> dict[str, str]:
    """Return the files for a tool that uses the services as the administrator."""
    values = {name: service.values for name, service in contents.one_for_each_role(desired.services, desired).items()}
    return _filled(PRESENT, {"services": _fragments(PRESENT, values, catalogue)})


def for_jobs(
    tool: str,
    project: str,
    component: str,
    profile: Profile,
    catalogue: Catalogue,
    images: Mapping[str, Image],
    packages: Packages,
) -> dict[str, str]:
    """Return the files for a CI: a job with devenv's own services, and one that attaches to services beside it.

    Nothing in them is this environment's own: everybody can read these files.
    """
    desired = _resolved(tool, profile, catalogue, images)
    told = {
        name: {**service.values, "official": _official(name, catalogue, images), "password": _PASSWORD}
        for name, service in desired.services.items()
        if (catalogue[name].wire / "export" / tool).is_file()
    }
    if tool != _INSIDE:
        _check_apart(tool, usual_ports(told, catalogue))
    words = {
        "project": project,
        "names": ", ".join(desired.services),
        "install": packages.with_devenv({catalogue[name].extra for name in desired.services} - {""}),
        "left_out": ", ".join(name for name in desired.services if name not in told) or "none",
        "attached": shlex.join([*told, *_component(component, profile)]),
        "services": _fragments(tool, told, catalogue) or "{}",
        "addresses": _fragments(_ADDRESSES, told, catalogue) or "{}",
    }
    return _filled(tool, words)


def write(tool: str, files: Mapping[str, str], output: Path, project: Path) -> list[Path]:
    """Write an export to a file or, if it has several, below a folder. Only the owner can read files with passwords.

    Raise ConfigError if that fails, or if a link leads out of the project or the folder.
    """
    paths = {output / name if name else output: text.encode() for name, text in files.items()}
    for path in (output, *paths):
        if reason := way_out(path, project) or way_out(path, output, "the folder"):
            raise ConfigError(f"cannot write {path}: {reason}", "remove the link, or name another place")
    for path in paths:
        try:
            if path != output:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create {path.parent}: {error.strerror}", "name a folder") from error
        check_place(path, project)
    write_files(paths, mode=0o600 if tool in SECRET else 0o644)
    return list(paths)


def as_text(files: Mapping[str, str]) -> str:
    """Return all files one after the other, as a stream of YAML documents if there are several."""
    if list(files) == [""]:
        return files[""]
    return "".join(f"---\n# {name}\n{text}" for name, text in files.items())


# ---- services on a CI --------------------------------------------------------------------------------------------


def _resolved(tool: str, profile: Profile, catalogue: Catalogue, images: Mapping[str, Image]) -> Desired:
    names = select(profile, catalogue)
    ports = usual_ports(names, catalogue)
    secrets = dict.fromkeys(secret_names(names, profile, catalogue), _PASSWORD)
    return resolve(names, Inputs("ci", profile, catalogue, images, ports, secrets, inside=tool == _INSIDE))


def _check_apart(tool: str, ports: Mapping[str, int]) -> None:
    """Raise ConfigError if a job would publish two endpoints on one port of its machine."""
    first: dict[int, str] = {}
    for key, port in ports.items():
        if (other := first.setdefault(port, key)) != key:
            both = " and ".join(name.partition("/")[0] for name in (other, key))
            raise ConfigError(
                f"cannot export for {tool}: {both} would both have port {port}",
                "leave one of them out in devenv.yaml, or use 'devenv ci' in the job",
            )


def _official(name: str, catalogue: Catalogue, images: Mapping[str, Image]) -> str:
    """Return the public image that a CI runs. A CI runs an image of the project's own choice, too."""
    return images[name].reference if images[name].how == "pull" else catalogue[name].official


def _component(component: str, profile: Profile) -> list[str]:
    """Return the option that gives the tests this component, else the first of devenv.yaml, else one of their own."""
    if component and component not in profile.components:
        hint = f"{hint_for(component, profile.components, 'devenv.yaml has')}; add others there"
        raise ConfigError(f"cannot find component {component!r} in devenv.yaml", hint)
    component = component or next(iter(profile.components), "")
    return ["--component", component] if component else []


# ---- templates ---------------------------------------------------------------------------------------------------


def _folder() -> Path:
    return data_folder("compose") / "export"


def _fragments(tool: str, values: Mapping[str, Mapping[str, str]], catalogue: Catalogue) -> str:
    paths = {name: catalogue[name].wire / "export" / tool for name in values}
    return "".join(render_file(path, values[name]) for name, path in paths.items() if path.is_file()).rstrip("\n")


def _filled(tool: str, words: Mapping[str, str]) -> dict[str, str]:
    """Return a tool's files, filled in, by name; the name is empty if there is only one."""
    top = _folder() / tool
    if top.is_file():
        return {"": _text(top, words)}
    paths = sorted(path for path in top.rglob("*") if path.is_file())
    return {path.relative_to(top).as_posix(): _text(path, words) for path in paths}


def _text(path: Path, words: Mapping[str, str]) -> str:
    def alone(match: re.Match[str]) -> str:
        return indent(words.get(match[2], match[0]).replace("${", "$${"), match[1])

    return render(_ALONE.sub(alone, path.read_text(encoding="utf-8")), words, str(path))
