"""The two sides of the comparison: devenv, and Compose with the file beside this one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.bench.engine import Engine
from tests.bench.process import Done, Failed, Hear, run, run_together

COMPOSE_FILE = Path(__file__).parent / "compose" / "compose.yaml"
COMPOSE_VARIABLE = "DEVENV_BENCH_COMPOSE"
SERVICES = ("mysql", "rabbitmq", "etcd", "keystone")
OTHER_DATABASES = ("mariadb", "postgresql")
# Removes every golden state. If this devenv has no such command yet, the images are left.
FORGET_GOLDEN = ("gc", "--keep", "0")
GOLDEN_IMAGES = "devenv/golden"
# These bring all that `status` imports: devenv, and the clients with which it logs in to MySQL and RabbitMQ.
_IMPORTED = (
    "devenv.cli.main",
    "devenv.lifecycle.environment",
    "devenv.cli.tables",
    "devenv.lifecycle.trace",
    "amqp",
    "pymysql",
)


class Side(Protocol):
    """A side brings four services up and down again. `label` is on every engine object that it makes."""

    name: str
    label: str

    def up(self) -> Done: ...
    def start(self) -> Done: ...
    def stop(self) -> Done: ...
    def down(self, volumes: bool = False) -> Done: ...


class Devenv:
    """devenv in a project folder and a state folder of its own.

    Its commands get the `variables`, and run `through` another command, if the engine is not this host's.
    """

    name = "devenv"

    def __init__(
        self,
        folder: Path,
        environment: str = "bench",
        variables: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        self.folder, self._project = folder, folder / "project"
        self._project.mkdir(parents=True, exist_ok=True)
        self.environment = {"DEVENV_STATE_DIR": str(folder / "state"), "NO_COLOR": "1", **(variables or {})}
        # As installed packages are: compiled once, whatever this shell says.
        self.environment["PYTHONDONTWRITEBYTECODE"] = ""
        script = Path(sys.executable).with_name("devenv")
        self._program = [str(script)] if script.exists() else [sys.executable, "-m", "devenv"]
        self._name, self._through = environment, through
        self._prefix = [*through, *self._program, "--project", str(self._project), "--env", environment]
        self.label = ""

    def sibling(self, environment: str) -> Devenv:
        """Return another environment of the same project."""
        other = Devenv(self.folder, environment)
        other.identify()
        return other

    def run(self, *arguments: str, hear: Hear | None = None) -> Done:
        return run([*self._prefix, *arguments], self.environment, hear=hear)

    def identify(self) -> None:
        """Learn the label of all that the environment makes."""
        self.label = f"io.devenv.environment={self._json('status')['environment']['id']}"

    def prepare(self) -> dict[str, str]:
        """Have the images on the engine; return their references by service, the base's as "base"."""
        self.run("images", "build")
        self.identify()
        return {image["service"]: image["reference"] for image in self._json("images", "list")}

    def help(self) -> Done:
        return run([*self._program, "--help"], self.environment)

    def status(self) -> Done:
        return self.run("status")

    def imports(self) -> Done:
        """Start Python and import what `status` imports; nothing else."""
        return run([sys.executable, "-c", f"import {', '.join(_IMPORTED)}"], self.environment)

    def version(self) -> str:
        return self.run("--version").output.split()[-1]

    def variables(self) -> dict[str, str]:
        """Return endpoints and credentials of the environment that runs."""
        return dict(self._json("env"))

    def services(self) -> list[str]:
        """Return the names of the environment's services."""
        return sorted(self._json("status")["services"])

    # ---- what is measured ------------------------------------------------------------------------------------

    def up(self, *services: str, hear: Hear | None = None) -> Done:
        return self.run("up", *services, "--format", "json", hear=hear)

    def first_up(self) -> Done:
        """Run `up` as if nothing had kept a golden state, and keep none."""
        return self.run("up", "--no-golden", "--format", "json")

    def tests(self, suite: Path, processes: int) -> Done:
        """Run a file of tests in the environment that is up, in so many processes."""
        shutil.copy(suite, self._project / "test_suite.py")
        (self._project / "pytest.ini").touch()
        options = ["-q", "-p", "no:cacheprovider", "--devenv-env", self._name, "-n", str(processes)]
        return run([*self._through, sys.executable, "-m", "pytest", *options], self.environment, self._project)

    def components(self, names: Sequence[str]) -> Done:
        """Run `up` with these components and no others; drop what others had."""
        (self._project / "devenv.yaml").write_text(f"components: {json.dumps(list(names))}\n")
        return self.run("up", "--drop", "--format", "json")

    def without_components(self) -> None:
        (self._project / "devenv.yaml").unlink(missing_ok=True)

    def start(self) -> Done:
        return self.run("start", "--format", "json")

    def stop(self) -> Done:
        return self.run("stop", "--format", "json")

    def down(self, volumes: bool = False) -> Done:
        return self.run("down", *(["--volumes"] if volumes else []), "--format", "json")

    def reset(self) -> Done:
        return self.run("reset", "--format", "json")

    def save(self, name: str) -> Done:
        return self.run("snapshot", "save", name)

    def restore(self, name: str) -> Done:
        return self.run("snapshot", "restore", name, "--format", "json")

    def remove_snapshot(self, name: str) -> None:
        self.run("snapshot", "rm", name)

    def forget_golden(self, engine: Engine) -> None:
        """Have no golden state on the engine."""
        with contextlib.suppress(Failed):
            self.run(*FORGET_GOLDEN)
        engine.remove_images(GOLDEN_IMAGES)

    def _json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--format", "json").output)


