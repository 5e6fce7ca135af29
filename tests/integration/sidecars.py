"""Run a CI's job that has services beside it, as GitHub and GitLab lay it out: in containers, on a network of its own.

The job runs in a container with Python and pip, but without the engine's socket. Its services are the images that the
job names; where no registry has them, images of devenv's stand in that take the same variables (see official/).
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
from docker.models.containers import Container
from docker.models.networks import Network
from docker.utils.socket import frames_iter

from devenv.images.references import BASE, images_for
from devenv.model import Profile
from devenv.spec.catalogue import load_catalogue

FOLDER = Path(__file__).parent / "official"
PYTHON = "python"
# Of Debian's python3 in devenv's base image.
VERSION = "3.13"
# What the jobs' tests require.
REQUIRED = ("pytest", "oslo.config")
WORK, WHEELS = "/builds/project", "/wheels"
# The job finds packages here, and nowhere else.
PIP = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS, "PIP_ROOT_USER_ACTION": "ignore", "PIP_QUIET": "1"}
# Seconds that GitLab's runner waits for a service's port. It goes on without it.
GITLAB_WAITS = 30
# Listens on the job's machine as the engine does for published ports: it accepts before the service listens.
PUBLISH = """\
import asyncio, sys
async def pass_on(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
async def serve(reader, writer, host, port):
    try:
        there = await asyncio.open_connection(host, port)
    except OSError:
        return writer.close()
    await asyncio.gather(pass_on(reader, there[1]), pass_on(there[0], writer), return_exceptions=True)
async def main():
    for word in sys.argv[1:]:
        host, port, inside = word.split(":")
        await asyncio.start_server(lambda r, w, h=host, i=inside: serve(r, w, h, int(i)), "127.0.0.1", int(port))
    await asyncio.Event().wait()
asyncio.run(main())
"""


@dataclass(frozen=True)
class Service:
    """A service container: the image that a job names, the container's variables, and `host:container` ports."""

    image: str
    environ: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[str] = ()


@dataclass
class Bench:
    """What all jobs of a test run share: an engine, images by the names that jobs give them, and a wheelhouse."""

    client: docker.DockerClient
    images: Mapping[str, str]
    wheels: Path

    @contextmanager
    def job(
        self, folder: Path, services: Mapping[str, Service], late: Sequence[str] = (), pod: bool = False
    ) -> Iterator[Job]:
        """Start services, under their names, and a container with a copy of the folder; remove them afterwards.

        The test itself starts those that are late. In a pod, as Kubernetes has it, all share one network interface.
        """
        name = f"devenv-test-{uuid.uuid4().hex[:12]}"
        network = self.client.networks.create(name)
        job = Job(self, network)
        try:
            ports = [f"{alias}:{port}" for alias, service in services.items() for port in service.ports]
            job.create("", self.images[PYTHON], {}, ["python3", "-c", PUBLISH, *ports]).start()
            for alias, service in services.items():
                job.create(alias, self.images.get(service.image, service.image), service.environ, pod=pod)
            for alias in services.keys() - {*late}:
                job.containers[alias].start()
            job.copy(folder, WORK)
            job.copy(self.wheels, WHEELS)
            yield job
        finally:
            for container in reversed(job.containers.values()):
                container.remove(force=True, v=True)
            network.remove()


@dataclass
class Job:
    """A job's containers by the services' names; its own has an empty name."""

    bench: Bench
    network: Network
    containers: dict[str, Container] = field(default_factory=dict)
    said: str = ""

    def create(
        self, alias: str, image: str, environ: Mapping[str, str], command: Sequence[str] = (), pod: bool = False
    ) -> Container:
        """Create a container that others on the network find under its alias, or that shares the job's loopback."""
        client = self.bench.client
        aliases = client.api.create_endpoint_config(aliases=[alias] if alias else [])
        own = {"network": self.network.name, "networking_config": {self.network.name: aliases}}
        self.containers[alias] = client.containers.create(
            image,
            [*command],
            environment=dict(environ),
            ulimits=[docker.types.Ulimit(name="nofile", soft=16384, hard=16384)],
            init=True,
            **({"network_mode": f"container:{self.containers[''].id}"} if pod else own),
        )
        return self.containers[alias]

    def copy(self, folder: Path, to: str) -> None:
        """Copy a folder of this machine to a new one in the job's container."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(folder, to.strip("/"), filter=_of_root)
        assert self.containers[""].put_archive("/", packed.getvalue())

    def read(self, path: str) -> dict[str, str]:
        """Return the files at a path of the job's folder, or below it, by their names; none if nothing is there."""
        try:
            chunks, _ = self.containers[""].get_archive(f"{WORK}/{path}")
        except docker.errors.NotFound:
            return {}
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            files = [member for member in archive.getmembers() if member.isfile()]
            return {file.name: archive.extractfile(file).read().decode() for file in files}  # type: ignore[union-attr]

    def run(
        self,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        seen: Callable[[str], object] = lambda said: None,
    ) -> int:
        """Run a command in the job's folder, and return its exit code. `said` grows; `seen` is told of each part."""
        api = self.bench.client.api
        run = api.exec_create(self.containers[""].id, [*command], environment={**PIP, **(environ or {})}, workdir=WORK)
        stream = api.exec_start(run["Id"], socket=True)
        # Closing the stream would leave the connection to the garbage collector.
        with closing(stream._response):
            for _, part in frames_iter(stream, tty=False):
                self.said += part.decode(errors="replace")
                seen(self.said)
        return int(api.exec_inspect(run["Id"])["ExitCode"])

    def inside(self, alias: str, *command: str) -> str:
        """Run a command, which must succeed, in a service's container; return what it prints."""
        code, (said, wrong) = self.containers[alias].exec_run([*command], demux=True)
        assert code == 0, (said, wrong)
        return (said or b"").decode()

    def listens(self, alias: str, port: str) -> bool:
        """Return whether a service accepts connections at its port."""
        code, _ = self.containers[""].exec_run(["bash", "-c", f"< /dev/tcp/{alias}/{port}"])
        return bool(code == 0)


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # Its method `replace` would copy the archive, too.
    member.uid = member.gid = 0
    return member


# ---- GitHub ------------------------------------------------------------------------------------------------------


def github_services(job: Mapping[str, Any]) -> dict[str, Service]:
    # In a container, the job reaches a service under its name alone.
    return {
        alias: Service(service["image"], service.get("env", {}), () if "container" in job else service["ports"])
        for alias, service in job.get("services", {}).items()
    }


def run_github(job: Mapping[str, Any], place: Job, seen: Callable[[str], object] = lambda said: None) -> bool:
    """Run the steps of a GitHub job; return whether all passed.

    A job with `container:` finds services under their names, any other finds their ports on its own machine.
    """
    assert set(job) <= {"runs-on", "container", "services", "env", "steps"}, job.keys()
    place.said, passed = "", True
    shell = ["sh", "-e"] if "container" in job else ["bash", "-e"]
    for step in job["steps"]:
        if not (passed or step.get("if") == "always()"):
            continue
        if "run" in step:
            # The runner itself says that it is GitHub's.
            environ = {"CI": "true", "GITHUB_ACTIONS": "true", **job.get("env", {}), **step.get("env", {})}
            passed = place.run([*shell, "-c", step["run"]], environ, seen) == 0 and passed
        else:
            action = step["uses"].partition("@")[0]
            assert action in ("actions/checkout", "actions/setup-python", "actions/upload-artifact"), action
    return passed


# ---- GitLab ------------------------------------------------------------------------------------------------------


def gitlab_services(job: Mapping[str, Any]) -> dict[str, Service]:
    # The runner gives the job's variables to services, too.
    return {
        service["alias"]: Service(service["name"], {**job.get("variables", {}), **service.get("variables", {})})
        for service in job.get("services", ())
    }


def run_gitlab(
    job: Mapping[str, Any],
    place: Job,
    seen: Callable[[str], object] = lambda said: None,
    waits: float = GITLAB_WAITS,
) -> bool:
    """Wait for the services' ports as GitLab's runner does, then run a job's scripts; return whether they passed."""
    assert set(job) <= {"image", "services", "variables", "before_script", "script", "after_script", "artifacts"}
    place.said, end = "", time.monotonic() + waits
    # Without this variable, the runner takes any port that the image exposes.
    ports = {alias: service.environ["HEALTHCHECK_TCP_PORT"] for alias, service in gitlab_services(job).items()}
    for alias in ports:
        while not place.listens(alias, ports[alias]) and time.monotonic() < end:
            time.sleep(0.2)
    environ = {"CI": "true", "GITLAB_CI": "true", **job.get("variables", {})}
    lines = [*job.get("before_script", ()), *job["script"]]
    passed = place.run(["bash", "-eo", "pipefail", "-c", "\n".join(lines)], environ, seen) == 0
    if after := job.get("after_script"):
        place.run(["bash", "-eo", "pipefail", "-c", "\n".join(after)], environ, seen)
    return passed


# ---- images ------------------------------------------------------------------------------------------------------


def make_bench(client: docker.DockerClient, wheel: Path, folder: Path) -> Bench:
    """Make the images that stand in for official ones, and a wheelhouse with this checkout's wheel."""
    catalogue = load_catalogue()
    built = images_for(Profile("sidecars", {}), catalogue)
    images = {PYTHON: _made(client, PYTHON, built[BASE].reference, folder)}
    for name, service in catalogue.items():
        if service.official:
            images[service.official] = _made(client, name, built[name].reference, folder)
    return Bench(client, images, _wheelhouse(wheel, folder / "wheels"))


def _made(client: docker.DockerClient, name: str, base: str, folder: Path) -> str:
    """Return an image of a script of official/: a server's is the entrypoint, Python's is run once."""
    script = (FOLDER / name).read_text()
    tag = f"devenv-test/official-{name}:{uuid.uuid5(uuid.NAMESPACE_OID, base + script).hex}"
    if not client.images.list(tag):
        user = client.images.get(base).attrs["Config"]["User"] or "root"
        last = f"RUN sh /{name}" if name == PYTHON else f'ENTRYPOINT ["sh", "/{name}"]'
        (folder / "Dockerfile").write_text(f"FROM {base}\nUSER root\nCOPY {name} /\nUSER {user}\n{last}\n")
        (folder / name).write_text(script)
        client.images.build(path=str(folder), tag=tag, rm=True, forcerm=True)
    return tag


def _wheelhouse(wheel: Path, folder: Path) -> Path:
    """Download what a job installs, for the Python of its container."""
    folder.mkdir()
    platforms = [f"manylinux_2_{minor}_{platform.machine()}" for minor in (17, 28, 34)]
    wanted = ["--only-binary=:all:", f"--python-version={VERSION}", "--implementation=cp"]
    wanted += [f"--abi={abi}" for abi in (f"cp{VERSION.replace('.', '')}", "abi3", "none")]
    wanted += [f"--platform={name}" for name in platforms]
    command = [sys.executable, "-m", "pip", "download", "--quiet", f"--dest={folder}", *wanted]
    subprocess.run([*command, f"{wheel}[postgresql]", *REQUIRED], check=True)
    return folder
