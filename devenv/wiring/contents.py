"""Tell programs about an environment: compute variables, and the content of the files under .devenv/. Pure.

`env` and `endpoints.json` come from the services' data. devenv puts every other file together from the templates of the
services (see `wired_files`), which stand in these folders of a service:

    wire/                 for the environment
    wire/own/             for an environment whose service devenv runs itself: about accounts that only that has
    wire/component/       for each component; its name replaces the word "component" in the file's name
    wire/catalog/         for each component in the service catalog
    wire/section/         for each section that a component lists
    wire/typed-section/   for each of those with the type of the other service
    wire/run/             more variables for `devenv run`
    wire/unset/           not templates: variables that a program must not read beside those that it gets
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from devenv.errors import ConfigError
from devenv.model import Catalogue, ComponentChoice, Desired, DesiredService, Provision
from devenv.spec.components import ACCOUNT, CITEST, endpoints_of
from devenv.spec.template import render_file
from devenv.wiring import pifpaf
from devenv.wiring.formats import as_dotenv, from_dotenv, unset
from devenv.wiring.pifpaf import Pifpaf

T = TypeVar("T")
# The variable that names oslo.db the servers for its tests.
ADMIN_CONNECTION = "OS_TEST_DBAPI_ADMIN_CONNECTION"
# The clouds of the environment, for openstacksdk.
CLOUDS = "clouds.yaml"
_OVERLAY = "component.conf"
_REPEATABLE = "# Repeatable"
_HEADER = "# Written by devenv; 'devenv up' replaces it.\n"


# ---- the flat map --------------------------------------------------------------------------------------------


def flat_map(views: Mapping[str, DesiredService | Provision]) -> dict[str, str]:
    """Return DEVENV_<SERVICE>_HOST, _PORT, _URL, the service's other outputs, and the names that clients know (OS_*).

    `views` are services as the administrator or as a component sees them, by name. The variables of a service's first
    endpoint have the service's name alone.
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
    """Return the flat map of one component, and its overlay as the variables that oslo.config reads by itself.

    It leaves out each section with a repeatable option: oslo.config would take each letter of that variable for a
    value. Templates mark these options with a comment.
    """
    # Other commands start faster without this import.
    from devenv.wiring import ini

    options = ini.options(overlay, f"{component}.conf")
    repeated = {section for (section, _), values in options.items() if len(values) > 1} | _marked(overlay)
    return flat_map(_parts(services, component)) | {
        f"OS_{section.upper()}__{option.upper()}": values[0]
        for (section, option), values in options.items()
        if section not in repeated
    }


def _parts(services: Mapping[str, DesiredService], component: str) -> dict[str, Provision]:
    """Return the component's part of each service, by the service's name."""
    return {
        name: service.components[component] for name, service in services.items() if component in service.components
    }


def _marked(overlay: str) -> set[str]:
    """Return the sections with an option that is marked as repeatable."""
    section, found = "", set()
    for line in overlay.splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        if line.startswith(_REPEATABLE):
            found.add(section)
    return found


def run_variables(
    desired: Desired,
    component: str,
    overlay: Path,
    catalogue: Catalogue,
    named: Sequence[str] = (),
    administrator: Pifpaf | None = None,
    citest: bool = False,
) -> tuple[dict[str, str], str]:
    """Return the variables of a program that runs as the component, and the overlay's text, which is in `overlay`.

    See `job_variables` for the others.
    """
    variables, text = job_variables(desired, component, catalogue, named, administrator, citest)
    return variables | {"DEVENV_OSLO_CONF": str(overlay)}, text


