"""Read which services to run, with which settings: the shipped profiles and a project's devenv.yaml."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voluptuous import All, Any as Either, Invalid, Length, Match, MultipleInvalid, Optional, Range, Required, Schema

from devenv.errors import ConfigError
from devenv.model import ComponentChoice, Profile, ProjectFile, ServiceChoice
from devenv.names import (
    COMPONENT,
    COMPONENT_RULE,
    IMAGE,
    NAME,
    NAME_RULE,
    REGISTRY,
    REGISTRY_RULE,
    hint_for,
    identifier,
)
from devenv.spec import strict_yaml
from devenv.spec.attach import ATTACH, PASSWORD, SOURCE, USER, VARIABLE, filled, foreign, from_variables
from devenv.spec.catalogue import data_folder
from devenv.store.files import of_another, open_to_others

PROJECT_FILE = "devenv.yaml"
WIRED_FOLDER = ".devenv"
DEFAULT_PROFILE = "base"
# A name to have this tool's file beside that of another.
_OTHER_NAME = "openstack-devenv.yaml"
# The keys at the top of a devenv.yaml of devenv.sh (cachix/devenv), which uses Nix; devenv itself knows none of them.
_FOREIGN = re.compile(
    r"^(inputs|imports|nixpkgs|allow_?(?:unfree|broken|unsupported_?system)|permitted_?(?:insecure|unfree)_?packages"
    r"|impure|clean|backend|strict_?ports|secretspec)\s*:",
    flags=re.MULTILINE | re.IGNORECASE,
)
# The line of a file that has hosts share an environment: commands that do not read the file look for it, too.
_SHARED = re.compile(rb"^shared:[ \t]+(['\"]?)([a-z][a-z0-9-]{0,30})\1[ \t]*(?:#.*)?\r?$", re.MULTILINE)

# The settings of an attached service. What else a service may have goes with none of them.
_URLS, _LOGIN = (ATTACH, "management"), (USER, PASSWORD)
_NAME = All(strict_yaml.text, Match(NAME, msg=f"expected a name: {NAME_RULE}"))
_IMAGE = Match(IMAGE, msg="expected an image such as mysql:8.4")


def _switch(value: Any) -> bool:
    """Accept a switch of a service. Only the service itself knows the names."""
    value = strict_yaml.switched(value)
    if not isinstance(value, bool):
        raise Invalid(f"{strict_yaml.UNKNOWN}, or a switch of the service, which is true or false")
    return value


_SETTINGS = {
    Optional("image"): All(str, _IMAGE),
    Optional("ports"): {str: All(strict_yaml.integer, Range(min=1, max=65535, msg="expected a port from 1 to 65535"))},
    # Only the service itself knows their names.
    Optional("plugins"): strict_yaml.each_once(str),
    # A server that somebody else runs, and its administrator.
    **{Optional(key): All(str, Length(min=1)) for key in (*_URLS, *_LOGIN)},
    Optional(str): _switch,
}


def _text_like(pattern: str, expected: str) -> Callable[[Any], str]:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if not isinstance(value, str) or not compiled.match(value):
            raise Invalid(expected)
        return str(value)

    return check


_WORD = _text_like(r"[a-z][a-z0-9_]*\Z", "expected lower-case letters, digits and _")
_TYPE = _text_like(r"[a-z][a-z0-9-]*\Z", "expected a type such as compute: lower-case letters, digits, -")
_URL = Match(
    re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[\w.\-/%()$~]*)?\Z"),
    msg="expected a URL such as http://127.0.0.1:8774/v2.1",
)


def _path(value: Any) -> str:
    """Accept a file of the project's own."""
    path = Path(value) if isinstance(value, str) and value and "\0" not in value else None
    if path is None or path.is_absolute() or ".." in path.parts:
        raise Invalid("expected a path inside the project, from its top folder on")
    return str(path)


def _sections(value: Any) -> dict[str, str]:
    """Accept a list of sections, or a mapping from sections to the types of the services that they are about."""
    if isinstance(value, list):
        return dict.fromkeys(strict_yaml.each_once(_WORD)(value), "")
    if not isinstance(value, dict):
        raise Invalid("expected a list of sections, or a mapping from sections to types")
    Schema([_WORD])(list(value))
    return dict(Schema(dict.fromkeys(value, _TYPE))(value))


