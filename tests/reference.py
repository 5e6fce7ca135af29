"""Write docs/reference.md from the code itself: `python -m tests.reference`. A test checks that it is current."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from inspect import cleandoc
from pathlib import Path

import click
import voluptuous

from devenv import errors
from devenv.cli.main import main
from devenv.services import lookup
from devenv.spec import catalogue, profile

PACKAGE = Path(errors.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
# By the path of a key: its type, its meaning, an example.
Words = Mapping[str, tuple[str, str, str]]


def page() -> str:
    """Return the complete page."""
    parts = (_head, _commands, _exit_codes, _services, _keys, _values, _variables, _files, _completion)
    return "\n".join(line for part in parts for line in part())


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "`python -m tests.reference` writes this page from the code; a test checks that it is current."
    yield ""


def _commands() -> Iterator[str]:
    yield "## Commands"
    yield ""
    yield "Put the options of `devenv` itself before the command: `devenv --env other up`."
    yield ""
    yield from _options(main)
    yield from _tree(main, "devenv")
    yield "### `devenv CLIENT [ARGUMENT]...`"
    yield ""
    yield "Run a client of a service with these arguments. [clients.md](clients.md) lists the clients."
    yield ""


def _tree(group: click.Group, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        arguments = command.collect_usage_pieces(click.Context(command, max_content_width=80))[1:]
        if isinstance(command, click.Group):
            yield from _tree(command, f"{path} {name}")
            continue
        yield f"### `{' '.join([path, name, *arguments])}`"
        yield ""
        yield cleandoc(str(command.help))
        yield ""
        yield from _options(command)


def _options(command: click.Command) -> Iterator[str]:
    options = [p for p in command.params if isinstance(p, click.Option) and p.help]
    if options:
        yield "| option | meaning |"
        yield "|---|---|"
    for option in options:
        names, meaning = option.get_help_record(click.Context(command)) or ("", "")
        escaped = names.replace("|", r"\|")
        yield f"| `{escaped}` | {meaning} |"
    if options:
        yield ""


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes"
    yield ""
    yield "| code | meaning |"
    yield "|---|---|"
    yield "| 0 | done |"
    tree = re.findall(r"(\w+)\s+(\d)  (.*)", errors.__doc__ or "")
    codes = [(int(code), meaning) for _, code, meaning in tree] + [(2, "the command line is wrong")]
    for code, meaning in [*sorted(codes), (130, "interrupted: Ctrl-C, SIGTERM or SIGHUP")]:
        yield f"| {code} | {meaning} |"
    yield ""
    yield "`run`, `shell`, `ci`, `exec` and clients end with the code of their command: 126 if it cannot run, 127 if it"
    yield "does not exist, 128 plus the number of the signal that ended it. `ci --timeout` ends with 124 when the time"
    yield "is over."
    yield ""
    yield "A closed standard stream counts as `/dev/null`. A line of progress or of an error that nobody can read is"
    yield "lost and changes nothing: the disk under the log is full, or the terminal has gone. If devenv cannot write"
    yield "its output, the code is 1. If nobody reads the output any more (`devenv logs | head`), it is 0."
    yield ""


def _services() -> Iterator[str]:
    yield "## Services"
    yield ""
    yield "`.devenv/env` and `devenv env` set these variables. `ports:` in devenv.yaml takes the names of endpoints. An"
    yield "endpoint has a `_HOST`, a `_PORT` and a `_URL`. `devenv images list` shows the versions."
    yield ""
    yield from _table(("service", "role", "endpoint", "usual port", "variables"), _endpoints())


def _endpoints() -> Iterator[tuple[str, ...]]:
    for name, service in catalogue.load_catalogue().items():
        prefix = f"DEVENV_{name.upper()}"
        for number, (key, endpoint) in enumerate(service.endpoints.items()):
            one = prefix if number == 0 else f"{prefix}_{key.upper()}"
            told = [f"{one}_HOST", f"{one}_PORT", f"{one}_URL"]
            told += [*(f"{prefix}_{word}" for word in service.outputs), *service.environment] if number == 0 else []
            yield name, service.role, f"`{key}`", str(endpoint.port), ", ".join(f"`{variable}`" for variable in told)


def _keys() -> Iterator[str]:
    project, extending = profile._FILES["profile"].schema, profile._FILES["extends"].schema
    yield "## Keys of devenv.yaml and of profiles"
    yield ""
    yield "A project's `devenv.yaml` names a profile, a file under `profiles/`. A profile may build on another one."
    yield ""
    yield from _schema({**project, **extending}, PROJECT)
    yield "`services` is a list of names, or a mapping from names to `false` (leave it out) or to these settings:"
    yield ""
    yield from _schema(profile._SETTINGS, SETTINGS)
    yield "Some services also have switches, which `true` sets:"
    yield ""
    rows = [(f"`{name}: {{{switch}: true}}`", SWITCHES[name, switch]) for name, switch in _switches()]
    yield from _table(("switch", "meaning"), rows)
    yield "Servers ship these plugins, and `plugins` enables them. Some have an endpoint of their own, whose port can"
    yield "be fixed under `ports`, too:"
    yield ""
    yield from _table(("service", "plugin", "endpoint", "its usual port"), _plugins())
    yield "`components` is a list of names, or a mapping from names to these settings. A name is a lower-case letter"
    yield "and then letters, digits, `-` and `_`, at most 31 in all. The database (with `_` for `-`), the vhost,"
    yield "the key prefix and the service user get the same name. devenv refuses names that services reserve, such as"
    yield "`root`, `admin` or `guest`. Names of environments and snapshots follow the same rule, without `_`."
    yield ""
    yield from _schema(profile._COMPONENT, COMPONENT)
    yield "## Keys of compose/SERVICE/compose.yaml"
    yield ""
    yield from _schema({key: {} if str(key) in ("services", "x-devenv") else v for key, v in _file().items()}, FILE)
    yield "Under `services.SERVICE`, a subset of Compose's keys. `$` is written `$$`."
    yield ""
    yield from _schema(catalogue._CONTAINER, CONTAINER)
    yield "Under `x-devenv`, what Compose has no word for:"
    yield ""
    whole = ("switches", "plugins", "attach")
    yield from _schema({key: {} if key in whole else v for key, v in catalogue._DEVENV.items()}, DEVENV)
    yield "The kinds of probes, and the settings of each. Another package can add one (entry points of the group"
    yield f"`{lookup.PROBES}`)."
    yield ""
    kinds = sorted(entry_points(group=lookup.PROBES).names)
    yield from _table(("kind", "settings", "what has to work"), [(f"`{kind}`", *PROBES[kind]) for kind in kinds])
    yield f"The kinds of provisioners (entry points of the group `{lookup.PROVISIONERS}`), the settings of each for"
    yield "the administrator, and for a component:"
    yield ""
    kinds = sorted(entry_points(group=lookup.PROVISIONERS).names)
    yield from _table(
        ("kind", "settings", "settings of a component"), [(f"`{kind}`", *PROVISIONERS[kind]) for kind in kinds]
    )


def _switches() -> Iterator[tuple[str, str]]:
    for path in sorted(catalogue.data_folder("compose").glob("*/compose.yaml")):
        for switch in catalogue._read(path)["x-devenv"].get("switches", ()):
            yield path.parent.name, switch


def _plugins() -> Iterator[tuple[str, ...]]:
    for path in sorted(catalogue.data_folder("compose").glob("*/compose.yaml")):
        for plugin, part in catalogue._read(path)["x-devenv"].get("plugins", {}).items():
            ((key, port),) = [(f"`{n}`", str(e["port"])) for n, e in part.get("endpoints", {}).items()] or [("", "")]
            yield path.parent.name, f"`{plugin}`", key, port


def _file() -> dict[object, object]:
    return dict(catalogue._FILE.schema)


def _schema(schema: dict[object, object], words: Words) -> Iterator[str]:
    found = dict(_paths(schema))
    if odd := found.keys() ^ words.keys():
        raise KeyError(f"tests/reference.py: no such key, or a key without a description: {', '.join(sorted(odd))}")
    rows = [
        (f"`{path}`", words[path][0], need, words[path][1], f"`{words[path][2]}`" if words[path][2] else "")
        for path, need in found.items()
    ]
    yield from _table(("key", "type", "", "meaning", "example"), rows)


def _paths(schema: dict[object, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every key by its path, and whether it is required. NAME stands for any name that has more keys below it."""
    for key, value in schema.items():
        name = key.schema if isinstance(key, voluptuous.Marker) else key
        inner = value[0] if isinstance(value, list) else value
        path = f"{prefix}{name if isinstance(name, str) else 'NAME'}"
        if isinstance(name, str):
            yield path, "required" if isinstance(key, voluptuous.Required) else "optional"
        if isinstance(inner, dict):
            yield from _paths(inner, f"{path}{'[]' if isinstance(value, list) else ''}.")