def job_variables(
    desired: Desired,
    component: str,
    catalogue: Catalogue,
    named: Sequence[str] = (),
    administrator: Pifpaf | None = None,
    citest: bool = False,
) -> tuple[dict[str, str], str]:
    """Return the variables of a program that finds none of devenv's files, and the overlay's text.

    See `conventional` for `named` and `administrator`. With the latter, or with `citest`, oslo.config reads none of the
    variables: they would win over what a test suite gives it.
    """
    # What the run names comes first, whatever else the component has a part of.
    roles = {desired.services[name].role: name for name in reversed(named) if name in desired.services}
    desired = replace(desired, roles={**desired.roles, **roles})
    services, texts = desired.services, wired_files(desired, catalogue)
    text = texts.get(overlay_name(component), "")
    for_suite = administrator is not None or citest
    known = flat_map(_parts(services, component)) if for_suite else component_map(services, component, text)
    others = conventional(services, component, texts, catalogue, named, administrator)
    return {"DEVENV_COMPONENT": component} | known | others, text


def conventional(
    services: Mapping[str, DesiredService],
    component: str,
    texts: Mapping[str, str],
    catalogue: Catalogue,
    named: Sequence[str] = (),
    administrator: Pifpaf | None = None,
) -> dict[str, str]:
    """Return the variables that programs know by other names: DATABASE_URL and the like, and those of pifpaf.

    pifpaf's URL and list of URLs are about the `named` services (all, if none is named). With `administrator`, pifpaf's
    variables are the administrator's, under the names that it says.
    """
    known = from_dotenv(texts.get(f"{component}.env", ""))
    named = list(dict.fromkeys(named)) or list(services)
    if administrator:
        own = {name: service.own for name, service in services.items() if service.own}
        return known | pifpaf.administrators(_for_runs(own, catalogue), named, administrator)
    return known | pifpaf.components(_for_runs(_parts(services, component), catalogue), named)


def _for_runs(views: Mapping[str, Provision], catalogue: Catalogue) -> dict[str, dict[str, str]]:
    """Return the values of each service's templates for runs."""
    return {
        name: from_dotenv("".join(render_file(path, view.values) for path in _templates(catalogue[name].wire / "run")))
        for name, view in views.items()
    }


def citest_variables(services: Mapping[str, DesiredService], before: str = "") -> dict[str, str]:
    """Return the variable by which oslo.db finds the databases for its tests.

    It keeps the URLs of this kind that it had `before`. Without SQLite at its end, tests that are for SQLite would run
    on the first of the databases.
    """
    urls = [service.components[CITEST].values["citest.url"] for service in services.values()]
    others = [url for url in before.split(";") if f"//{ACCOUNT}:" in url and url not in urls]
    return {ADMIN_CONNECTION: ";".join([*others, *urls, "sqlite://"])}


def replaced(variables: Collection[str], catalogue: Catalogue) -> list[str]:
    """Return what else programs read together with some of these variables.

    A program that gets OS_AUTH_URL from devenv and OS_CLOUD or OS_TOKEN from the caller would talk to another cloud.
    """
    families = [_unset(service.wire) for service in catalogue.values()]
    together = [names for names in families if any(name in variables for name in names)]
    return [name for names in together for name in names if name not in variables]


def inherited(environ: Mapping[str, str], variables: Mapping[str, str], replaced: Collection[str]) -> dict[str, str]:
    """Return all variables of a program that has `environ`, without those in `replaced`, and `variables`."""
    return {**{name: value for name, value in environ.items() if name not in replaced}, **variables}


# ---- the files -----------------------------------------------------------------------------------------------


