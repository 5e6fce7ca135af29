"""Owners of objects that carry an environment's label, and what an environment does about strangers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders import desired, service
from fake_engine import FakeEngine, Recorder

from devenv.engine.ownership import Listed, carries, check_names, name_of, split, trusted
from devenv.errors import NotOurs
from devenv.lifecycle.environment import Environment, Statuses
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER, LABEL_SERVICE, DesiredService, Observed
from devenv.testing.artifacts import status_data

# ---- a token where none is on record -----------------------------------------------------------------------------


def one(name: str, token: str = "", created: Any = 1, service: str = "") -> dict[str, Any]:
    labels = {LABEL_ENVIRONMENT: "e", LABEL_OWNER: token, LABEL_SERVICE: service}
    return {"Name": name, "Created": created, "Labels": {key: value for key, value in labels.items() if value}}


def there(networks: Any = (), containers: Any = (), volumes: Any = ()) -> Listed:
    return {"network": networks, "container": containers, "volume": volumes}


NETWORK, CONTAINER = one("devenv-e", "n"), one("devenv-e-etcd", "c", service="etcd")
VOLUME = one("devenv-e-etcd-data", "v", service="etcd")


@pytest.mark.parametrize(
    ("listed", "token"),
    [
        (there(), ""),
        (there([NETWORK], [CONTAINER], [VOLUME]), "n"),
        (there([], [CONTAINER], [VOLUME]), "c"),
        (there([], [], [VOLUME]), "v"),
        (there([], [one("devenv-e-mysql", "later", 2, "mysql"), CONTAINER]), "c"),
        (there([one("devenv-e"), NETWORK], [CONTAINER]), "n"),
        (there([one("other", "x")], [one("xyz", "x", service="etcd")], [one("devenv-e-data", "x")]), ""),
        (
            there([], [one("devenv-e-etcd", "x", service="mysql")], [one("devenv-e-etcd-data", "x", service="mysql")]),
            "",
        ),
    ],
    ids=["nothing", "network", "container", "volume", "the first", "one that has a token", "other names", "of another"],
)
def test_the_token_is_that_of_what_has_a_name_of_ours(listed: Listed, token: str) -> None:
    assert trusted("e", listed) == token


@pytest.mark.parametrize("names", [None, []])
def test_a_container_whose_removal_got_stuck_has_no_name_and_goes_by_its_id(names: Any) -> None:
    assert name_of({"Id": "0123456789abcdef", "Names": names}) == "0123456789ab"


def test_a_container_goes_by_its_first_name_also_where_podman_lists_an_empty_one() -> None:
    assert name_of({"Id": "1", "Names": ["/one", "/two"], "Name": ""}) == "one"
    assert name_of({"Id": "1", "Name": "network"}) == "network"


def test_without_a_token_nothing_is_ours() -> None:
    assert not carries(one("devenv-e"), "")
    assert carries(NETWORK, "n") and not carries(NETWORK, "c")


# ---- own objects and strangers -----------------------------------------------------------------------------------


def test_ours_is_what_carries_the_token_and_has_the_name_that_devenv_gave_it() -> None:
    network, container, volume = one("devenv-e", "t"), one("devenv-e-etcd", "t", service="etcd"), one("0a1b", "t")
    fills, data = (one(name, "t", service="etcd") for name in ("devenv-e-etcd-data-fill", "devenv-e-etcd-data"))
    ours, strangers = split(
        "e",
        there(
            [network, one("copy", "t"), one("devenv-e", "other")],
            [
                container,
                fills,
                one("copy", "t", service="etcd"),
                one("devenv-e-etcd2", "t", service="etcd"),
                one("0a", "t"),
            ],
            [volume, data, one("copy", "t", service="etcd"), one("2c3d")],
        ),
        "t",
    )
    assert ours == there([network], [container, fills], [volume, data])
    assert strangers == (
        "network copy",
        "network devenv-e",
        "container copy",
        "container devenv-e-etcd2",
        "container 0a",
        "volume copy",
        "volume 2c3d",
    )


# ---- names -------------------------------------------------------------------------------------------------------

ETCD = service("etcd", volumes={"devenv-env-etcd-data": "/data"})
WANTED = desired(ETCD)


@pytest.mark.parametrize(
    "stranger",
    [
        f"container {ETCD.container}",
        "volume devenv-env-etcd-data",
        "container devenv-env-etcd-data-fill",
        "network devenv-env",
    ],
)
def test_a_stranger_with_a_name_that_is_needed_is_refused(stranger: str) -> None:
    name = stranger.partition(" ")[2]
    with pytest.raises(NotOurs, match=f"cannot create {name}: a {stranger} has") as error:
        check_names(WANTED, Observed(strangers=("volume other", stranger)))
    assert name in error.value.hint


@pytest.mark.parametrize(
    "observed",
    [
        Observed(strangers=("container devenv-env-mysql", "volume devenv-env", f"network {ETCD.container}")),
        Observed(networks=("n",), strangers=("network devenv-env",)),
        Observed(volumes={"devenv-env-etcd-data": "etcd"}, strangers=("container devenv-env-etcd-data-fill",)),
    ],
    ids=["other names", "a network beside ours", "a volume that is there needs no filling"],
)
def test_a_stranger_that_is_not_in_the_way_is_not(observed: Observed) -> None:
    check_names(WANTED, observed)


# ---- an environment ----------------------------------------------------------------------------------------------


class Keeping(FakeEngine):
    """Keeps the owners that it was asked to observe by, and the labels of created containers."""

    def __init__(self, observed: Observed | None = None) -> None:
        super().__init__(observed)
        self.owners: list[str] = []
        self.made: list[Mapping[str, str]] = []

    def observe(self, environment: str, owner: str) -> Observed:
        self.owners.append(owner)
        return super().observe(environment, owner)

    def create(self, service: DesiredService, labels: Mapping[str, str], network: str) -> str:
        self.made.append(labels)
        return super().create(service, labels, network)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("devenv.services.readiness.load_probe", lambda _: lambda target: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devenv.yaml").write_text("profile: coordination\n")
    return tmp_path


def with_engine(engine: FakeEngine) -> tuple[Environment, Recorder]:
    environment = Environment(report=(told := Recorder()))
    images = dict.fromkeys(environment.image_references().values(), "id")
    engine.observed = Observed(**{**vars(engine.observed), "images": images})
    environment._world.seat._connected = engine  # type: ignore[assignment]
    return environment, told


def test_the_token_is_on_record_before_anything_is_made(project: Path) -> None:
    engine = Keeping()
    environment, _ = with_engine(engine)
    engine.on["create network devenv-" + environment.id] = lambda: known.append(environment.state.load().owner)
    known: list[str] = []
    environment.up()
    assert known == [environment.state.load().owner] and len(known[0]) > 32
    assert engine.made == [{LABEL_ENVIRONMENT: environment.id, LABEL_OWNER: known[0]}]
    environment.up()
    assert engine.owners == ["", known[0]] and environment.state.load().owner == known[0]


def test_a_token_that_was_taken_over_is_kept(project: Path) -> None:
    environment, _ = with_engine(Keeping(Observed(owner="theirs")))
    environment.up()
    assert environment.state.load().owner == "theirs"


def test_looking_and_taking_down_put_no_token_on_record(project: Path) -> None:
    environment, _ = with_engine(Keeping(Observed(owner="theirs")))
    environment.plan()
    environment.down()
    assert environment.state.load().owner == ""


def test_after_the_data_the_token_goes_too(project: Path) -> None:
    environment, _ = with_engine(Keeping())
    environment.up()
    first = environment.state.load().owner
    environment.down(volumes=True)
    assert environment.state.load().owner == ""
    environment.up()
    assert environment.state.load().owner not in ("", first)


def test_strangers_are_told_of_once_and_left_alone(project: Path) -> None:
    engine = Keeping(Observed(owner="t", strangers=("container xyz", "volume v")))
    environment, told = with_engine(engine)
    environment.up()
    environment.down(volumes=True)
    notes = [line for line in told.told if line.startswith("note")]
    assert notes == ["note left alone, labelled as this environment's and not made by it: container xyz, volume v"]
    assert not {call for call in engine.calls if "xyz" in call or call.endswith(" v")}
    # Otherwise the next `up` would trust a stranger that has one of devenv's names.
    assert environment.state.load().owner == "t"
    assert status_data(environment, Statuses({}, ()))["strangers"] == ["container xyz", "volume v"]


def test_a_stranger_with_our_name_ends_an_up_before_anything_is_done(project: Path) -> None:
    engine = Keeping(Observed(owner="t"))
    environment, _ = with_engine(engine)
    engine.observed = Observed(owner="t", strangers=(f"container devenv-{environment.id}-etcd",))
    for act in (environment.up, environment.plan, environment.reset):
        with pytest.raises(NotOurs, match="cannot create devenv-"):
            act()
    assert set(engine.calls) == {"observe"}
    assert environment.state.load().renewing == {}
