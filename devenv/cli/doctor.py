"""Check what `devenv up` needs of the engine and of this host, and say what to do.

Each check is one small function that returns one Check; two tuples hold them all. engine/install.py repairs.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from devenv import ports
from devenv.engine import connect, connection, install as hosts
from devenv.engine.install import Host
from devenv.engine.protocol import About, Engine
from devenv.engine.proxies import for_builds
from devenv.errors import DevenvError, NoEngine
from devenv.images.references import BASE
from devenv.lifecycle import tunnels

API_WANTED = (1, 41)  # Debian 12's Engine 20.10, the oldest that devenv is tested with
PORTS_SAFE_SINCE = 28  # moby#45610
DISK_FAIL, DISK_WARN = 2e9, 5e9
MEMORY_WARN = 2e9  # the four services take about 800 MB
NOFILE_WANTED = 16384  # RabbitMQ's bounded limit
CLOCK_WARN = 5.0  # seconds; Keystone's tokens carry times
_CAP_SYS_RESOURCE = 1 << 24
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True)
class Check:
    """Hold the result of one check: what it found, in one line, and what to do."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    hint: str = ""
    fixable: bool = False


@dataclass(frozen=True)
class Wanted:
    """Hold what an environment would use, the host on which it would run, and whether other hosts share it."""

    images: Mapping[str, str]
    ports: Mapping[int, str]
    host: Host
    shared: bool = False


@dataclass(frozen=True)
class Answer:
    """Hold the answers of the engine, asked once.

    `missing` are the services whose image it does not have, `passed_over` the sockets that let nobody in.
    """

    url: str
    origin: str
    about: About
    missing: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


def diagnose(images: Mapping[str, str], ports: Mapping[int, str], host: Host | None = None) -> list[Check]:
    """Check what `devenv up` needs; without an engine only what this host shows."""
    wanted = Wanted(images, ports, host or Host())
    first: list[Check] = []
    try:
        answer = _ask(wanted)
    except NoEngine as error:
        first.append(_engine_missing(error, wanted.host))
    except Exception as error:  # other kinds of engines may answer anything
        hint = "use Docker Engine 20.10 or newer, which devenv is tested with"
        first.append(Check("engine", "warn", f"cannot understand the engine: {_words(error)}", hint))
    else:
        first.extend(guarded(check, wanted, answer) for check in ENGINE_CHECKS)
    return first + [guarded(check, wanted) for check in HOST_CHECKS]


def fix(say: Callable[[str], None], images: Mapping[str, str] | None = None, host: Host | None = None) -> None:
    """Install and start an engine, and the tool that makes a base image if one of `images` needs it.

    Raises NoEngine with the command to run if no engine can be started. A missing tool is no error.
    """
    host = host or Host()
    try:
        engine = connect()
        say("the engine answers")
    except NoEngine:
        hosts.bring_up_engine(*connection.endpoint_in_use(), say, host)
        engine = connect()
    if platform.system() != "Linux" or hosts.base_tool(host):
        return
    try:
        if images is None or _needs_base(images, _missing(engine, images)):
            _install_base_tool(say, host)
    except DevenvError as error:  # a registry may still have the missing images
        for line in error.detail:
            say(f"  {line}")
        say(f"{error.message}; continuing without it")


def _install_base_tool(say: Callable[[str], None], host: Host) -> None:
    packages = hosts.base_packages(host)
    if why := hosts.obstacle(host):
        say(f"cannot install {packages[0]}, which makes images when no registry answers: {why}")
    else:
        hosts.install(packages, say, host)


def _missing(engine: Engine, images: Mapping[str, str]) -> tuple[str, ...]:
    there = engine.images()
    return tuple(sorted(name for name, reference in images.items() if reference not in there))


def _needs_base(images: Mapping[str, str], missing: Sequence[str]) -> bool:
    """Return whether devenv has to make a base image first, even if `images` names none."""
    return bool(set(missing) - {BASE}) and (BASE not in images or BASE in missing)


def guarded(check: Callable[..., Check], *arguments: object) -> Check:
    """Run a check. One that fails is a result of its own, not the end of the diagnosis."""
    try:
        return check(*arguments)
    except Exception as error:  # other kinds of engines may answer anything
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return Check(name, "warn", f"cannot check: {_words(error)}", "the other checks still count")


def _words(error: Exception) -> str:
    """Return an error in words. A KeyError says nothing without its name."""
    return str(error) if isinstance(error, (OSError, DevenvError)) else f"{type(error).__name__}: {error}"


def _ask(wanted: Wanted) -> Answer:
    url, origin = connection.endpoint_in_use()
    engine = connect()
    passed_over = tuple(connection.passed_over(url))
    return Answer(url, origin, engine.about(), _missing(engine, wanted.images), passed_over)


def _engine_missing(error: NoEngine, host: Host) -> Check:
    try:
        url, origin = connection.endpoint_in_use()
        hint, fixable = hosts.advice(url, origin, host)
    except DevenvError:
        hint, fixable = error.hint, False
    return Check("engine", "fail", str(error), hint, fixable)