# ---- values, variables, files ----------------------------------------------------------------------------------


def _values() -> Iterator[str]:
    yield "## Values in templates"
    yield ""
    yield "Templates are the files under `configs` and under `wire/`. Under `x-devenv`, each `url` is one, and so"
    yield "are `page` and each value of `outputs`, `environment`, `probe`, `provisioner`, `settings` and `component`."
    yield "There, as everywhere in a Compose file, write `$$` for `$`. An unknown name is an error. To keep a `${`,"
    yield "write `$${`: `$${HOME}` gives `${HOME}`. Any other `$` stays as it is."
    yield ""
    yield from _table(("value", "meaning"), VALUES)


def _variables() -> Iterator[str]:
    source = "".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", source)) - {"PATH"}
    documented = {word for names, _ in VARIABLES for word in re.findall(r"[A-Z_]+", names)}
    if missing := read - documented:
        raise KeyError(f"tests/reference.py: variables without a description: {', '.join(sorted(missing))}")
    yield "## Variables that devenv reads"
    yield ""
    yield from _table(("variable", "meaning"), VARIABLES)


def _files() -> Iterator[str]:
    yield "## Files that devenv writes"
    yield ""
    yield "In the project, devenv writes to a folder that only its owner can enter. With `--env NAME` that is"
    yield "`.devenv/environments/NAME/` in place of `.devenv/`. With `--output-dir PATH` it is PATH, which gets a"
    yield "`.gitignore` only if devenv creates it, or `PATH/environments/NAME/`."
    yield ""
    from_services: dict[str, list[str]] = {}
    for name, service in catalogue.load_catalogue().items():
        for path in sorted(path for folder in ("", "component") for path in (service.wire / folder).glob("*.*")):
            from_services.setdefault(path.name.replace("component", "COMPONENT"), []).append(name)
        if (service.wire / "openrc").exists():
            from_services.setdefault("openrc", []).append(name)
    rows = [
        (f"`.devenv/{name}`", f"built from {', '.join(dict.fromkeys(by))}")
        for name, by in sorted(from_services.items())
    ]
    yield from _table(("file", "content"), [*WRITTEN, *rows])
    yield "Elsewhere; DEVENV_STATE_DIR names STATE, DEVENV_CACHE_DIR names CACHE:"
    yield ""
    yield from _table(("file", "content"), KEPT)