_COMPONENT = {
    Optional("wire"): strict_yaml.each_once(_path),
    Optional("roles"): strict_yaml.each_once(_text_like(r"[A-Za-z][\w-]*\Z", "expected a role's name")),
    Optional("catalog"): {Required("type"): _TYPE, Required("url"): All(str, _URL), Optional("name"): _TYPE},
    Optional("sections"): _sections,
}


@dataclass(frozen=True)
class _Named:
    """A check of a mapping whose keys are names; `inside` is the schema under a name, for suggestions."""

    check: Callable[[Any], Any]
    inside: Mapping[Any, Any]

    def __call__(self, value: Any) -> Any:
        return self.check(value)


def _components(value: Any) -> dict[str, Any]:
    """Accept a list of names, or a mapping from names to settings."""
    if value is None or isinstance(value, list):
        value = dict.fromkeys(strict_yaml.each_once(strict_yaml.text)(value or []))
    if not isinstance(value, dict):
        raise Invalid("expected a list of components, or a mapping from components to settings")
    rule = f"expected a component's name: {COMPONENT_RULE}"
    if wrong := [Invalid(rule, path=[name]) for name in value if not COMPONENT.match(name)]:
        raise MultipleInvalid(wrong)
    if same := [Invalid(f"{other!r} has the same database", path=[name]) for other, name in _same_database(value)]:
        raise MultipleInvalid(same)
    filled = {name: {} if settings is None else settings for name, settings in value.items()}
    checked = dict(Schema(dict.fromkeys(filled, _COMPONENT))(filled))
    files: dict[str, str] = {}
    for name, settings in checked.items():
        for file in settings.get("wire", ()):
            if files.setdefault(file, name) != name:
                raise Invalid(f"{file} is wired for {files[file]!r} already", path=[name, "wire"])
    return checked