def wired_files(desired: Desired, catalogue: Catalogue) -> dict[str, str]:
    """Return the content of every file of an environment, by its path below the folder.

    Raise ConfigError for a template that names an unknown value, and for a component that would share a file with
    another.
    """
    services = desired.services
    endpoints = {name: endpoints_of(service.endpoints) for name, service in services.items()}
    fragments: dict[str, list[str]] = {}
    for name, service in services.items():
        wire = catalogue[name].wire
        for path in [*_templates(wire), *([] if service.attached else _templates(wire / "own"))]:
            values = {**service.values, "unset": unset(_unset(catalogue[name].wire)).rstrip()}
            fragments.setdefault(path.name, []).append(render_file(path, values))
    for name, own in one_for_each_role({name: s.own for name, s in services.items() if s.own}, desired).items():
        for path in _templates(catalogue[name].wire / "component"):
            if path.name == _OVERLAY:
                fragments.setdefault("oslo.conf", []).append(render_file(path, own.values))
    for choice in desired.components.values():
        _add_component(choice, one_for_each_role(_parts(services, choice.name), desired), catalogue, fragments)
        overlay = "".join(fragments.get(overlay_name(choice.name), ()))
        for section in choice.sections:
            if overlay.count(f"\n[{section}]\n") > 1:
                raise ConfigError(
                    f"cannot add section {section!r} for component {choice.name!r}: devenv writes one of that name",
                    hint="remove it from 'sections' in devenv.yaml",
                )
    files = {path: _joined(path, texts) for path, texts in fragments.items()}
    return {
        "env": _HEADER + as_dotenv(flat_map(services)),
        "endpoints.json": json.dumps(endpoints, indent=2) + "\n",
        **files,
        # For --config-dir, which reads every file of a folder, so each component has its own folder.
        **{f"{c}.conf.d/{c}.conf": text for c in desired.components if (text := files.get(overlay_name(c)))},
    }


def overlay_name(component: str) -> str:
    """Return the name of the component's file for `--config-file`."""
    return _OVERLAY.replace("component", component)


def one_for_each_role(parts: Mapping[str, T], desired: Desired) -> dict[str, T]:
    """Return, of what somebody has of services, that of one service for each role: programs are configured for it.

    It is the one that fills the role, if it is among them, else the first.
    """
    roles = {name: desired.services[name].role for name in parts}
    first = {role: name for name, role in reversed(roles.items())}
    chosen = {role: filler if (filler := desired.roles.get(role, "")) in parts else first[role] for role in first}
    return {name: part for name, part in parts.items() if chosen[roles[name]] == name}


def _add_component(
    choice: ComponentChoice,
    parts: Mapping[str, Provision],
    catalogue: Catalogue,
    fragments: dict[str, list[str]],
) -> None:
    taken = {*fragments, "env", "endpoints.json"}
    for name, part in parts.items():
        values = part.values
        for kind, more in _kinds(choice):
            for path in _templates(catalogue[name].wire / kind):
                file = path.name.replace("component", choice.name)
                if file in taken and file != path.name:
                    raise ConfigError(
                        f"cannot name a component {choice.name!r}: devenv writes another {file}", "choose another name"
                    )
                fragments.setdefault(file, []).append(render_file(path, {**values, **more}))


def _kinds(choice: ComponentChoice) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the folders of templates that a component uses, in their order, with the values of each use."""
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


@cache
def _unset(wire: Path) -> list[str]:
    """Return the names in the files of the folder `unset`; a comment has a line of its own."""
    lines = [line for path in _templates(wire / "unset") for line in path.read_text("utf-8").splitlines()]
    return [name for line in lines if not line.startswith("#") for name in line.split()]


def _joined(path: str, texts: Sequence[str]) -> str:
    """Join what several services add to one file: merge JSON objects, quote variables where they need it.

    Put all else one below the other.
    """
    if path.endswith(".env"):
        return _HEADER + as_dotenv(from_dotenv("".join(texts)))
    if not path.endswith(".json"):
        return _HEADER + "".join(texts)
    merged: dict[str, object] = {}
    for text in texts:
        try:
            merged |= json.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"cannot create {path}: a template is no JSON object ({error})", "correct the template"
            ) from error
    return json.dumps(merged, indent=2) + "\n"


def known_files(catalogue: Catalogue) -> set[str]:
    """Return the names of all files that devenv can write for an environment without components."""
    templates = {path.name for service in catalogue.values() for path in _templates(service.wire)}
    return templates | {"env", "endpoints.json", "oslo.conf"}