def _completion() -> Iterator[str]:
    yield "## Shell completion"
    yield ""
    yield "Add a line to your shell's start file:"
    yield ""
    rows = [
        ("bash", "~/.bashrc", '`eval "$(_DEVENV_COMPLETE=bash_source devenv)"`'),
        ("zsh", "~/.zshrc", '`eval "$(_DEVENV_COMPLETE=zsh_source devenv)"`'),
        ("fish", "~/.config/fish/completions/devenv.fish", "`_DEVENV_COMPLETE=fish_source devenv \\| source`"),
    ]
    yield from _table(("shell", "file", "line"), [(shell, f"`{file}`", line) for shell, file, line in rows])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


# ---- what the code cannot say ----------------------------------------------------------------------------------

PROJECT: Words = {
    "description": ("text", "what it is for", "description: database only"),
    "citest": ("true or false", "whether runs get the account of OpenStack's own test suites", "citest: true"),
    "database": ("service", "the database for all that needs one, in place of the profile's", "database: postgresql"),
    "services": ("list or mapping", "the services and their settings", "services: [mysql, etcd]"),
    "durable": (
        "true or false",
        "whether data survives a power cut: sets the switch `durable` of every service that has it",
        "durable: true",
    ),
    "engine": (
        "docker or kubernetes",
        "only in devenv.yaml: the kind of engine; allow kubernetes with `devenv trust`",
        "engine: kubernetes",
    ),
    "shared": (
        "name",
        "only in devenv.yaml: the name under which hosts share the environment; allow it with `devenv trust`",
        "shared: team",
    ),
    "image_registry": (
        "registry",
        "only in devenv.yaml: where pods and exports get devenv's images; allow it with `devenv trust`",
        "image_registry: registry.example.org/team",
    ),
    "image_pull_secrets": (
        "list",
        "only in devenv.yaml: the Secrets of the namespace with logins for registries",
        "image_pull_secrets: [registry-login]",
    ),
    "components": (
        "list or mapping",
        "only in devenv.yaml: components, which get a part of each service; see below",
        "components: {nova: {}}",
    ),
    "profile": ("name", "only in devenv.yaml: the profile it builds on; `base` if not given", "profile: base"),
    "extends": ("name", "only in a profile: the profile it builds on", "extends: base"),
}
SETTINGS: Words = {
    "image": (
        "image",
        "an image to run instead of the one that devenv builds; allow it with `devenv trust`",
        "image: mysql:8.4",
    ),
    "ports": (
        "mapping",
        "fixed ports on 127.0.0.1 by the name of the endpoint; devenv chooses and keeps the others",
        "ports: {sql: 3307}",
    ),
    "plugins": ("list of names", "plugins that the server ships, to enable; see below", "plugins: [rabbitmq_shovel]"),
    "attach": (
        "URL",
        "a server that somebody else runs, with its administrator's login: devenv runs no container of it. "
        "`${env:NAME}` is a variable of the caller's. An address that is not loopback needs `devenv trust`",
        "attach: mysql://root:secret@127.0.0.1:3306",
    ),
    "management": ("URL", "the management interface of an attached RabbitMQ", "management: http://127.0.0.1:15672"),
    "user": ("text", "the administrator of an attached service, if the URL does not name one", "user: admin"),
    "password": ("text", "the administrator's password, if the URL does not hold it", 'password: "${env:PASSWORD}"'),
}
COMPONENT: Words = {
    "wire": (
        "list of paths",
        "files of the project into which devenv merges its options",
        "wire: [etc/nova/nova.conf]",
    ),
    "roles": ("list of names", "roles of its service user, besides `service`", "roles: [admin]"),
    "catalog": ("mapping", "its entry in the service catalog", "catalog: {…}"),
    "catalog.type": ("text", "the type of its service", "type: compute"),
    "catalog.url": ("URL", "where it answers: public, internal and admin alike", "url: http://127.0.0.1:8774/v2.1"),
    "catalog.name": ("text", "the name of its service; the component's if not given", "name: nova"),
    "sections": (
        "list or mapping",
        "sections about other services that get its credentials; a mapping gives the type of each",
        "sections: {neutron: network}",
    ),
}
SWITCHES = {
    ("etcd", "auth"): "each component gets a login for its prefix only; tooz and etcd3gw cannot log in",
    ("etcd", "durable"): "etcd answers a write when it is on the disk",
    (
        "keystone",
        "processes",
    ): "Keystone runs four processes, as in a deployment, instead of one with four threads and a cache",
    ("mariadb", "durable"): "MariaDB answers a commit when it is on the disk, and repairs half-written pages",
    ("mysql", "durable"): "MySQL answers a commit when it is on the disk, and repairs half-written pages",
    ("postgresql", "durable"): "PostgreSQL answers a commit when it is on the disk",
}
FILE: Words = {
    "services": ("mapping", "exactly one service, named like its folder", "services: {etcd: {…}}"),
    "x-devenv": ("mapping", "keys that Compose does not have, see below", "x-devenv: {…}"),
    "configs": ("mapping", "files for the container by name", "configs: {server: {file: ./etcd.yaml}}"),
    "configs.NAME.file": ("path", "a template in the service's folder", "file: ./etcd.yaml"),
    "volumes": (
        "mapping",
        "volumes by name, each with an empty value: devenv names and labels them",
        "volumes: {data: {}}",
    ),
}
CONTAINER: Words = {
    "image": ("image", "with `build`, its name without a tag; else the image to pull", "image: devenv/etcd"),
    "build": ("`.`", "build `Dockerfile` of this folder on devenv's base", "build: ."),
    "user": ("text", "the user that runs the server; not root", "user: nobody"),
    "hostname": ("name", "the host name inside the container", "hostname: etcd"),
    "working_dir": ("path", "where the server starts", "working_dir: /var/lib/etcd"),
    "entrypoint": ("list of text", "the program", "entrypoint: [etcd]"),
    "command": ("list of text", "its arguments", 'command: ["--config-file=/etc/devenv/etcd.yaml"]'),
    "environment": ("mapping", "variables inside the container", "environment: {HOME: /etc/devenv}"),
    "configs": (
        "list",
        "files of `configs` and their places in the container",
        "- {source: server, target: /etc/devenv/etcd.yaml}",
    ),
    "configs[].source": ("name", "a name under the file's `configs`", "source: server"),
    "configs[].target": ("path", "a file right under `/etc/devenv/`", "target: /etc/devenv/etcd.yaml"),
    "volumes": ("list", "`NAME:/path`; the server writes below the folder `data` in it", '["data:/var/lib/etcd"]'),
    "tmpfs": ("list of paths", "folders in memory", "tmpfs: [/tmp]"),
    "ports": (
        "list",
        "`127.0.0.1::PORT`: ports inside, each published on a port that devenv chooses",
        '["127.0.0.1::2379"]',
    ),
    "read_only": ("true or false", "whether the root file system is read-only", "read_only: true"),
    "init": ("true or false", "whether a tiny init reaps processes", "init: true"),
    "cap_drop": ("`[ALL]`", "drop all capabilities", "cap_drop: [ALL]"),
    "security_opt": ("`[no-new-privileges:true]`", "gain no privileges", 'security_opt: ["no-new-privileges:true"]'),
    "ulimits": ("mapping", "limits of the kernel", "ulimits: {nofile: 16384}"),
    "ulimits.nofile": ("number", "open files; ignored if the engine may not set the limit", "nofile: 16384"),
    "pids_limit": ("number", "at most so many processes and threads", "pids_limit: 256"),
    "mem_limit": ("size", "at most so much memory: bytes, or with k, m or g", "mem_limit: 512m"),
    "shm_size": ("size", "shared memory", "shm_size: 64m"),
    "stop_signal": ("text", "the signal that asks the server to end; SIGTERM if not given", "stop_signal: SIGINT"),
    "stop_grace_period": ("duration", "how long it may take to end; 10s if not given", "stop_grace_period: 1m30s"),
}
DEVENV: Words = {
    "role": ("name", "the role by which other services require it", "role: database"),
    "official": ("image", "the public image of the version that it builds, for CIs", "official: mysql:9.7"),
    "extra": ("name", "the extra of `openstack-devenv` that its probe and provisioner need", "extra: postgresql"),
    "default": ("true or false", "it fills the role where nothing else is said", "default: true"),
    "citest": (
        "template",
        "a database's URL for OpenStack's own test suites; its provisioner knows `rights: all`",
        "citest: mysql+pymysql://$${output.USER}:…/",
    ),
    "clients": (
        "mapping",
        "programs that are commands of devenv, the usual one first: the command in the container; or the `package` of a"
        " program of the user's machine, and with what `environment` it logs in by clouds.yaml",
        "clients: {etcdctl: [etcdctl]}",
    ),
    "uid": (
        "number",
        "the number of its user in its image and in official ones, for engines that take no name; any, if not set",
        "uid: 999",
    ),
    "page": ("template", "the URL of a page for a browser; the login is in `outputs`", "page: $${endpoint.http.url}"),
    "endpoints": (
        "mapping",
        "endpoints by name; variables of the first have the service's name alone",
        "endpoints: {client: {…}}",
    ),
    "endpoints.NAME.port": ("number", "the port inside the container, one of `ports`", "port: 2379"),
    "endpoints.NAME.url": ("template", "the URL, of `${host}`, `${port}` and values", "url: http://$${host}:$${port}"),
    "probe": (
        "mapping",
        "how to check that it is ready: a kind and its settings",
        "probe: {kind: etcd, endpoint: client}",
    ),
    "probe.kind": ("name", "one of the kinds below", "kind: etcd"),
    "probe.endpoint": ("name", "the endpoint to ask", "endpoint: client"),
    "secrets": ("list of names", "secrets that devenv makes at random, once per environment", "secrets: [password]"),
    "outputs": ("mapping", "variables `DEVENV_SERVICE_KEY`", "outputs: {USER: devenv}"),
    "environment": (
        "mapping",
        "variables that clients know, under their own names",
        "environment: {OS_USERNAME: admin}",
    ),
    "provisioner": (
        "mapping",
        "how to create a part for each component: a kind and its settings",
        "provisioner: {kind: mysql, endpoint: sql, …}",
    ),
    "provisioner.kind": ("name", "one of the kinds below", "kind: mysql"),
    "provisioner.endpoint": ("name", "the endpoint that it uses", "endpoint: sql"),
    "component": ("mapping", "the names in that part, and how the component sees the service", "component: {…}"),
    "component.urls": ("mapping", "URLs by endpoint that replace the endpoints' own", "urls: {sql: …}"),
    "component.outputs": (
        "mapping",
        "variables `DEVENV_SERVICE_KEY`; the provisioner gets them in lower case",
        "outputs: {USER: $${component.name}}",
    ),
    "component.environment": ("mapping", "variables that clients know", "environment: {OS_USERNAME: …}"),
    "component.settings": ("mapping", "other settings for the provisioner", "settings: {roles: $${component.roles}}"),
    "component.reserved": ("list of names", "names that no component may have", "reserved: [root]"),
    "switches": (
        "mapping",
        "switches for devenv.yaml, each with the keys of `x-devenv` that it adds or changes",
        "switches: {auth: {…}}",
    ),
    "wire": ("folder", "the folder with the templates of wired files; `wire` if not given", "wire: wire"),
    "attach": (
        "mapping",
        "what the URL of a server that somebody else runs becomes: its `endpoint`, the `schemes` it may have with the "
        "port of each, the `path` if it has none, `urls` by endpoint, `others` that may have URLs of their own; "
        "`login: optional` if there may be none, `logged_in` for what a login changes and `by_login` for the switches "
        "that it stands for; and the keys of `x-devenv` "
        "that it changes. Templates use `$${attach.user}`, `password`, `path`, `url_path`, `login` (`user:password@`)",
        "attach: {endpoint: sql, schemes: {mysql: 3306}, urls: {sql: …}}",
    ),
    "wheels": (
        "path",
        "a pip requirements file; devenv fetches its wheels for the build, as `wheels/`",
        "wheels: requirements.txt",
    ),
    "package": ("text", "the package whose version `devenv images list` shows", "package: etcd-server"),
    "plugins": (
        "mapping",
        "what devenv.yaml can enable more, each with the keys of `x-devenv` that it adds or changes; "
        "`$${setting.plugins}` lists what is enabled, with commas between",
        "plugins: {rabbitmq_top: {}}",
    ),
    "settings": ("mapping", "values for templates, which a switch can change", 'settings: {sync: "false"}'),
    "golden": (
        "list of names",
        "volumes that a new environment starts with a copy of; devenv replaces the credentials in them",
        "golden: [data]",
    ),
    "resumes": (
        "true or false",
        "whether the next start completes a killed first start; else devenv recreates the volumes",
        "resumes: true",
    ),
    "requires": ("mapping", "other services that it needs, by role", "requires: {database: {…}}"),
    "requires.NAME.condition": (
        "`service_started` or `service_healthy`",
        "the state that the other one must have before this one starts",
        "condition: service_started",
    ),
    "requires.NAME.component": ("name", "the component as which it gets a part there", "component: keystone"),
}
PROBES = {
    "amqp": ("`user`, `password`, `vhost`", "a login, no alarm, and a queue as oslo.messaging declares it"),
    "etcd": ("none", "`/health`: a leader, a linearizable read, no alarm"),
    "keystone": ("`user`, `password`, `project`", "a token, and the identity URL in its catalog"),
    "mariadb": ("`user`, `password`, `database`", "a login over TCP and a statement in the database"),
    "mysql": ("`user`, `password`, `database`", "a login over TCP and a statement in the database"),
    "postgresql": ("`user`, `password`, `database`", "a login over TCP and a statement in the database"),
}
PROVISIONERS = {
    "etcd": ("`auth`, `password`; `prepare` to switch authentication", "`prefix`; with `auth` also `user`, `password`"),
    "keystone": (
        "`user`, `password`, `project`, `token`",
        "`user`, `password`, `project`, `roles`, `region`, `catalog_type`, `catalog_name`, `catalog_url`",
    ),
    "mariadb": ("`user`, `password`", "`database`, `user`, `password`"),
    "mysql": (
        "`user`, `password`; `log_in` as each component after a start",
        "`database`, `user`, `password`",
    ),
    "postgresql": ("`user`, `password`, `database`", "`database`, `user`, `password`"),
    "rabbitmq": (
        "`user`, `password`; `initial`, the definitions after a reset; `settle` before a snapshot, in its `vhost`",
        "`vhost`, `user`, `password`",
    ),
}
VALUES = [
    ("`${secret.NAME}`", "a secret of this service"),
    ("`${endpoint.NAME.host}`, `.port`, `.url`", "an endpoint as this host sees it"),
    ("`${network.NAME.host}`, `.port`, `.url`", "the same endpoint as other containers see it"),
    ("`${output.KEY}`", "one of `outputs`; not in `outputs` itself"),
    ("`${setting.NAME}`", "one of `settings`, in files under `configs` and under `wire/`"),
    ("`${environment}`", "the environment's id, such as `nova-1a2b3c4d`"),
    ("`${ROLE.host}`, `.port`", "the service of a required role, over the container network"),
    ("`${ROLE.user}`, `.password`, …", "the outputs of this component there, in lower case"),
    (
        "`${component.name}`, `.identifier`, `.password`",
        "for components: the name, the name with `_` for `-`, and the password for this service",
    ),
    ("`${component.roles}`", "for components: the roles of the service user, separated by commas"),
    (
        "`${catalog.type}`, `.name`, `.url`",
        "for components: the entry in the service catalog, or empty",
    ),
    ("`${section.name}`, `.type`", "in `wire/section/` and `wire/typed-section/`: a section that the component lists"),
    ("`${unset}`", "in files right under `wire/`: the command that takes the variables of `wire/unset/` from a shell"),
    ("`${host}`, `${port}`", "only in the `url` of an endpoint: that endpoint, from either side"),
]
VARIABLES = [
    ("`DEVENV_FILE`", "as `--file`: the project's file, from its folder on; `devenv.yaml` if not set"),
    ("`DEVENV_ENGINE`", "as `--engine`: the kind of engine, `docker` or `kubernetes`"),
    ("`DEVENV_KUBE_CONTEXT`", "as `--context`: a context of the kubeconfig; the current one if not set"),
    ("`DEVENV_KUBE_NAMESPACE`", "as `--namespace`: a namespace of the cluster; the context's if not set"),
    ("`DEVENV_SHARED`", "as `--shared`: the name under which hosts share the environment, in a cluster"),
    ("`KUBECONFIG`", "the files with logins to clusters, as for `kubectl`; `~/.kube/config` if not set"),
    ("`KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT`", "set in a pod: where its own cluster answers"),
    (
        "`DEVENV_ATTACH_SERVICE`, `…_MANAGEMENT`, `…_USER`, `…_PASSWORD`",
        "as `attach` and the keys beside it in devenv.yaml, with the service's name in capitals: DEVENV_ATTACH_MYSQL",
    ),
    ("`DEVENV_OUTPUT_DIR`", "as `--output-dir`: the folder for written files, an absolute path; `.devenv/` if not set"),
    ("`DEVENV_STATE_DIR`", "the folder for state, an absolute path; on Linux `~/.local/state/devenv` if not set"),
    (
        "`DEVENV_CACHE_DIR`",
        "the folder for caches, an absolute path; on Linux `~/.cache/devenv` if not set, `STATE/cache` without a home",
    ),
    (
        "`DOCKER_HOST`",
        "the engine, as for `docker`; `ssh://USER@HOST` is another host's (see `devenv help remote`)",
    ),
    (
        "`DEVENV_TUNNEL`",
        "`no`: forward no ports of an engine elsewhere; `ssh://USER@HOST`: forward them through that host, also for an "
        "engine behind TLS",
    ),
    ("`DOCKER_TLS_VERIFY`, `DOCKER_CERT_PATH`", "TLS for `DOCKER_HOST`, as for `docker`"),
    ("`DOCKER_CONTEXT`, `DOCKER_CONFIG`", "docker's context, and the folder with docker's settings"),
    ("`XDG_RUNTIME_DIR`", "the folder with a rootless engine's socket; devenv also tries `/run/user/UID`"),
    ("`XDG_STATE_HOME`, `XDG_CACHE_HOME`", "on Linux, replace `~/.local/state` and `~/.cache`"),
    ("`SHELL`", "the shell that `devenv shell` opens; `/bin/sh` if not set"),
    (
        "`BROWSER`, `DISPLAY`, `WAYLAND_DISPLAY`",
        "if one is set, `devenv open` on a terminal opens a browser: the one that BROWSER names, else the desktop's",
    ),
    ("`NO_COLOR`", "no colours"),
    ("`CI`, `TERM=dumb`", "print one line per step instead of the live display; with `CI`, also ask nothing"),
    ("`GITHUB_ACTIONS`, `GITLAB_CI`", "make `devenv ci` fold its log for that CI system"),
    ("`GITHUB_STEP_SUMMARY`", "the file to which `devenv ci` appends its report"),
    (
        "`TOX_CONFIG_FILE`",
        "as in tox: the file or folder of its configuration, to whose lists `devenv run` adds variables",
    ),
    ("`COLUMNS`", "the width of tables if the output is not a terminal; 80 if not set"),
    (
        "`HTTP_PROXY`, `HTTPS_PROXY`, `FTP_PROXY`, `ALL_PROXY`, `NO_PROXY`",
        "proxies for builds and pip, also in lower case; for builds else those of docker's config.json. With one on "
        "127.0.0.1, devenv builds over the network of the engine's host, or leaves it out if that cannot reach it. "
        "Probes ignore proxies",
    ),
    ("`PIP_INDEX_URL` and all of pip's", "used to fetch wheels, like pip's own files"),
]
WRITTEN = [
    ("`.devenv/.gitignore`", "keeps the folder out of git"),
    ("`.devenv/env`", "what `devenv env` prints: `NAME=value` lines"),
    ("`.devenv/endpoints.json`", "host, port and URL of every endpoint by service"),
    ("`.devenv/oslo.conf`", "the overlay of the component `devenv`, which every environment has"),
    ("`.devenv/COMPONENT.conf.d/`", "the overlay alone in a folder, for `--config-dir`"),
]
KEPT = [
    ("`STATE/environments/ID/record.json`", "project, profile, ports, components and token of an environment"),
    ("`STATE/environments/ID/secrets.json`", "its secrets, 0600"),
    ("`STATE/environments/ID/timing.json`", "step times of the last `up`, for `status --timing`"),
    ("`STATE/environments/ID/snapshots/NAME.json`", "the contents of a snapshot, with the secrets of its data, 0600"),
    (
        "`STATE/environments/ID/pools/TOKEN/NAME.conf`",
        "the overlay of a test's component, with its passwords, 0600; beside it the lock of the process that uses it",
    ),
    ("`STATE/environments/ID/users`", "lock of all processes that use the services for a while"),
    ("`STATE/environments/ID/lent/NAME`", "lock of the process that borrowed a component"),
    (
        "`STATE/environments/ID/lock`, `STATE/ports.lock`, `STATE/folders.lock`",
        "lock of the devenv that changes something",
    ),
    ("`STATE/wired.json`, `STATE/wired.lock`", "what devenv merged into files of projects, for `unwire`"),
    (
        "`STATE/environments/ID/attached.json`",
        "URLs and logins of attached services, by which `devenv down` finds what devenv made there",
    ),
    ("`STATE/trust.json`, `STATE/trust.lock`", "which files `devenv trust` allowed, with the hashes of what they held"),
    ("`CACHE/wheels/`", "Python wheels for images; you may remove it"),
    ("`CACHE/packages/`", "the packages of each image, by its id; you may remove it"),
    ("`CACHE/golden/`", "an empty file for each golden state, with the time of its last use; you may remove it"),
    ("`CACHE/*.lock`", "lock of the devenv that makes an image or keeps a golden state"),
    ("`devenv.yaml`", "written by `devenv init` only, which never overwrites it"),
    (
        "`/var/log/devenv-dockerd.log`",
        "log of an engine that `doctor --fix` started without systemd; of a user's engine: `STATE/dockerd.log`",
    ),
]


if __name__ == "__main__":
    PAGE.write_text(page())