def _same_database(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of names that would share a database."""
    first: dict[str, str] = {}
    return [(first[i], n) for n in names if first.setdefault(i := identifier(n), n) != n]


def _services(value: Any) -> dict[str, Any]:
    """Accept a list of names, or a mapping from names to settings; `false` leaves a service out."""
    if isinstance(value, list):
        value = dict.fromkeys(strict_yaml.each_once(_NAME)(value))
    if not isinstance(value, dict):
        raise Invalid("expected a list of services, or a mapping from services to settings")
    value = {name: strict_yaml.switched(settings) for name, settings in value.items()}
    # One schema per service: an `Any` over its settings would blame the service, not the one wrong key.
    simple = Either(None, False)
    schema = {name: simple if settings in (None, False) else _SETTINGS for name, settings in value.items()}
    wrong = [Invalid(f"expected a name: {NAME_RULE}", path=[name]) for name in value if not NAME.match(name)]
    if wrong:
        raise MultipleInvalid(wrong)
    checked = dict(Schema(schema)(value))
    if wrong := [invalid for name, settings in checked.items() for invalid in _contradicting(name, settings or {})]:
        raise MultipleInvalid(wrong)
    return checked


def _contradicting(name: str, settings: Mapping[str, Any]) -> Iterator[Invalid]:
    """Yield what does not go together: somebody else decides all about an attached service but its login."""
    for key in settings:
        if ATTACH in settings and key not in (*_URLS, *_LOGIN):
            yield Invalid("somebody else runs an attached service: devenv cannot change it", path=[name, key])
        if ATTACH not in settings and key in (*_URLS, *_LOGIN):
            yield Invalid("expected 'attach' beside it", path=[name, key])


# The keys that choose the service of a role.
_ROLES = ("database",)
_COMMON = {
    Optional("description"): strict_yaml.text,
    **{Optional(role): _NAME for role in _ROLES},
    Optional("services"): _Named(_services, {str: _SETTINGS}),
    Optional("durable"): strict_yaml.flag,
    Optional("citest"): strict_yaml.flag,
}
# The name of an object in a cluster.
_OBJECT = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z"
# The kinds of engines. Which cluster that is, only the user says: the file comes with a clone.
_ENGINE = Either("docker", "kubernetes", msg="expected docker or kubernetes")
# A profile extends another one, a project picks one.
_FILES = {
    "extends": Schema({**_COMMON, Optional("extends"): _NAME}),
    "profile": Schema(
        {
            **_COMMON,
            Optional("profile"): _NAME,
            Optional("engine"): _ENGINE,
            Optional("shared"): _NAME,
            Optional("image_registry"): _text_like(REGISTRY.pattern, f"expected {REGISTRY_RULE}"),
            Optional("image_pull_secrets"): strict_yaml.each_once(_text_like(_OBJECT, "expected names of Secrets")),
            Optional("components"): _Named(_components, {str: _COMPONENT}),
        }
    ),
}


@dataclass(frozen=True)
class _Layer:
    """The content of one file: the profile that it extends, and the services that it adds, changes or leaves out."""

    source: str
    extends: str
    services: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    components: Mapping[str, Any] = field(default_factory=dict)
    durable: bool | None = None
    citest: bool | None = None
    digest: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    engine: str = ""
    shared: str = ""
    image_registry: str = ""
    image_pull_secrets: tuple[str, ...] = ()

    @property
    def images(self) -> dict[str, str]:
        """Return the images that it names, by service."""
        return {name: settings["image"] for name, settings in self.services.items() if settings and "image" in settings}


def existing_folder(path: Path) -> Path:
    """Return the folder's real path. Raise ConfigError if it does not exist, even if it is the working directory."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # Python before 3.13 raises RuntimeError for a link to itself.
        real = None
    if real is None or not real.is_dir():
        raise ConfigError(f"cannot use {path}: no such folder", hint="name an existing folder, or change to one")
    return real


def project_file(named: str = "") -> str:
    """Return the path, from a project's folder on, of the file that describes it: as named, or by DEVENV_FILE.

    It is devenv.yaml if nobody names another one. Raise ConfigError for a relative path with "..".
    """
    name = named or os.environ.get("DEVENV_FILE") or PROJECT_FILE
    if ".." in Path(name).parts and not Path(name).is_absolute():
        raise ConfigError(
            f"cannot use {name}: a relative path of --file or DEVENV_FILE stays inside the project",
            hint="name the file from the project's folder on, or by all of its path",
        )
    return name


def shared_name(project: Path, file: str = "") -> str:
    """Return the name under which the project's own file has hosts share the environment; empty if it has none.

    The name says which environment it is, also to commands that read nothing else of the file: an error in it, which
    `load_profile` reports, must not hide it.
    """
    try:
        raw = (project / project_file(file)).read_bytes()
    except OSError:
        return ""
    return _shared_in(raw)


def _shared_in(raw: bytes) -> str:
    found = _SHARED.search(raw)
    return found[2].decode() if found else ""


def find_project(start: Path, file: str = "", wired: bool = True) -> Path:
    """Return the nearest folder, upwards from `start`, that holds a devenv.yaml or a .devenv/; else `start` itself.

    If the caller or DEVENV_FILE names another file, return the nearest folder that holds this one; an absolute path
    describes any folder. Raise ConfigError if no folder does, or if these belong to another user: every user can write
    to /tmp, which may be above this folder. Unless devenv writes to a `wired` .devenv/, its owner does not matter.
    """
    start, name = start.resolve(), Path(project_file(file))
    found = _nearest(start, name)
    if found is None and name != Path(PROJECT_FILE):
        raise ConfigError(
            f"cannot find {name}: neither {start} nor a folder above it has such a file",
            hint="--file and DEVENV_FILE name a file from the project's folder on, or by all of its path",
        )
    if found:
        _refuse_others(found, found / name, found / WIRED_FOLDER if wired else None)
    return found or start


def _nearest(start: Path, name: Path) -> Path | None:
    """Return the nearest folder that is a project, or None."""
    if name.is_absolute() and not name.is_file():
        return None
    marks = [PROJECT_FILE, WIRED_FOLDER] if name.is_absolute() or name == Path(PROJECT_FILE) else [str(name)]
    for folder in (start, *start.parents):
        if any((folder / mark).is_dir() if mark == WIRED_FOLDER else (folder / mark).is_file() for mark in marks):
            return folder
    return start if name.is_absolute() else None


def _refuse_others(folder: Path, file: Path, wired: Path | None) -> None:
    reasons = {file: of_another(file), wired: open_to_others(wired) if wired else "", folder: of_another(folder)}
    for path, reason in reasons.items():
        if reason:
            first = f"'chmod go-w {path}' if it is yours, else " if path == wired else ""
            raise ConfigError(f"cannot use {path}: {reason}", f"{first}run 'devenv init' in a folder of your own")


def shipped_profiles() -> dict[str, Path]:
    """Return the profiles that devenv brings, by name."""
    return {path.stem: path for path in sorted(data_folder("profiles").glob("*.yaml"))}


def load_profile(
    project: Path,
    name: str = "",
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    file: str = "",
) -> Profile:
    """Return the profile that `name` or the project's devenv.yaml picks, with the project's own settings on top.

    `settings` of services, in the form of `services:` in a devenv.yaml, override all. The caller or DEVENV_FILE may
    name another `file` than devenv.yaml.

    Raise ConfigError for an unknown or circular profile and for every error in the files.
    """
    profiles = shipped_profiles() if folder is None else {p.stem: p for p in sorted(folder.glob("*.yaml"))}
    own = _own_layer(project, project_file(file))
    layers = [own] if own else []
    picked = name or (own.extends if own else "") or DEFAULT_PROFILE
    layers += _chain(picked, profiles, layers[0].source if layers and not name else "--profile")
    services: dict[str, ServiceChoice] = {}
    left_out: set[str] = set()
    for layer in reversed(layers):
        _apply(layer, services, left_out)
    called = _Layer(f"{VARIABLE}*", "", from_variables(os.environ))
    asked = _Layer("settings", "", _checked_settings(settings or {}))
    for layer in (called, asked):
        _apply(layer, services, left_out)
    return Profile(
        name=picked,
        services=services,
        left_out=frozenset(left_out),
        named=frozenset(services) & {*(own.services if own else ()), *called.services, *asked.services},
        roles={role: name for layer in reversed(layers) for role, name in layer.roles.items()},
        source=layers[0].source,
        description=next((layer.description for layer in layers if layer.description), ""),
        components={name: _component(name, settings) for name, settings in layers[0].components.items()},
        durable=next((layer.durable for layer in layers if layer.durable is not None), False),
        citest=next((layer.citest for layer in layers if layer.citest is not None), False),
        file=_trusted_file(own, services, called, asked) if own else None,
        engine=layers[0].engine,
        image_registry=layers[0].image_registry,
        image_pull_secrets=layers[0].image_pull_secrets,
    )


def _trusted_file(own: _Layer, services: Mapping[str, ServiceChoice], called: _Layer, asked: _Layer) -> ProjectFile:
    """Return the project's own file with what devenv uses of it: the caller may have asked for other images or URLs."""
    images = {name: image for name, image in own.images.items() if name in services and name not in asked.images}
    images = {name: image for name, image in images.items() if not services[name].attach}
    addresses = {}
    for name, settings in own.services.items():
        others = {**called.services.get(name, {}), **(asked.services.get(name) or {})}
        used = {key: url for key, url in _attach_settings(settings or {}).items() if key not in others}
        if name in services and services[name].attach and (found := foreign(used)):
            addresses[name] = found
    elsewhere = own.engine if own.engine != "docker" else ""
    path = Path(own.source).resolve()
    return ProjectFile(path, own.digest, images, elsewhere, addresses, own.image_registry, own.shared)


def _attach_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: settings[key] for key in (*_URLS, *_LOGIN) if key in settings}


