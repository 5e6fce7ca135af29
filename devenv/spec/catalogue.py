"""Read and check the services that devenv has: one folder each under compose/.

A service is a Compose file with one service in it. The supported subset of Compose's keys is `_CONTAINER` below;
settings that Compose does not know stand under `x-devenv`, as `_DEVENV` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from voluptuous import All, Any as Either, Equal, Invalid, Length, Match, Optional, Range, Required, Schema

from devenv.errors import ConfigError
from devenv.model import (
    HEALTHY,
    STARTED,
    Attachment,
    Client,
    ComponentDefinition,
    ConfigFile,
    ContainerOptions,
    EndpointDefinition,
    Requirement,
    ServiceDefinition,
)
from devenv.names import IMAGE, NAME, NAME_RULE, hint_for, near_ones
from devenv.spec import strict_yaml
from devenv.spec.attach import SOURCE, attachment, laid_over

_DURATION = re.compile(r"(?:(\d+)m)?(?:(\d+)s)?\Z")
_SIZE = re.compile(r"(\d+)([kmg]?)b?\Z", re.IGNORECASE)
_ROOT = re.compile(r"(root|0+)?(:|\Z)")
_PORT = re.compile(r"127\.0\.0\.1::(\d+)\Z")
_VOLUME = re.compile(r"([a-z][a-z0-9-]*):(/[^:]+)\Z")
_TARGET = re.compile(r"/etc/devenv/[\w.-]+\Z")
# A key, and what is wrong with it.
_Problem = tuple[strict_yaml.Key, str]
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def data_folder(name: str) -> Path:
    """Return `compose/`, `profiles/` or `docs/`: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def load_catalogue(
    folder: Path | None = None,
    switches: Mapping[str, Mapping[str, bool]] | None = None,
    asked_by: str = "",
    everywhere: Mapping[str, bool] | None = None,
    plugins: Mapping[str, Sequence[str]] | None = None,
    attached: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, ServiceDefinition]:
    """Return every service under `folder` (the shipped ones by default) by name, with the switches on that are true.

    `switches` and more `plugins` are by service; the switches of `everywhere` hold for each service that has one of
    that name, unless `switches` says otherwise. `attached` has the settings of services that somebody else runs; no
    switch and no plugin changes these. Raise
    ConfigError with all errors of all files, and for a switch, a plugin or a URL that a service cannot have (`asked_by`
    is the file to blame).
    """
    folder = folder or data_folder("compose")
    services: dict[str, ServiceDefinition] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*/compose.yaml")):
        try:
            data = _read(path)
        except ConfigError as error:
            problems += error.detail or (error.message,)
        else:
            name = path.parent.name
            known = data["x-devenv"].get("switches", {})
            common = {switch: on for switch, on in (everywhere or {}).items() if switch in known}
            chosen, settings = (switches or {}).get(name, {}), (attached or {}).get(name, {})
            if not settings:
                data = _switched(name, data, {**common, **chosen}, asked_by)
                data = _with_plugins(name, data, (plugins or {}).get(name, ()), asked_by)
            data, found = _attached(name, data, settings, chosen, asked_by)
            services[name] = replace(_definition(name, data, path), attachment=found)
    if problems:
        raise ConfigError(
            f"cannot use the services in {folder}: {len(problems)} error{'s' if len(problems) > 1 else ''}",
            hint="'devenv help reference' lists the keys",
            detail=problems,
        )
    return services


def load_service(path: Path) -> ServiceDefinition:
    """Read one service's Compose file. Raise ConfigError with every error in it."""
    return _definition(path.parent.name, _read(path), path)


def _read(path: Path) -> dict[str, Any]:
    return strict_yaml.read(path, _FILE, partial(_contradictions, path.parent.name, path.parent))


def _switched(name: str, data: dict[str, Any], switches: Mapping[str, bool], asked_by: str) -> dict[str, Any]:
    known = data["x-devenv"].get("switches", {})
    for switch, on in switches.items():
        if switch not in known:
            cannot = f"cannot switch {switch!r} of {name} (in {asked_by}): it has no such switch"
            raise ConfigError(cannot, hint=hint_for(switch, known, "it has"))
        if on:
            data = {**data, "x-devenv": _laid_over(data["x-devenv"], known[switch])}
    return data


