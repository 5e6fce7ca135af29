"""What a cluster keeps of an environment that hosts share; its API is in memory, its hosts are objects here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_api import Answer, Objects, answering, refusal

from devenv.engine.kubernetes import lease as leases
from devenv.engine.kubernetes.central import ClusterCentral
from devenv.engine.kubernetes.connection import Cluster
from devenv.errors import Cancelled, LostLock, NotOurs, ServiceFailed
from devenv.store.central import Kept

ID = "team-12345678"
PLACE = f"/api/v1/namespaces/team/configmaps/devenv-{ID}"
SECRET = f"/api/v1/namespaces/team/secrets/devenv-{ID}"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/team/leases/devenv-{ID}"


@dataclass
class Hosts:
    """Hosts that share an environment, and what they say while they wait."""

    cluster: Cluster
    objects: Objects
    folder: Path
    said: list[str] = field(default_factory=list)

    def host(self, name: str) -> ClusterCentral:
        # A cluster of its own, since each has its own guard; the way there is the same.
        cluster = Cluster(self.cluster.login)
        cluster.way = self.cluster.way
        return ClusterCentral(cluster, ID, self.folder / name, lambda: None)

    def taken_over(self) -> None:
        """Let another host take over, as it may once the Lease was left alone for long enough."""
        self.objects.put(LEASE, {**self.objects.kept[LEASE], "spec": {"holderIdentity": "laptop process 7 ff"}})
        place = self.objects.kept[PLACE]
        place["metadata"]["annotations"]["io.devenv.holder"] = "ff"
        self.objects.put(PLACE, place)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with answering(Answer()) as (cluster, api):
        api.objects = Objects()
        yield Hosts(cluster, api.objects, tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock of the locks; return what moves it on."""
    now = [1000.0]
    monkeypatch.setattr(leases, "elapsed", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_the_first_host_makes_the_place_and_others_find_what_it_kept(hosts: Hosts) -> None:
    one, two = hosts.host("one"), hosts.host("two")
    assert one.read() == Kept()
    with one.locked(hosts.said.append, None, make=True) as kept:
        assert kept and kept.owner and not kept.record
        one.keep({"ports": {"etcd/client": 2379}})
        one.keep_file("secrets.json", {"etcd.password": "x"})
        one.keep_file("secrets.json", {"etcd.password": "y"})
    found = Kept(kept.owner, {"ports": {"etcd/client": 2379}}, {"secrets.json": {"etcd.password": "y"}})
    assert two.read() == found
    with two.locked(hosts.said.append, None, make=True) as theirs:
        assert theirs == found
    assert not hosts.said and not [*hosts.folder.iterdir()]
    # All belongs to the ConfigMap, and only a Secret has passwords.
    place = hosts.objects.kept[PLACE]
    for owned in ("leases", "secrets"):
        assert [one["uid"] for one in hosts.objects.named(owned)["metadata"]["ownerReferences"]] == [
            place["metadata"]["uid"]
        ]
    assert "password" not in str(place)


def test_nothing_is_made_for_one_that_only_ends_or_looks(hosts: Hosts) -> None:
    with hosts.host("one").locked(hosts.said.append, None, make=False) as kept:
        assert kept == Kept()
    assert not hosts.objects.kept


def test_one_host_has_the_lock_and_another_waits_for_it(hosts: Hosts) -> None:
    one, two, over = hosts.host("one"), hosts.host("two"), threading.Event()
    with one.locked(hosts.said.append, None, make=True):
        with two.locked(None, None, make=False) as kept:
            assert kept is None

        def said(text: str) -> None:
            hosts.said.append(text)
            over.set()

        with pytest.raises(Cancelled), two.locked(said, over, make=False):
            pass
        # What had no lock gave none back.
        one.keep({"profile": "base"})
    assert hosts.said[0].startswith("waiting for another devenv (") and " process " in hosts.said[0]
    with two.locked(hosts.said.append, None, make=False) as kept:
        assert kept and kept.record == {"profile": "base"}


def test_a_lease_that_nobody_renews_is_taken_by_the_clock_of_the_one_that_waits(
    hosts: Hosts, clock: Callable[[float], None]
) -> None:
    with hosts.host("one").locked(hosts.said.append, None, make=True):
        pass
    # Its holder's clock is years ahead.
    spec = {"holderIdentity": "laptop process 7 ff", "renewTime": "2099-01-01T00:00:00.000000Z"}
    hosts.objects.put(LEASE, {**hosts.objects.kept[LEASE], "spec": spec})

    def said(text: str) -> None:
        assert "laptop process 7" in text
        hosts.said.append(text)
        # It is renewed once more, and the wait begins again.
        clock(leases.LASTS + 1)
        hosts.objects.put(LEASE, hosts.objects.kept[LEASE])
        hosts.objects.on["GET leases"] = lambda: hosts.objects.on.update({"GET leases": lambda: clock(16)})

    with hosts.host("two").locked(said, None, make=False) as kept:
        assert kept and kept.owner
    assert len(hosts.said) == 1


def test_a_host_takes_back_the_lock_of_its_own_killed_devenv(hosts: Hosts) -> None:
    with hosts.host("one").locked(hosts.said.append, None, make=True):
        token = (hosts.folder / "one").read_text()
    (hosts.folder / "one").write_text(token)
    hosts.objects.put(LEASE, {**hosts.objects.kept[LEASE], "spec": {"holderIdentity": f"here process 7 {token}"}})
    with hosts.host("one").locked(None, None, make=False) as kept:
        assert kept and kept.owner


@pytest.mark.parametrize("change", ["record", "file", "engine", "remove"])
def test_a_host_that_lost_the_lock_changes_nothing(change: str, hosts: Hosts, clock: Callable[[float], None]) -> None:
    one = hosts.host("one")
    changes: dict[str, Callable[[], object]] = {
        "record": lambda: one.keep({"profile": "other"}),
        "file": lambda: one.keep_file("secrets.json", {"etcd.password": "other"}),
        "engine": lambda: one._at.ask("DELETE", one._at.path("services", "devenv-etcd")),
        "remove": one.remove,
    }
    taken = pytest.raises(LostLock, match=r"^cannot go on: laptop process 7 has taken over")
    with taken, one.locked(hosts.said.append, None, make=True):
        one.keep({"profile": "base"})
        one.keep_file("secrets.json", {"etcd.password": "x"})
        clock(leases.LASTS + 1)
        hosts.taken_over()
        before = str(hosts.objects.kept)
        changes[change]()
    assert str(hosts.objects.kept) == before


def test_a_change_that_is_under_way_when_another_host_takes_over_is_refused(hosts: Hosts) -> None:
    one = hosts.host("one")
    with pytest.raises(LostLock, match="has taken over"), one.locked(hosts.said.append, None, make=True):
        hosts.objects.on["PATCH configmaps"] = hosts.taken_over
        one.keep({"profile": "late"})
    assert one.read().record == {}


@pytest.mark.parametrize("what", ["record", "file", "first file", "remove"])
def test_whoever_takes_over_at_the_worst_moment_keeps_what_it_wrote(what: str, hosts: Hosts) -> None:
    """The former holder has seen that its change met another version, and looks again; right then it loses the lock."""
    one = hosts.host("one")
    changes: dict[str, Callable[[], object]] = {
        "record": lambda: one.keep({"profile": "late"}),
        "file": lambda: one.keep_file("secrets.json", {"etcd.password": "late"}),
        "first file": lambda: one.keep_file("secrets.json", {"etcd.password": "late"}),
        "remove": one.remove,
    }
    resource = "secrets" if "file" in what else "configmaps"

    def meet() -> None:
        if what == "first file":
            hosts.objects.put(SECRET, secret_of(hosts, "ff"))
        else:
            path = SECRET if what == "file" else PLACE
            hosts.objects.put(path, hosts.objects.kept[path])
        hosts.objects.on[f"GET {resource}"] = hosts.taken_over

    with pytest.raises(LostLock), one.locked(hosts.said.append, None, make=True):
        one.keep({"profile": "base"})
        if what == "file":
            one.keep_file("secrets.json", {"etcd.password": "x"})
        method = {"first file": "POST", "remove": "DELETE"}.get(what, "PATCH")
        hosts.objects.on[f"{method} {resource}"] = meet
        changes[what]()
    assert PLACE in hosts.objects.kept and "late" not in str(one.read())


def secret_of(hosts: Hosts, holder: str) -> dict[str, Any]:
    """Return a Secret as a host makes it."""
    place = hosts.objects.kept[PLACE]["metadata"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": place["name"], "uid": place["uid"]}
    about = {"name": place["name"], "annotations": {"io.devenv.holder": holder}, "ownerReferences": [owner]}
    return {"metadata": about, "data": {}}


def test_a_secret_that_a_former_holder_made_late_does_not_stop_the_present_one(hosts: Hosts) -> None:
    one = hosts.host("one")
    with one.locked(hosts.said.append, None, make=True):
        hosts.objects.on["POST secrets"] = lambda: hosts.objects.put(SECRET, secret_of(hosts, "ff"))
        one.keep_file("secrets.json", {"etcd.password": "x"})
    assert one.read().files == {"secrets.json": {"etcd.password": "x"}}


def test_an_own_change_between_is_none_of_another_host(hosts: Hosts) -> None:
    one = hosts.host("one")
    with one.locked(hosts.said.append, None, make=True):
        hosts.objects.put(PLACE, hosts.objects.kept[PLACE])
        one.keep({"profile": "base"})
    assert one.read().record == {"profile": "base"}


def test_a_host_that_slept_goes_on_if_nobody_came(hosts: Hosts, clock: Callable[[float], None]) -> None:
    one = hosts.host("one")
    with one.locked(hosts.said.append, None, make=True):
        clock(3600)
        one.keep({"profile": "base"})
    assert one.read().record == {"profile": "base"}


def test_an_environment_that_somebody_removed_is_lost(hosts: Hosts) -> None:
    one = hosts.host("one")
    with pytest.raises(LostLock, match="somebody has removed"), one.locked(hosts.said.append, None, make=True):
        hosts.objects.kept.clear()
        one.keep({"profile": "base"})
    assert not hosts.objects.kept


def test_what_is_left_of_one_that_is_gone_is_none_of_the_next(hosts: Hosts) -> None:
    one = hosts.host("one")
    with one.locked(hosts.said.append, None, make=True) as first:
        one.keep_file("secrets.json", {"etcd.password": "x"})
    # The cluster takes its time with what it owned.
    del hosts.objects.kept[PLACE]
    with one.locked(hosts.said.append, None, make=True) as second:
        assert first and second and second.owner != first.owner and not second.files
        one.keep({"profile": "base"})
        one.remove()
    assert not hosts.objects.kept


def test_a_run_that_ends_since_the_lock_was_lost_says_so(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_RENEW", 0.01)
    one, ending = hosts.host("one"), threading.Event()
    one._lost = ending.set
    with pytest.raises(LostLock, match="has taken over"), one.locked(hosts.said.append, None, make=True):
        hosts.taken_over()
        # The thread that renews sees it.
        assert ending.wait(60)
        raise Cancelled


def test_a_configmap_of_somebody_else_is_left_alone(hosts: Hosts) -> None:
    hosts.objects.put(PLACE, {"metadata": {"name": f"devenv-{ID}"}, "data": {"theirs": "x"}})
    with pytest.raises(NotOurs, match="is not of this environment"):
        hosts.host("one").read()


def test_an_api_that_refuses_is_a_failure_of_the_engine() -> None:
    no = refusal(403, 'configmaps is forbidden: User "x" cannot get resource "configmaps"')
    with answering(no) as (cluster, _), pytest.raises(ServiceFailed, match="cannot get configmaps in namespace team"):
        ClusterCentral(cluster, ID, Path("unused"), lambda: None).read()