def _checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _services(dict(settings))
    except Invalid as error:
        raise ConfigError(
            f"cannot use these settings of services: {error}", "write them as under 'services:' in a devenv.yaml"
        ) from None


def _own_layer(project: Path, file: str) -> _Layer | None:
    """Read the project's own file, if there is one.

    Raise ConfigError for every error in it; it says so if a devenv.yaml looks like that of another tool.
    """
    path = project / file
    if not path.exists() and path.name == PROJECT_FILE and (other := path.with_suffix(".yml")).exists():
        raise ConfigError(f"cannot use {other}: the file's name is {PROJECT_FILE}", hint="rename it")
    if not path.is_file():
        return None
    raw = strict_yaml.content(path)
    try:
        layer = _layer(path, "profile", raw)
    except ConfigError as error:
        found = _FOREIGN.search(raw.decode("utf-8", "replace"))
        # A file that the user has named is not there for another tool.
        if not found or file != PROJECT_FILE:
            raise
        raise ConfigError(
            f"cannot use {path}: with {found[1]!r} it looks like a file of devenv.sh, which is another tool",
            hint=f"give this devenv a file of another name: 'devenv --file {_OTHER_NAME} init', or DEVENV_FILE",
            detail=error.detail or [error.message],
        ) from error
    if layer.shared != _shared_in(raw):
        raise ConfigError(f"cannot use 'shared' of {path}: it is not in a line of its own", "write 'shared: NAME'")
    return layer


