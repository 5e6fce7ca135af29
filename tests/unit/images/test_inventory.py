"""Reports about images: which they are, and what devenv read from them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import inspected
from fake_engine import FakeEngine, Recorder

from devenv.cli.images import _row
from devenv.errors import ConfigError, NotOurs
from devenv.images.inventory import ImageStatus
from devenv.images.references import LABEL_BASE
from devenv.lifecycle.environment import Environment
from devenv.model import Observed
from devenv.store.places import cache_folder

STATUS = "Package: {name}\nVersion: 1:8.4.1-2\nArchitecture: amd64\n"
# The files in a container, by the folder that a test asks for.
FILES = {
    "/var/lib/dpkg/status.d": {"status.d/one": STATUS.format(name="mysql-server-core")},
    "/opt/one": {
        "one/a-1.dist-info/METADATA": "Name: a\nVersion: 1\n",
        "one/a-1.dist-info/RECORD": "Name: no\nVersion: 1\n",
        "one/a/_vendor/b-2.dist-info/METADATA": "Name: b\nVersion: 2\n",
    },
}


class Reader(FakeEngine):
    """An engine whose images hold `FILES`."""

    @contextmanager
    def unstarted(self, image: str) -> Iterator[str]:
        self._call("look into", image)
        yield "c"

    def has(self, _: str, path: str) -> bool:
        return path in FILES

    def read_folder(self, _: str, folder: str) -> Iterator[bytes]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, text in FILES[folder].items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
        data = buffer.getvalue()
        # Cut the stream where no entry begins or ends.
        yield from (data[start : start + 700] for start in range(0, len(data), 700))


@pytest.fixture
def engine() -> Reader:
    return Reader()


@pytest.fixture
def environment(tmp_path: Path, engine: Reader) -> Environment:
    (tmp_path / "devenv.yaml").write_text("profile: database\n")
    environment = Environment(tmp_path, report=Recorder())
    environment._world.seat._connected = engine  # type: ignore[assignment]
    reference = environment.image_references()["mysql"]
    engine.observed = Observed(images={reference: "id"})
    engine.inspected[reference] = inspected(reference, Config={"Env": ["PYTHONPATH=/opt/one:/none", "A=/opt/two"]})
    return environment


def looks(engine: Reader) -> int:
    return sum(call.startswith("look into") for call in engine.calls)


@pytest.mark.parametrize("look", [Environment.list_images, Environment.image_references])
def test_a_service_that_nobody_knows_is_a_clear_error(environment: Environment, look: Callable[..., object]) -> None:
    (environment.project / "devenv.yaml").write_text("services: [mysq]\n")
    with pytest.raises(ConfigError, match="cannot find service 'mysq'") as error:
        look(environment)
    assert "mysql" in error.value.hint


def test_the_version_is_that_of_the_package_that_matters(environment: Environment, engine: Reader) -> None:
    base, mysql = environment.list_images()
    assert (base.size, base.id, base.version) == (None, "", "")
    assert (mysql.version, mysql.genuine) == ("1:8.4.1-2", True)
    assert _row(mysql)[3] == "8.4.1"


def test_an_image_is_read_once_as_far_as_it_is_packages(environment: Environment, engine: Reader) -> None:
    names = [package["name"] for package in environment.sbom()["packages"]]
    assert names == ["devenv/mysql", "mysql-server-core", "a"]
    environment.list_images()
    assert looks(engine) == 1


@pytest.mark.parametrize("garbage", ["", "{", "[1]", '[["deb"]]', '{"a": 1}', "null"])
def test_a_cache_that_cannot_be_understood_is_written_anew(
    environment: Environment, engine: Reader, garbage: str
) -> None:
    before = environment.list_images()
    (cached,) = (cache_folder() / "packages").iterdir()
    assert cached.stat().st_mode & 0o777 == 0o600 and cached.parent.stat().st_mode & 0o777 == 0o700
    text = cached.read_text()
    cached.write_text(garbage)
    assert environment.list_images() == before and cached.read_text() == text
    assert looks(engine) == 2


def test_where_no_cache_can_be_kept_images_are_read_each_time(environment: Environment, engine: Reader) -> None:
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / "packages").write_text("")
    assert environment.list_images() == environment.list_images()
    assert looks(engine) == 2


def test_what_is_not_devenvs_is_neither_read_nor_told_of(environment: Environment, engine: Reader) -> None:
    reference = environment.image_references()["mysql"]
    engine.inspected[reference] = inspected(reference, labels={})
    status = environment.list_images()[1]
    assert not status.genuine and _row(status)[3] == "not ours"
    with pytest.raises(NotOurs, match="cannot use image"):
        environment.sbom()
    assert looks(engine) == 0


def test_an_image_of_the_users_goes_by_the_digest_it_was_pulled_by(
    environment: Environment, engine: Reader, tmp_path: Path
) -> None:
    (tmp_path / "devenv.yaml").write_text(
        "profile: database\nservices: {mysql: {image: 'docker.io/library/mysql:8'}}\n"
    )
    digest = "sha256:" + "b" * 64
    engine.observed = Observed(images={"mysql:8": "id"})
    pulled = ["r.example/mysql@sha256:c", f"mysql@{digest}"]
    engine.inspected["mysql:8"] = inspected("mysql:8", labels={LABEL_BASE: "debian@sha256:d"}, RepoDigests=pulled)
    status = environment.list_images()[1]
    assert status == ImageStatus("mysql", "mysql:8", 1, "id of mysql:8", f"mysql@{digest}", "", "debian@sha256:d", True)
    assert _row(status)[2:4] == ("b" * 12, "-")
    assert looks(engine) == 0


def test_the_size_of_an_image_is_what_it_takes_on_disk(environment: Environment, engine: Reader) -> None:
    reference = environment.image_references()["mysql"]
    engine.inspected[reference] = {**engine.inspected[reference], "Size": 848}
    assert {one.service: one.size for one in environment.list_images()}["mysql"] == engine.image_sizes()[reference] == 1


def test_a_digest_of_what_devenv_built_is_none_that_a_registry_knows(environment: Environment, engine: Reader) -> None:
    # Podman gives one to each image.
    reference = environment.image_references()["mysql"]
    own = f"{reference.partition(':')[0]}@sha256:{'c' * 64}"
    engine.inspected[reference] = {**engine.inspected[reference], "RepoDigests": [own]}
    assert {one.service: one.digest for one in environment.list_images()}["mysql"] == ""