# ---- the engine ----------------------------------------------------------------------------------


def check_engine(wanted: Wanted, answer: Answer) -> Check:
    detail = f"{answer.about.name} answers at {answer.url} (from {answer.origin})"
    if answer.passed_over:
        detail += f"; not at {', '.join(answer.passed_over)}"
    return Check("engine", "ok", detail)


def check_version(wanted: Wanted, answer: Answer) -> Check:
    version, api = answer.about.version, answer.about.api
    detail = f"version {version}, API {api}"
    if tuple(int(part) for part in re.findall(r"\d+", api)[:2]) < API_WANTED:
        return Check("version", "fail", detail, "install Docker Engine 20.10 (API 1.41) or newer")
    major = re.match(r"\d+", version)
    # Only a rootful Docker on this very host forwards ports in the packet filter, which leaks.
    leaky = answer.about.here and answer.about.daemon
    if leaky and major and int(major[0]) < PORTS_SAFE_SINCE:
        detail += ": the same L2 network can reach ports published on 127.0.0.1 (moby#45610)"
        return Check("version", "warn", detail, "use Engine 28 or newer in an untrusted network")
    return Check("version", "ok", detail)


def check_disk(wanted: Wanted, answer: Answer) -> Check:
    folders = answer.about.folders
    if not answer.about.here or not folders or not folders[0].exists():
        return Check("disk", "ok", "not checked: the engine's disk is not on this host")
    free, folder = min((shutil.disk_usage(folder).free, str(folder)) for folder in folders)
    detail = f"{free / 1e9:.1f} GB free in {folder}"
    if free < DISK_WARN:
        status: Literal["warn", "fail"] = "fail" if free < DISK_FAIL else "warn"
        return Check("disk", status, detail, "free some space, for example with 'docker image prune'")
    return Check("disk", "ok", detail)


def check_memory(wanted: Wanted, answer: Answer) -> Check:
    if not (total := answer.about.memory):
        return Check("memory", "ok", "not checked: the engine does not say")
    detail = f"{total / 1e9:.1f} GB for the engine"
    if total < MEMORY_WARN:
        return Check("memory", "warn", detail, "give the machine or the engine's VM 2 GB or more")
    return Check("memory", "ok", detail)


def check_nofile(wanted: Wanted, answer: Answer) -> Check:
    """Check the limit on open files. A container's may not exceed the daemon's own, unless the daemon may raise it."""
    if not answer.about.here:
        return Check("nofile", "ok", "not checked: the engine is not on this host")
    pid = hosts.running_engine(wanted.host) if answer.about.daemon else "self"
    if pid is None:
        return Check("nofile", "ok", "not checked: the engine's process cannot be seen from here")
    limits = wanted.host.path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"^Max open files\s+\S+\s+(\S+)", limits, re.MULTILINE)
    hard = float("inf") if not found or found[1] == "unlimited" else float(found[1])
    status = wanted.host.path(f"/proc/{pid}/status").read_text()
    capabilities = re.search(r"^CapEff:\s+([0-9a-f]+)", status, re.MULTILINE)
    if answer.about.daemon and capabilities and int(capabilities[1], 16) & _CAP_SYS_RESOURCE:
        hard = float(wanted.host.path("/proc/sys/fs/nr_open").read_text())
    detail = f"containers may open {hard:.0f} files"
    if hard < NOFILE_WANTED:
        hint = f"raise the engine's limit: LimitNOFILE={NOFILE_WANTED} in its systemd unit"
        return Check("nofile", "warn", f"{detail}, services need {NOFILE_WANTED}", hint)
    return Check("nofile", "ok", detail)


def check_clock(wanted: Wanted, answer: Answer) -> Check:
    if (ahead := answer.about.ahead) is None:
        return Check("clock", "ok", "not checked: the engine does not say")
    if abs(ahead) > CLOCK_WARN:
        where = "ahead" if ahead > 0 else "behind"
        detail = f"the engine's clock is {abs(ahead):.0f} s {where}"
        return Check("clock", "warn", detail, "set the host's clock, or restart the engine's VM")
    return Check("clock", "ok", f"host and engine differ by {abs(ahead):.1f} s")


def check_bridges(wanted: Wanted, answer: Answer) -> Check:
    """Check for a bridge that a second engine left. It takes the packets: ports time out, and all looks healthy."""
    routes = wanted.host.path("/proc/net/route")
    if not answer.about.here or not routes.exists():
        return Check("bridges", "ok", "not checked: the engine's network is not on this host")
    nets = _direct_routes(routes.read_text())
    for name, net in nets:
        rivals = [other for other, theirs in nets if other != name and theirs.subnet_of(net)]
        if rivals and (name == "docker0" or name.startswith("br-")):
            detail = f"{net} of {name} is also routed to {', '.join(rivals)}: ports may time out"
            hint = f"if nothing of yours uses it, run as root: ip link delete {rivals[0]}"
            return Check("bridges", "warn", detail, hint)
    return Check("bridges", "ok", "no two routes for one container network")