def _layer(path: Path, key: str, raw: bytes | None = None) -> _Layer:
    raw = strict_yaml.content(path) if raw is None else raw
    data = strict_yaml.read(path, _FILES[key], raw=raw)
    return _Layer(
        source=str(path),
        extends=data.get(key, ""),
        services=data.get("services", {}),
        description=data.get("description", ""),
        components=data.get("components", {}),
        durable=data.get("durable"),
        citest=data.get("citest"),
        roles={role: data[role] for role in _ROLES if role in data},
        digest=hashlib.sha256(raw).hexdigest(),
        engine=data.get("engine", ""),
        shared=data.get("shared", ""),
        image_registry=data.get("image_registry", ""),
        image_pull_secrets=tuple(data.get("image_pull_secrets", ())),
    )


def _component(name: str, settings: Mapping[str, Any]) -> ComponentChoice:
    catalog = settings.get("catalog", {})
    return ComponentChoice(
        name=name,
        wire=tuple(settings.get("wire", ())),
        roles=tuple(settings.get("roles", ())),
        catalog={"name": name, **catalog} if catalog else {},
        sections=settings.get("sections", {}),
    )


def _chain(name: str, profiles: Mapping[str, Path], asked_by: str) -> list[_Layer]:
    """Return the profile and all that it extends, the most specific first."""
    layers: list[_Layer] = []
    seen: list[str] = []
    while name:
        if name in seen:
            raise ConfigError(
                f"cannot use profile {name!r}: it extends itself ({' -> '.join([*seen, name])})",
                hint=f"correct 'extends' in {profiles[name]}",
            )
        if name not in profiles:
            raise ConfigError(
                f"cannot find profile {name!r} (from {asked_by})", hint=hint_for(name, profiles, "devenv has")
            )
        seen.append(name)
        layers.append(_layer(profiles[name], "extends"))
        asked_by, name = str(profiles[name]), layers[-1].extends
    return layers


def _apply(layer: _Layer, services: dict[str, ServiceChoice], left_out: set[str]) -> None:
    for service, settings in layer.services.items():
        if settings is False:
            services.pop(service, None)
            left_out.add(service)
            continue
        left_out.discard(service)
        before = services.get(service, ServiceChoice())
        settings = settings or {}
        switches = {key: value for key, value in settings.items() if isinstance(value, bool)}
        attach = filled(_attach_settings(settings), os.environ, f"{service} (in {layer.source})")
        services[service] = ServiceChoice(
            image=settings.get("image", before.image),
            ports={**before.ports, **settings.get("ports", {})},
            switches={**before.switches, **switches},
            plugins=settings.get("plugins", before.plugins),
            attach={**before.attach, **attach, SOURCE: layer.source} if attach else before.attach,
        )


TEMPLATE = """\
# `devenv up` starts these services for this project. Every line is optional.

# One of: {profiles}.
profile: base

# Add services to the profile, or change them; `false` leaves a service out.
# services:
#   mysql:
#     image: mysql:8.4        # any MySQL image, once you have run `devenv trust`; by default devenv builds one
#     ports: {{sql: 3307}}      # a fixed port on 127.0.0.1; by default devenv chooses one
#   etcd: false
#   rabbitmq:                 # a server that somebody else runs
#     attach: "rabbit://USER:PASSWORD@127.0.0.1:5672/"

# Another database for all that needs one: mariadb or postgresql.
# database: postgresql

# Give `devenv run` and `devenv ci` the account openstack_citest of OpenStack's own test suites.
# citest: true

# Run the services in the cluster of your kubeconfig instead of on a local engine.
# engine: kubernetes
# Share the environment of this name there with other hosts.
# shared: team

# Where pods and exports get devenv's images; `devenv images push` puts them there.
# image_registry: registry.example.org/team
# The Secrets of the namespace that hold a login for it, if its default service account has none.
# image_pull_secrets: [registry-login]

# Switch unsafe but fast settings off: the data survives a power cut.
# durable: true

# Give each component a database, a vhost, a key prefix and a service user, and write them to .devenv/NAME.conf.
# components:
#   my-service:
#     wire: [etc/my-service.conf]   # merge its options into this file of the project, too
#     catalog: {{type: my-type, url: "http://127.0.0.1:8080"}}   # list it in the service catalog
#     sections: {{neutron: network}}  # how it reaches others: [neutron] with all of its credentials
"""


def project_file_text() -> str:
    """Return a commented devenv.yaml to begin with."""
    return TEMPLATE.format(profiles=", ".join(shipped_profiles()))
