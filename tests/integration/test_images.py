"""Which images devenv uses and which it refuses, how it pulls the base, and what `images` says of them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from project import Project, golden_states, one_clear_line, ours, tags
from registry import Registry, image, serving

from devenv.engine import connect
from devenv.engine.image_names import familiar
from devenv.errors import ServiceFailed
from devenv.images import build as imagebuild, references as images
from devenv.images.references import BASE, LABEL_CONTENT, stale_images
from devenv.lifecycle.environment import Environment
from devenv.model import LABEL_ENVIRONMENT, LABEL_SERVICE, SHARED, Profile
from devenv.spec.catalogue import load_catalogue
from tests.pages import versions

TAG = "trixie-slim"
# An etcd of nothing but the base. A comment makes it another one for each test.
TINY = "ARG BASE\nFROM ${{BASE}}\nCOPY Dockerfile /content\nUSER nobody\n# {unique}\n"


@pytest.fixture
def tiny(project: Project, checkout: Path, client: docker.DockerClient) -> Iterator[str]:
    """Yield the name of an image of etcd that only this test uses. The image is not there yet."""
    project.configure("profile: coordination\n")
    (checkout / "compose/etcd/Dockerfile").write_text(TINY.format(unique=uuid.uuid4()))
    reference = listed(project)["etcd"]["reference"]
    yield reference
    remove(client, reference)


def listed(project: Project) -> dict[str, Any]:
    return {image["service"]: image for image in project.json("images", "list")}


def remove(client: docker.DockerClient, *references: str) -> None:
    there = tags(client)
    for reference in references:
        for tag in there & {reference, f"{reference}-draft", f"{reference}-kept"}:
            client.images.remove(tag, force=True)


def built(client: docker.DockerClient, dockerfile: str, tag: str, **labels: str) -> None:
    # An image that loses its name to another would stay.
    if client.images.list(tag):
        client.images.remove(tag, force=True)
    client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=tag, labels=labels, rm=True)


# ---- foreign images with devenv's names --------------------------------------------------------------------------


def labels(service: str) -> dict[str, str]:
    return {LABEL_ENVIRONMENT: SHARED, LABEL_SERVICE: service}


def refused(project: Project, client: docker.DockerClient, reference: str, *commands: list[str]) -> None:
    """Check that these commands refuse the image with one line before they do anything, and leave it its name."""
    identity = client.images.get(reference).id
    for command in commands:
        line = f"cannot use image {reference}: devenv did not build it ({identity[:19]})"
        one_clear_line(project.devenv(*command, check=False), 7, line, f"docker image rm {reference}")
    assert ours(client, project.id) == {"containers": [], "networks": [], "volumes": []}
    assert client.images.get(reference).id == identity


def test_an_image_with_our_tag_and_other_content_is_refused(
    project: Project, client: docker.DockerClient, checkout: Path, tiny: str
) -> None:
    base = listed(project)[BASE]["reference"]
    # Plainly another image.
    client.images.get(base).tag(*tiny.split(":"))
    refused(project, client, tiny, ["plan"], ["images", "build"], ["images", "sbom"])
    assert listed(project)["etcd"]["genuine"] is False
    assert "not ours" in project.devenv("images", "list").stdout
    # Without it, devenv makes and uses its own.
    remove(client, tiny)
    project.devenv("images", "build")
    genuine = client.images.get(tiny)
    assert listed(project)["etcd"]["genuine"] is True
    assert [*map(familiar, genuine.tags)] == [tiny] and not client.images.list(f"{tiny}-draft")
    genuine.tag(*f"{tiny}-kept".split(":"))
    project.devenv("plan")
    # Images made from devenv's, with all of its labels: with other settings, or another layer.
    for line in ("ENV LD_PRELOAD=/content", "COPY --from=0 /content /other"):
        built(client, f"FROM {genuine.id}\nFROM {genuine.id}\n{line}\n", tiny)
        assert client.images.get(tiny).labels == genuine.labels
        refused(project, client, tiny, ["plan"])
    # An unrelated image with devenv's labels.
    built(client, f'FROM {base}\nCMD ["/content"]\n', tiny, **genuine.labels)
    refused(project, client, tiny, ["plan"])
    # An older image of devenv's under a newer name.
    dockerfile = checkout / "compose/etcd/Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + "# newer\n")
    newer = listed(project)["etcd"]["reference"]
    try:
        genuine.tag(*newer.split(":"))
        refused(project, client, newer, ["plan"], ["up"])
    finally:
        remove(client, newer)


def test_nothing_is_built_on_a_base_that_is_not_devenvs(
    project: Project, client: docker.DockerClient, checkout: Path, tiny: str
) -> None:
    base_file = checkout / "compose/base.yaml"
    base_file.write_text(base_file.read_text().replace("- /usr/share/info/*", f"- /usr/share/{uuid.uuid4()}/*"))
    there = listed(project)
    base = there[BASE]["reference"]
    try:
        # The tag is in the name: Podman 4 takes no other.
        client.api.import_image_from_data(b"\0" * 10240, repository=base)
        failed = project.devenv("up", check=False)
        one_clear_line(failed, 7, f"cannot use image {base}: devenv did not build it")
        assert listed(project)["etcd"]["size"] is None
    finally:
        remove(client, base, there["etcd"]["reference"])


def stale(project: Project) -> list[str]:
    """Return what `images prune` would remove."""
    with project.inside():
        environment = Environment()
        catalogue = environment._world.define().catalogue
        return [*stale_images(environment.engine, images.images_for(Profile("", {}), catalogue).values())]


def test_prune_takes_the_names_that_devenv_gave_and_nothing_that_somebody_made(
    project: Project, client: docker.DockerClient, checkout: Path, tiny: str
) -> None:
    project.devenv("images", "build")
    mine = f"mine-{project.id}:1"
    genuine = client.images.get(tiny).id
    built(client, f"FROM {tiny}\nENV MINE=1\n", mine)
    client.images.build(fileobj=io.BytesIO(f"FROM {tiny}\nENV MINE=2\n".encode()), labels={"mine": project.id}, rm=True)
    (unnamed,) = client.images.list(filters={"label": f"mine={project.id}"})
    kept = f"mine-{project.id}:kept"
    client.images.get(tiny).tag(*kept.split(":"))
    try:
        assert client.images.get(mine).labels[LABEL_ENVIRONMENT] == unnamed.labels[LABEL_ENVIRONMENT] == SHARED
        # Not `prune` itself, which would remove what other tests made and use.
        assert tiny not in stale(project)
        (checkout / "compose/etcd/Dockerfile").write_text(TINY.format(unique=uuid.uuid4()))
        found = stale(project)
        assert tiny in found and not {mine, kept, unnamed.id} & {*found}
        assert connect().remove_image(tiny)
        assert client.images.get(kept).id == genuine and client.images.get(mine) and client.images.get(unnamed.id)
    finally:
        for image in (mine, unnamed.id, kept):
            client.images.remove(image, force=True)


def test_what_has_the_name_of_a_golden_state_is_no_data(
    project: Project, client: docker.DockerClient, checkout: Path
) -> None:
    project.configure("profile: coordination\n")
    compose = checkout / "compose/etcd/compose.yaml"
    # A golden state of this test's own.
    text = compose.read_text().replace("pids_limit: 256", "pids_limit: 259")
    compose.write_text(text.replace("  role: coordination\n", "  role: coordination\n  golden: [data]\n"))
    (reference,) = golden_states(project)
    base = listed(project)[BASE]["reference"]
    try:
        # Plainly another image; then an image that somebody built, with the labels of devenv's data.
        client.images.get(base).tag(*reference.split(":"))
        refused(project, client, reference, ["plan"])
        built(client, f"FROM {base}\nCOPY Dockerfile /etcd/data/\n", reference, **labels("etcd"))
        refused(project, client, reference, ["plan"], ["up"])
    finally:
        remove(client, reference)


# ---- how the base is pulled --------------------------------------------------------------------------------------


def reachable() -> str:
    """Return an address of this host at which the engine finds a registry: 127.0.0.1 may be its own."""
    if connect().about().loopback:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        # Sends nothing, but chooses an address. Nobody is there: the network is for documents.
        one.connect(("192.0.2.1", 9))
        return str(one.getsockname()[0])


@pytest.fixture
def registry(client: docker.DockerClient) -> Iterator[Registry]:
    with serving(str(uuid.uuid4()), client.version()["Arch"], TAG, reachable()) as one:
        yield one
        for found in client.api.images():
            names = [*(found["RepoTags"] or ()), *(found["RepoDigests"] or ())]
            if any(name.startswith(f"{one.address}/") for name in names):
                client.images.remove(found["Id"], force=True)


@pytest.mark.parametrize(
    "pinned", [pytest.param(False, id="by tag", marks=pytest.mark.long), pytest.param(True, id="pinned")]
)
def test_the_base_is_what_was_pulled_and_says_by_its_digest_what_that_was(
    project: Project, checkout: Path, client: docker.DockerClient, registry: Registry, tiny: str, pinned: bool
) -> None:
    base_file = checkout / "compose/base.yaml"
    recipe = yaml.safe_load(base_file.read_text())
    name = registry.name(TAG, registry.digest if pinned else "")
    base_file.write_text(yaml.safe_dump({**recipe, "image": name}))
    references = [one["reference"] for one in listed(project).values()]
    try:
        project.devenv("images", "build")
        # Both the base and the image that is built on it.
        for one in listed(project).values():
            assert one["base"] == registry.name(digest=registry.digest) and one["genuine"]
        assert TAG in registry.asked or pinned
        assert set(registry.asked) <= ({registry.digest} if pinned else {TAG, registry.digest})
        layers = {r: client.images.get(r).attrs["RootFS"]["Layers"] for r in references}
        pulled = client.images.get(registry.name(digest=registry.digest)).attrs["RootFS"]["Layers"]
        assert [found[:1] for found in layers.values()] == [pulled, pulled]
    finally:
        remove(client, *references)


def test_another_image_than_the_pinned_one_is_not_taken(
    registry: Registry, client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine itself refuses it; without a tool to make a base from packages, devenv has none then."""
    _, blobs, manifest = image("other", client.version()["Arch"])
    registry.blobs.update(blobs)
    registry.manifests[registry.digest] = manifest
    monkeypatch.setattr(images, "recipe", lambda: {"image": registry.name(TAG, registry.digest), "suite": "trixie"})
    monkeypatch.setattr(imagebuild, "base_tool", lambda: "")
    reference = f"devenv/base:test-{uuid.uuid4()}"
    with pytest.raises(ServiceFailed, match="cannot get a base image: no registry gave it") as failure:
        imagebuild.make_base(connect(), reference, lambda text: None)
    assert registry.digest in registry.asked
    assert "cannot pull image" in failure.value.detail[0] and "digest" in failure.value.detail[0]
    assert not [tag for tag in tags(client) if reference in tag]