def _with_plugins(name: str, data: dict[str, Any], plugins: Sequence[str], asked_by: str) -> dict[str, Any]:
    """Return the data with the plugins laid over it. The setting `plugins` lists them behind those that it has."""
    known = data["x-devenv"].get("plugins", {})
    for plugin in plugins:
        if plugin not in known:
            near = near_ones(plugin, known)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            cannot = f"cannot find {plugin!r} among the plugins of {name} (in {asked_by})"
            raise ConfigError(cannot, hint=f"{meant}'devenv help reference' lists all")
        listed = f"{data['x-devenv']['settings']['plugins']},{plugin}"
        for part in (known[plugin], {"settings": {"plugins": listed}}):
            data = {**data, "x-devenv": _laid_over(data["x-devenv"], part)}
    return data


def _attached(
    name: str, data: dict[str, Any], settings: Mapping[str, str], switches: Mapping[str, bool], asked_by: str
) -> tuple[dict[str, Any], Attachment | None]:
    """Return the data of a service that somebody else runs: without a container and its files, and where it is.

    Its own settings hold there, not the `switches`, but for one that comes true by a login: raise ConfigError without.
    """
    if not settings:
        return data, None
    if (rules := data["x-devenv"].get("attach")) is None:
        raise ConfigError(f"cannot attach {name}: its compose.yaml does not say how", "remove 'attach'")
    found = attachment(name, rules, settings)
    for switch in rules.get("by_login", ()) if not found.words["attach.user"] else ():
        if switches.get(switch):
            raise ConfigError(
                f"cannot have {switch!r} of {name} (in {asked_by}): its URL, by {settings.get(SOURCE, 'the record')}, "
                "has no login",
                f"give the URL an administrator's login, or remove {switch!r}",
            )
    container = {key: value for key, value in data["services"][name].items() if key not in ("build", "configs")}
    devenv = data["x-devenv"]
    devenv = {**devenv, "endpoints": {key: devenv["endpoints"][key] for key in found.places}}
    for part in laid_over(rules, found):
        devenv = _laid_over(devenv, part)
    nothing = dict.fromkeys(("secrets", "golden"), ()) | {"settings": {}, "requires": {}, "wheels": ""}
    alone = {"services": {name: {**container, "volumes": ()}}, "x-devenv": {**devenv, **nothing}}
    return alone, found


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings merged; the upper one wins where they differ."""
    return {
        **below,
        **{
            key: _laid_over(below.get(key, {}), value) if isinstance(value, Mapping) else value
            for key, value in above.items()
        },
    }


# ---- the format --------------------------------------------------------------------------------------------


def _duration(value: Any) -> int:
    match = _DURATION.match(value) if isinstance(value, str) and value else None
    if not match:
        raise Invalid("expected a duration such as 10s or 1m30s")
    return int(match[1] or 0) * 60 + int(match[2] or 0)


def _size(value: Any) -> int:
    match = _SIZE.match(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if not match:
        raise Invalid("expected a size such as 512m or 1g")
    return int(match[1]) * _UNITS[match[2].lower()]


def _matching(pattern: re.Pattern[str], example: str) -> Callable[[Any], re.Match[str]]:
    def check(value: Any) -> re.Match[str]:
        match = pattern.match(value) if isinstance(value, str) else None
        if not match:
            raise Invalid(f"expected {example}")
        return match

    return check


def _text(value: Any) -> str:
    """Accept a value as Compose does: `$$` stands for `$`, and a number is its text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Invalid("expected text")
    text = str(value)
    if re.search(r"(?<!\$)(?:\$\$)*\$(?!\$)", text):
        raise Invalid("a $ must be written $$: devenv reads nothing from the shell's environment")
    return text.replace("$$", "$")


def _no_root(value: Any) -> str:
    text = _text(value)
    if _ROOT.match(text):
        raise Invalid("expected a user that is not root")
    return text


_strings = [_text]
_name = All(str, Match(NAME, msg=f"expected a name: {NAME_RULE}"))
_port = All(strict_yaml.integer, Range(min=1, max=65535, msg="expected a port from 1 to 65535"))

