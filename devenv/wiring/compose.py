"""Describe an environment as one Compose file that needs neither devenv nor another file. Pure.

The folder `export/compose/` among a service's templates holds what devenv would do from outside:

    service.yaml      keys of the service, its health check above all
    component/NAME    more content of the file NAME for each component with a part of the service; merged, if JSON
    any other file    one more file for the container
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voluptuous import Optional, Required, Schema

from devenv.errors import ConfigError
from devenv.model import Catalogue, Desired, DesiredService
from devenv.names import Names
from devenv.ports import HOST
from devenv.spec.strict_yaml import understood
from devenv.spec.template import render_file

FOLDER = "export/compose"
_OVER = "service.yaml"
_OVER_SCHEMA = Schema(
    {Required("healthcheck"): {Required("test"): [str]}, Optional("entrypoint"): [str], Optional("command"): [str]}
)
_TARGET = "/etc/devenv/"
# The key with the variables that attach devenv to the services.
ATTACH = "x-devenv-attach"
# The endpoints beside the first that devenv can attach to.
_ATTACHED = ("management",)
# A check is cheap. `start_interval` would be better, but engines before 25 refuse it.
_HEALTHCHECK = {"interval": "2s", "timeout": "5s", "retries": 3, "start_period": "5m"}
# The log of a service that runs for weeks must not fill the disk.
_LOGGING = {"driver": "json-file", "options": {"max-size": "10m", "max-file": "2"}}


def compose_file(desired: Desired, catalogue: Catalogue) -> str:
    """Return the file's text. Raise ConfigError for a template that devenv cannot fill in or merge."""
    import yaml

    called = Names(desired.environment)
    services: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    for name, service in desired.services.items():
        folder = catalogue[name].wire
        texts = files_of(service, folder)
        sources = {target: f"{name}-{target.rpartition('/')[2]}" for target in texts}
        own = {f"{name}-{called.short(name, volume)}": path for volume, path in service.volumes.items()}
        configs |= {sources[target]: {"content": text} for target, text in texts.items()}
        volumes |= {key: {} for key in own}
        services[name] = _service(service, sources, own) | _checked(over(service, folder))
    document = {"name": desired.environment, "services": services, "configs": configs, "volumes": volumes}
    document[ATTACH] = attaching(desired)
    return str(yaml.dump(_escaped(document), Dumper=dumper(), sort_keys=False, width=1000))


def attaching(desired: Desired) -> dict[str, str]:
    """Return the variables by which another devenv attaches to the services as the administrator."""
    found: dict[str, str] = {}
    for name, service in desired.services.items():
        prefix = f"DEVENV_ATTACH_{name.upper().replace('-', '_')}"
        (_, first), *others = service.endpoints.items()
        found[prefix] = first.url
        found |= {f"{prefix}_{key.upper()}": other.url for key, other in others if key in _ATTACHED}
        if "@" not in first.url:
            found |= {f"{prefix}_{key}": service.outputs[key] for key in ("USER", "PASSWORD") if key in service.outputs}
    return found


def _service(service: DesiredService, sources: Mapping[str, str], volumes: Mapping[str, str]) -> dict[str, Any]:
    options = service.options
    keys = {
        "image": service.image.address,
        # A registry could have anybody's image of that name.
        "pull_policy": "never" if service.image.how == "build" and not service.image.registry else "",
        "hostname": options.hostname,
        "user": options.user,
        "working_dir": options.working_dir,
        "entrypoint": list(options.entrypoint),
        "command": list(options.command),
        "environment": dict(options.environment),
        "depends_on": {other: {"condition": condition} for other, condition in service.depends.items()},
        "configs": [{"source": source, "target": target} for target, source in sources.items()],
        "volumes": [f"{volume}:{target}" for volume, target in volumes.items()],
        "tmpfs": list(options.tmpfs),
        "ports": [f"{HOST}:{outside}:{inside}" for inside, outside in service.ports.items()],
        "read_only": options.read_only and not sources,
        "init": options.init,
        "cap_drop": list(options.cap_drop),
        "security_opt": list(options.security_opt),
        "ulimits": {"nofile": options.nofile} if options.nofile else {},
        "pids_limit": options.pids_limit,
        "mem_limit": options.mem_limit,
        "shm_size": options.shm_size,
        "stop_signal": options.stop_signal,
        "stop_grace_period": f"{options.stop_grace_period}s",
        "logging": _LOGGING,
    }
    return {key: value for key, value in keys.items() if value}


def _checked(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys with the times of the health check, if there is one."""
    return {**keys, "healthcheck": {**keys["healthcheck"], **_HEALTHCHECK}} if keys else {}


def over(service: DesiredService, wire: Path) -> dict[str, Any]:
    """Return the keys that only the exported service has: the health check, above all. `wire` has its templates."""
    path = wire / FOLDER / _OVER
    return dict(understood(render_file(path, service.values), path, _OVER_SCHEMA)) if path.is_file() else {}


def files_of(service: DesiredService, wire: Path) -> dict[str, str]:
    """Return the service's files by target, with the components' parts of them, and the files of the folder."""
    folder = wire / FOLDER
    texts = {target: content.decode() for target, content in service.files.items()}
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.name != _OVER:
            texts[_TARGET + path.name] = render_file(path, service.values)
    for path in sorted(folder.glob("component/*")):
        target = _TARGET + path.name
        for part in service.components.values():
            texts[target] = _joined(texts.get(target, ""), render_file(path, part.values), path)
    return texts


def _joined(text: str, more: str, source: Path) -> str:
    if source.suffix != ".json":
        return text + more
    try:
        return json.dumps(_merged(json.loads(text), json.loads(more)), indent=2) + "\n"
    except ValueError as error:
        raise ConfigError(f"cannot merge {source}: it is no JSON ({error})", "correct the template") from error


def _merged(one: Any, other: Any) -> Any:
    """Join lists, merge objects key by key, and otherwise take `other`."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{key: _merged(one.get(key), value) for key, value in other.items()}}
    return one + other if isinstance(one, list) and isinstance(other, list) else other


def _escaped(value: Any) -> Any:
    """Return the value with each `$` escaped: Compose reads variables everywhere."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    return {key: _escaped(one) for key, one in value.items()} if isinstance(value, dict) else value


def dumper() -> Any:
    """Return a dumper that writes texts line by line, and nothing by reference."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _: object) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return Dumper