def test_a_pull_goes_with_the_users_login_and_without_one_if_the_helper_fails(
    registry: Registry, client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    helper = tmp_path / "docker-credential-devenv-test"
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {registry.address: "devenv-test"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    engine, name = connect(), registry.name(TAG)

    def pulled() -> bool:
        engine.pull(name, lambda _: None)
        return engine.remove_image(name)

    helper.write_text("#!/bin/sh\necho pass not initialised; exit 1\n")
    helper.chmod(0o755)
    assert pulled()
    registry.login = "user:secret"
    with pytest.raises(ServiceFailed, match=f"cannot pull image {name}") as failure:
        pulled()
    assert failure.value.hint.startswith("docker-credential-devenv-test fails (exit code 1: pass not initialised)")
    helper.write_text("""#!/bin/sh\necho '{"Username": "user", "Secret": "secret"}'\n""")
    assert pulled()


# ---- how a build reaches the network -----------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Run a proxy on the loopback. Yield its port, and the addresses and logins that clients sent so far."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Proxy-Authorization") or ""))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def test_a_build_goes_through_a_proxy_on_the_loopback_whose_password_stays_out_of_the_image(
    project: Project, checkout: Path, client: docker.DockerClient, tiny: str, proxy: tuple[int, list[tuple[str, str]]]
) -> None:
    fetch = "RUN /usr/lib/apt/apt-helper download-file http://nowhere.invalid/file /tmp/fetched\n"
    dockerfile = checkout / "compose/etcd/Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("USER nobody\n", f"{fetch}USER nobody\n"))
    reference, (port, asked) = listed(project)["etcd"]["reference"], proxy
    login = uuid.uuid4().hex
    project.extra = {"HTTP_PROXY": f"http://user:{login}@127.0.0.1:{port}", "http_proxy": "", "NO_PROXY": "127.0.0.1"}
    try:
        if not connect().about().loopback:
            # The loopback of its builds is not this host's. devenv builds without the proxy, and says so if that fails.
            failed = project.devenv("images", "build", check=False)
            return one_clear_line(failed, 5, f"cannot build image {reference}", "http_proxy left out")
        done = project.devenv("--debug", "images", "build")
        expected = base64.b64encode(f"user:{login}".encode()).decode()
        assert asked == [("http://nowhere.invalid/file", f"Basic {expected}")]
        made = client.images.get(reference)
        assert login not in json.dumps([made.attrs, made.history()]) + done.stdout + done.stderr
    finally:
        remove(client, reference)


# ---- what is in the images ---------------------------------------------------------------------------------------


@pytest.fixture
def fresh(project: Project, tmp_path: Path) -> Project:
    """Configure a project of all services, whose images devenv has not read yet."""
    project.configure("profile: base\n")
    project.extra = {"DEVENV_CACHE_DIR": str(tmp_path / "cache")}
    return project


def test_the_bill_of_materials_holds_what_is_in_the_images(
    fresh: Project, client: docker.DockerClient, tmp_path: Path
) -> None:
    written = tmp_path / "images.spdx.json"
    written.write_text(fresh.devenv("images", "sbom").stdout)
    # SPDX's own validator; it says nothing if all is well.
    validator = Path(sys.executable).with_name("pyspdxtools")
    done = subprocess.run([validator, "--infile", written], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")

    document = json.loads(written.read_text())
    by_id = {package["SPDXID"]: package for package in document["packages"]}
    related = [(r["relationshipType"], r["spdxElementId"], r["relatedSpdxElement"]) for r in document["relationships"]]
    described = {by_id[other]["name"]: other for how, _, other in related if how == "DESCRIBES"}
    assert set(described) == {f"devenv/{name}" for name in ("mysql", "rabbitmq", "etcd", "keystone")}

    def told(name: str, kind: str) -> set[tuple[str, str]]:
        inside = [by_id[other] for how, one, other in related if how == "CONTAINS" and one == described[name]]
        found = [p for p in inside if p["externalRefs"][0]["referenceLocator"].startswith(f"pkg:{kind}/")]
        return {(package["name"], package["versionInfo"]) for package in found}

    def said(name: str, *command: str) -> list[str]:
        reference = f"{name}:{by_id[described[name]]['versionInfo']}"
        options = {"entrypoint": command[0], "network_mode": "none", "detach": True}
        container = client.containers.run(reference, command[1:], **options)
        try:
            # Without `detach`, the client removes the container before it has read all: Podman then has no log.
            container.wait()
            return container.logs(stderr=False).decode().splitlines()
        finally:
            container.remove(force=True)

    fields = "-f=${Package} ${Version} ${Maintainer}\n"
    unpacked = {"devenv/etcd": {"etcd-server", "etcd-client"}}
    for name in described:
        lines = [line.split(" ", 2) for line in said(name, "dpkg-query", "-W", fields)]
        installed = {(package, version) for package, version, who in lines if not who.startswith("devenv ")}
        assert len(installed) > 50
        by_hand = {(p, v) for p, v in told(name, "deb") if p in unpacked.get(name, ())}
        assert len(by_hand) == len(unpacked.get(name, ()))
        assert told(name, "deb") == installed | by_hand
    code = "import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata['Name'], d.version)"
    assert told("devenv/keystone", "pypi") == {
        tuple(line.split()) for line in said("devenv/keystone", "python3", "-c", code)
    }
    (version,) = [v.partition("-")[0] for p, v in told("devenv/etcd", "deb") if p == "etcd-server"]
    assert said("devenv/etcd", "etcd", "--version")[0] == f"etcd Version: {version}"


def test_the_list_shows_digests_and_versions(fresh: Project, client: docker.DockerClient) -> None:
    found = listed(fresh)
    for one in found.values():
        assert one["id"] == client.images.get(one["reference"]).id
        assert one["version"] and one["genuine"] and one["size"] > 0
        assert client.images.get(one["reference"]).labels[LABEL_CONTENT]
    lines = fresh.devenv("images", "list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["SERVICE", "IMAGE", "DIGEST", "VERSION", "SIZE"]
    for line, one in zip(lines[1:], found.values(), strict=True):
        _, reference, digest, version, *_ = line.split()
        assert (reference, digest) == (one["reference"], one["id"].removeprefix("sha256:")[:12])
        assert one["version"].startswith(version)


@pytest.mark.anywhere
def test_jobs_of_a_ci_get_the_versions_that_devenv_builds(fresh: Project) -> None:
    official = {name: service.official for name, service in load_catalogue().items() if service.official}
    assert {"mysql", "rabbitmq", "etcd"} <= official.keys()
    for name, one in listed(fresh).items():
        if name in official:
            version = official[name].rpartition(":")[2].removeprefix("v").removesuffix("-management")
            built = one["version"].partition("-")[0]
            assert f"{built}.".startswith(f"{version}."), (official[name], one["version"])


def test_an_image_that_is_not_there_has_no_bill_of_materials(project: Project) -> None:
    project.configure("profile: coordination\nservices: {etcd: {image: 'example.invalid/etcd:1'}}\n")
    refused = project.devenv("images", "sbom", check=False)
    one_clear_line(refused, 3, "cannot list packages: example.invalid/etcd:1 not there", "devenv images build")
    assert "not here" in project.devenv("images", "list").stdout


@pytest.mark.anywhere
def test_the_servers_have_the_versions_that_the_pages_name(project: Project) -> None:
    project.configure("services: {mariadb: {}, postgresql: {}}\n")
    found = {name: image["version"] for name, image in listed(project).items()}
    for name, row in versions().items():
        # Before the colon is Debian's epoch.
        assert re.match(rf"(\d+:)?{re.escape(row.built)}(?!\d)", found[name]), name