# No key gives a container more than the engine gives by default, and the keys that give it less are required.
# `read_only` can be false because a server may need to write to its image's folders.
_CONTAINER = {
    Required("image"): _text,
    Required("user"): _no_root,
    Required("read_only"): strict_yaml.flag,
    Required("cap_drop"): Equal(["ALL"], msg="expected [ALL]"),
    Required("security_opt"): Equal(["no-new-privileges:true"], msg='expected ["no-new-privileges:true"]'),
    Required("pids_limit"): All(strict_yaml.integer, Range(min=1, msg="expected a number above 0")),
    Required("mem_limit"): All(_size, Range(min=1, msg="expected a size above 0")),
    Optional("build"): Schema(".", required=True),
    Optional("hostname"): _name,
    Optional("working_dir"): _text,
    Optional("entrypoint"): _strings,
    Optional("command"): _strings,
    Optional("environment"): {str: _text},
    Optional("configs"): [{Required("source"): str, Required("target"): _matching(_TARGET, "/etc/devenv/NAME")}],
    Optional("volumes"): [_matching(_VOLUME, "NAME:/path")],
    Optional("tmpfs"): _strings,
    Optional("ports"): [_matching(_PORT, "127.0.0.1::PORT, since devenv chooses the host's port")],
    Optional("init"): strict_yaml.flag,
    Optional("ulimits"): {Required("nofile"): strict_yaml.integer},
    Optional("shm_size"): _size,
    Optional("stop_signal"): _text,
    Optional("stop_grace_period"): _duration,
}
_volume_name = All(str, Match(NAME, msg="expected the name of a volume"))
_CAPITALS = Match(re.compile(r"[A-Z_]+\Z"), msg="expected a name in capitals")
_SMALL = Match(re.compile(r"[a-z][a-z_]*\Z"), msg="expected a name: lower-case letters and _")
_PROGRAM = Match(re.compile(r"[a-z][a-z0-9_-]*\Z"), msg="expected the name of a program")
_PACKAGE = Match(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z"), msg="expected the name of a Python package")
_ON_HOST = {Required("package"): _PACKAGE, Optional("environment"): {_CAPITALS: _text}}
_COMPONENT = {
    Optional("urls"): {_name: _text},
    Optional("outputs"): {_CAPITALS: _text},
    Optional("environment"): {_CAPITALS: _text},
    Optional("settings"): {_SMALL: _text},
    Optional("reserved"): strict_yaml.each_once(str),
}
_DEVENV: dict[Any, Any] = {
    Required("role"): _name,
    Required("endpoints"): {_name: {Required("port"): _port, Required("url"): _text}},
    Required("probe"): {Required("kind"): str, Required("endpoint"): str, Optional(str): _text},
    Optional("secrets"): strict_yaml.each_once(_SMALL),
    Optional("outputs"): {_CAPITALS: _text},
    Optional("environment"): {_CAPITALS: _text},
    Optional("provisioner"): {Required("kind"): str, Required("endpoint"): str, Optional(str): _text},
    Optional("component"): _COMPONENT,
    Optional("wire"): Match(re.compile(r"[a-z-]+\Z"), msg="expected a folder beside this file"),
    Optional("wheels"): str,
    Optional("package"): str,
    Optional("official"): Match(IMAGE, msg="expected an image such as mysql:9.7"),
    Optional("extra"): _name,
    Optional("settings"): {_SMALL: _text},
    Optional("golden"): strict_yaml.each_once(_volume_name),
    Optional("resumes"): strict_yaml.flag,
    Optional("default"): strict_yaml.flag,
    Optional("citest"): _text,
    Optional("clients"): {_PROGRAM: Either(All([_text], Length(min=1)), _ON_HOST)},
    Optional("page"): _text,
    Optional("uid"): All(int, Range(min=1)),
    Optional("requires"): {
        _name: {
            Required("condition"): Either(STARTED, HEALTHY, msg=f"expected {STARTED} or {HEALTHY}"),
            Required("component"): _name,
        }
    },
}
# The keys of `x-devenv` that a switch changes or adds when it is on, or a plugin.
_SWITCH = {
    Optional("outputs"): {_CAPITALS: _text},
    Optional("environment"): {_CAPITALS: _text},
    Optional("probe"): {str: _text},
    Optional("provisioner"): {str: _text},
    Optional("component"): _COMPONENT,
    Optional("settings"): {_SMALL: _text},
    Optional("wire"): _DEVENV["wire"],
}
_DEVENV[Optional("switches")] = {_SMALL: _SWITCH}
_PLUGIN = Match(re.compile(r"[a-z][a-z0-9_]*\Z"), msg="expected a name: lower-case letters, digits and _")
_SCHEMES = {str: _port}
# What the URL of a server that somebody else runs becomes (see spec/attach.py).
_DEVENV[Optional("attach")] = {
    Required("endpoint"): str,
    Required("schemes"): _SCHEMES,
    Required("urls"): {_name: _text},
    Optional("path"): _text,
    Optional("login"): Either("required", "optional", msg="expected required or optional"),
    Optional("by_login"): strict_yaml.each_once(_SMALL),
    Optional("others"): {_name: {Required("schemes"): _SCHEMES, Required("port"): _port}},
    **{key: value for key, value in _SWITCH.items() if key != "settings"},
    Optional("citest"): _text,
    Optional("logged_in"): {key: value for key, value in _SWITCH.items() if key != "settings"},
}
_DEVENV[Optional("plugins")] = {_PLUGIN: {**_SWITCH, Optional("endpoints"): _DEVENV["endpoints"]}}
_FILE = Schema(
    {
        Required("services"): {_name: _CONTAINER},
        Required("x-devenv"): _DEVENV,
        Optional("configs"): {str: {Required("file"): str}},
        Optional("volumes"): {str: Either(None, {}, msg="expected nothing: devenv names and labels volumes")},
    }
)


def _contradictions(name: str, folder: Path, data: Mapping[str, Any]) -> Iterator[_Problem]:
    """Yield what no schema can see: names that refer to nothing."""
    if list(data["services"]) != [name]:
        yield ("services",), f"expected exactly one, named {name!r} like its folder"
        return
    container, devenv = data["services"][name], data["x-devenv"]
    yield from _missing_files(name, folder, data)
    yield from _missing_names(name, container, data)
    yield from _missing_endpoints(container, devenv)
    yield from _missing_volumes(name, container, devenv)
    yield from _missing_settings(folder, devenv)


def _missing_files(name: str, folder: Path, data: Mapping[str, Any]) -> Iterator[_Problem]:
    configs, devenv = data.get("configs", {}), data["x-devenv"]
    files: dict[strict_yaml.Key, str] = {("configs", key, "file"): config["file"] for key, config in configs.items()}
    files |= {("x-devenv", "wheels"): devenv["wheels"]} if "wheels" in devenv else {}
    files |= {("services", name, "build"): "Dockerfile"} if "build" in data["services"][name] else {}
    for key, file in files.items():
        path = (folder / file).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            yield key, f"no file {file!r} in the service's folder"


def _missing_names(name: str, container: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[_Problem]:
    for i, used in enumerate(container.get("configs", ())):
        if used["source"] not in data.get("configs", {}):
            yield ("services", name, "configs", i), f"no config named {used['source']!r}"
    for i, match in enumerate(container.get("volumes", ())):
        if match[1] not in data.get("volumes", {}):
            yield ("services", name, "volumes", i), f"no volume named {match[1]!r}"
    initial = data["x-devenv"].get("provisioner", {}).get("initial")
    if initial and initial not in [config["target"].string for config in container.get("configs", ())]:
        yield ("x-devenv", "provisioner", "initial"), f"no config with the target {initial!r}"


def _missing_endpoints(container: Mapping[str, Any], devenv: Mapping[str, Any]) -> Iterator[_Problem]:
    published = {int(match[1]) for match in container.get("ports", ())}
    parts = {("x-devenv",): devenv, **_parts(devenv, "plugins")}
    found: dict[strict_yaml.Key, Any] = {
        (*key, "endpoints", name): endpoint
        for key, part in parts.items()
        for name, endpoint in part.get("endpoints", {}).items()
    }
    for key, endpoint in found.items():
        if endpoint["port"] not in published:
            yield (*key, "port"), f"{endpoint['port']} is not among the service's ports"
    used: dict[strict_yaml.Key, str] = {
        ("x-devenv", user, "endpoint"): devenv[user]["endpoint"] for user in ("probe", "provisioner") if user in devenv
    }
    used |= {("x-devenv", "component", "urls", name): name for name in devenv.get("component", {}).get("urls", ())}
    attach = devenv.get("attach", {"endpoint": next(iter(devenv["endpoints"]), "")})
    used |= {
        ("x-devenv", "attach", "urls", name): name for name in (*attach.get("urls", ()), *attach.get("others", ()))
    }
    used[("x-devenv", "attach", "endpoint")] = attach["endpoint"]
    for key, name in used.items():
        if name not in devenv["endpoints"]:
            yield key, f"no endpoint named {name!r}"


def _parts(devenv: Mapping[str, Any], key: str) -> dict[strict_yaml.Key, Any]:
    """Return what can be laid over the data, each with its place."""
    return {("x-devenv", key, name): part for name, part in devenv.get(key, {}).items()}


def _missing_volumes(name: str, container: Mapping[str, Any], devenv: Mapping[str, Any]) -> Iterator[_Problem]:
    own = [match[1] for match in container.get("volumes", ())]
    for i, volume in enumerate(devenv.get("golden", ())):
        if volume not in own:
            has = f"it has: {', '.join(own)}" if own else "it has none"
            yield ("x-devenv", "golden", i), f"{name} has no volume {volume!r}; {has}"


def _missing_settings(folder: Path, devenv: Mapping[str, Any]) -> Iterator[_Problem]:
    parts = {**_parts(devenv, "switches"), **_parts(devenv, "plugins")}
    # They change settings. A setting that only one of them has would be missing without it.
    changed: list[tuple[strict_yaml.Key, str]] = [
        ((*key, "settings", setting), setting) for key, part in parts.items() for setting in part.get("settings", ())
    ]
    changed += [(("x-devenv", "plugins"), "plugins")] if "plugins" in devenv else []
    for key, setting in changed:
        if setting not in devenv.get("settings", {}):
            yield key, f"no setting named {setting!r}"
    for part in (devenv, *parts.values()):
        if "wire" in part and not (folder / part["wire"]).is_dir():
            yield ("x-devenv",), f"no folder {part['wire']!r} beside this file"


# ---- from data to the model --------------------------------------------------------------------------------


def _definition(name: str, data: Mapping[str, Any], path: Path) -> ServiceDefinition:
    container, devenv, folder = data["services"][name], data["x-devenv"], path.parent
    file_of = partial(_config_file, data.get("configs", {}), folder)
    return ServiceDefinition(
        name=name,
        role=devenv["role"],
        folder=folder,
        image=container["image"],
        options=_options(container),
        build="build" in container,
        wheels=devenv.get("wheels", ""),
        package=devenv.get("package", ""),
        official=devenv.get("official", ""),
        extra=devenv.get("extra", ""),
        files=tuple(file_of(used) for used in container.get("configs", ())),
        volumes=tuple((match[1], match[2]) for match in container.get("volumes", ())),
        secrets=tuple(devenv.get("secrets", ())),
        endpoints={key: EndpointDefinition(e["port"], e["url"]) for key, e in devenv["endpoints"].items()},
        outputs=devenv.get("outputs", {}),
        environment=devenv.get("environment", {}),
        probe=devenv["probe"],
        provisioner=devenv.get("provisioner", {}),
        component=ComponentDefinition(**devenv.get("component", {})),
        settings=devenv.get("settings", {}),
        golden=tuple(devenv.get("golden", ())),
        resumes=devenv.get("resumes", False),
        default=devenv.get("default", False),
        citest=devenv.get("citest", ""),
        clients={key: _client(client) for key, client in devenv.get("clients", {}).items()},
        page=devenv.get("page", ""),
        uid=devenv.get("uid", 0),
        wire=folder / devenv.get("wire", "wire"),
        requires=tuple(
            Requirement(role, need["condition"], need["component"]) for role, need in devenv.get("requires", {}).items()
        ),
    )


def _client(client: list[str] | dict[str, Any]) -> Client:
    return Client(tuple(client)) if isinstance(client, list) else Client(**client)


def _config_file(configs: Mapping[str, Any], folder: Path, used: Mapping[str, Any]) -> ConfigFile:
    return ConfigFile(folder / configs[used["source"]]["file"], used["target"][0])


def _options(container: Mapping[str, Any]) -> ContainerOptions:
    def strings(key: str) -> tuple[str, ...]:
        return tuple(container.get(key, ()))

    return ContainerOptions(
        user=container["user"],
        hostname=container.get("hostname", ""),
        working_dir=container.get("working_dir", ""),
        entrypoint=strings("entrypoint"),
        command=strings("command"),
        environment=tuple(sorted(container.get("environment", {}).items())),
        tmpfs=strings("tmpfs"),
        read_only=container["read_only"],
        init=container.get("init", False),
        cap_drop=tuple(container["cap_drop"]),
        security_opt=tuple(container["security_opt"]),
        nofile=container.get("ulimits", {}).get("nofile", 0),
        pids_limit=container["pids_limit"],
        mem_limit=container["mem_limit"],
        shm_size=container.get("shm_size", 0),
        stop_signal=container.get("stop_signal", ""),
        stop_grace_period=container.get("stop_grace_period", 10),
    )