def up_together(environments: Sequence[Devenv]) -> float:
    """Run `up` of all of them together; return the seconds until the last one is ready."""
    return _together(environments, "up")


def down_together(environments: Sequence[Devenv]) -> float:
    """Run `down --volumes` of all of them together; return the seconds until the last one is gone."""
    return _together(environments, "down", "--volumes")


def _together(environments: Sequence[Devenv], *arguments: str) -> float:
    return run_together([[*one._prefix, *arguments] for one in environments], environments[0].environment)


class Compose:
    """`docker compose` with the same images, in a Compose project of its own."""

    name = "compose"

    def __init__(self, program: list[str], images: dict[str, str]) -> None:
        project = f"devenv-bench-{os.getpid()}"
        self._command = [*program, "--project-name", project, "--file", str(COMPOSE_FILE)]
        self.environment = {f"{service.upper()}_IMAGE": reference for service, reference in images.items()}
        # Hexadecimal: one that begins with a dash would be an option of keystone-manage.
        self.environment["BENCH_PASSWORD"] = secrets.token_hex(16)
        self.label = f"com.docker.compose.project={project}"

    def up(self) -> Done:
        return self._run("up", "--wait")

    def start(self) -> Done:
        """Run `up`, too: Compose's `start` does not wait until services work."""
        return self._run("up", "--wait")

    def stop(self) -> Done:
        return self._run("stop")

    def down(self, volumes: bool = False) -> Done:
        return self._run("down", *(["--volumes"] if volumes else []))

    def _run(self, *arguments: str) -> Done:
        return run([*self._command, *arguments], self.environment)


def find_compose() -> tuple[list[str], str]:
    """Return the command that is Compose v2, and its version; both are empty without it."""
    named = os.environ.get(COMPOSE_VARIABLE)
    for program in [[named]] if named else [["docker", "compose"], ["docker-compose"]]:
        if shutil.which(program[0]) and (version := _version(program)):
            return program, version
    if named:
        raise Failed(f"cannot use {COMPOSE_VARIABLE}: {named} is no Compose v2")
    return [], ""


def _version(program: list[str]) -> str:
    try:
        version = run([*program, "version", "--short"], {}).output.strip().lstrip("v")
    except Failed:
        return ""
    # The first generation has neither `--wait` nor inline conditions.
    return "" if version.startswith("1.") else version