def check_images(wanted: Wanted, answer: Answer) -> Check:
    services = wanted.images.keys() - {BASE}
    missing = [name for name in answer.missing if name in services]
    detail = f"{len(services) - len(missing)} of {len(services)} are present"
    if missing:  # as it should be before the first `up`
        detail += f"; 'devenv up' pulls or builds {', '.join(missing)}"
    return Check("images", "ok", detail)


def check_build_proxy(wanted: Wanted, answer: Answer) -> Check:
    """Check that builds reach the user's proxies."""
    name, proxies = "build proxy", for_builds(answer.url, lambda: answer.about)
    if proxies.left_out:
        hint = "if builds fail without it, name a proxy that the engine's host can reach"
        return Check(name, "warn" if answer.missing else "ok", proxies.left_out, hint if answer.missing else "")
    if proxies.host_network:
        return Check(name, "ok", "on this machine's loopback: devenv builds over the host's network")
    return Check(name, "ok", "builds use it" if proxies.arguments else "builds need none")


def check_base_image_tool(wanted: Wanted, answer: Answer) -> Check:
    """Check the tool with which this host makes a base image when no registry answers."""
    name = "base image tool"
    if tool := hosts.base_tool(wanted.host):
        return Check(name, "ok", tool)
    if platform.system() != "Linux" or not _needs_base(wanted.images, answer.missing):
        return Check(name, "ok", "not installed, and not needed")
    fixable = not hosts.obstacle(wanted.host)
    hint = "run 'devenv doctor --fix'" if fixable else f"install {', '.join(hosts.base_packages(wanted.host))}"
    detail = "this user cannot run mmdebstrap: devenv can build no image without a registry"
    return Check(name, "warn", detail, hint, fixable)


# ---- this host -----------------------------------------------------------------------------------


def check_ports(wanted: Wanted) -> Check:
    taken = [port for port in sorted(wanted.ports) if not ports.is_free(port)]
    if not taken:
        return Check("ports", "ok", "the well-known ports are free on 127.0.0.1")
    found = [f"{port} ({wanted.ports[port]}) by {ports.holder(port, wanted.host.root)}" for port in taken]
    hint = "do nothing: a new environment takes free ports instead"
    return Check("ports", "warn", f"taken on 127.0.0.1: {', '.join(found)}", hint)


def check_proxy(wanted: Wanted) -> Check:
    """Check proxies. devenv's probes ignore them; a component's HTTP client asks them for 127.0.0.1."""
    environment = {name.lower(): value for name, value in os.environ.items() if value}
    proxies = [name.upper() for name in _PROXY_VARIABLES if name in environment]
    if not proxies:
        return Check("proxy", "ok", "no proxy variables")
    names = ", ".join(proxies)  # never the values: they may hold a password
    exceptions = environment.get("no_proxy", "").split(",")
    if any(_covers_loopback(entry.strip()) for entry in exceptions):
        return Check("proxy", "ok", f"{names} set, NO_PROXY covers 127.0.0.1")
    hint = "devenv ignores them; for your own programs: export NO_PROXY=127.0.0.1,localhost"
    return Check("proxy", "warn", f"{names} set, and NO_PROXY leaves out 127.0.0.1", hint)


def check_tunnels() -> list[Check]:
    """Check the tunnels of this user's environments to engines elsewhere; return nothing if there are none."""
    if not (found := [*tunnels.opened()]):
        return []
    broken = [f"{one.environment} ({one.reason})" for one in found if one.reason]
    if not broken:
        return [Check("tunnels", "ok", f"{len(found)} to engines elsewhere")]
    hint = "in the folder of an environment, 'devenv wait' opens its tunnel again; 'devenv gc' ends useless ones"
    return [Check("tunnels", "warn", f"lead nowhere: {', '.join(broken)}", hint)]


ENGINE_CHECKS: tuple[Callable[[Wanted, Answer], Check], ...] = (
    check_engine,
    check_version,
    check_disk,
    check_memory,
    check_nofile,
    check_clock,
    check_bridges,
    check_images,
    check_build_proxy,
    check_base_image_tool,
)
HOST_CHECKS: tuple[Callable[[Wanted], Check], ...] = (check_ports, check_proxy)


# ---- reading the host ----------------------------------------------------------------------------


def _direct_routes(table: str) -> list[tuple[str, ipaddress.IPv4Network]]:
    """Return the networks directly on an interface, from /proc/net/route (hexadecimal, little-endian)."""
    routes = []
    for fields in map(str.split, table.splitlines()[1:]):
        address, gateway, mask = (bytes.fromhex(fields[column])[::-1] for column in (1, 2, 7))
        if not any(gateway) and any(mask):
            prefix = int.from_bytes(mask).bit_count()
            routes.append((fields[0], ipaddress.IPv4Network((address, prefix))))
    return routes


def _covers_loopback(entry: str) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address("127.0.0.1") in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
