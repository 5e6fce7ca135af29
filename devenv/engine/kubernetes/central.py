"""Keep in a cluster what hosts have in common of a shared environment (see store/central.py).

The ConfigMap that owns all of the environment holds the record, a Secret the files with passwords, and a Lease is the
lock. Whoever gets the Lease first writes its token to the ConfigMap and the Secret. A former holder's change then meets
another version than it knows, fails, and sees whose environment it is by now.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from devenv.engine.http import Refused, unless, unless_gone
from devenv.engine.kubernetes import manifests, objects
from devenv.engine.kubernetes.connection import CONFLICT, GONE, MERGE, Cluster, asking
from devenv.engine.kubernetes.lease import Lease, same_owner
from devenv.engine.pod import Object
from devenv.errors import Cancelled, LostLock
from devenv.model import LABEL_ENVIRONMENT, LABEL_OWNER
from devenv.names import Names
from devenv.store.central import Kept

# On the ConfigMap and the Secret: the token of the devenv that last had the lock.
HOLDER = "io.devenv.holder"
_PLACE, _FILES = "configmaps", "secrets"


class ClusterCentral:
    """The place of one environment in a namespace. `lost` is called, in a thread, if another host takes the lock."""

    def __init__(self, cluster: Cluster, environment: str, note: Path, lost: Callable[[], None]) -> None:
        """`note` is a file of this host, for the token under which it has the lock."""
        self._at, self._environment, self._note, self._lost = cluster, environment, note, lost
        self._name = Names(environment).network
        self._lease: Lease | None = None
        # The ConfigMap and the Secret as this process knows them.
        self._place: Object = {}
        self._files: Object | None = None

    def read(self) -> Kept:
        with asking(self._at, f"look for environment {self._environment}"):
            place = self._found()
            files = objects.found(self._at, _FILES, self._name) if place else None
        return _kept(place, files) if place else Kept()

    # ---- the lock --------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, waiting: Callable[[str], None] | None, over: Event | None, make: bool) -> Iterator[Kept | None]:
        with asking(self._at, f"lock environment {self._environment}"):
            kept = self._begun(waiting, over, make)
        if not (lease := self._lease):
            yield kept
            return
        self._at.guard = lease.check
        try:
            yield kept
        except Cancelled:
            if lease.loss:
                raise lease.loss from None
            raise
        finally:
            self._at.guard = self._lease = None
            lease.give_back()

    def _begun(self, waiting: Callable[[str], None] | None, over: Event | None, make: bool) -> Kept | None:
        while True:
            place = self._found() or (self._made() if make else None)
            if place is None:
                self._note.unlink(missing_ok=True)
                return Kept()
            lease = Lease(self._at, self._about(place), self._note, self._lost)
            try:
                if not lease.take(waiting, over):
                    return None
                if self._fenced(lease, place):
                    self._lease = lease
                    return _kept(self._place, self._files)
            finally:
                if self._lease is not lease:
                    lease.give_back()

    def _found(self) -> Object | None:
        """Return the ConfigMap. Raise NotOurs if something else has its name."""
        place = objects.found(self._at, _PLACE, self._name)
        if place is not None and not _token(place):
            raise objects.not_ours(self._at, _PLACE, self._name, f"use environment {self._environment}")
        return place

    def _made(self) -> Object | None:
        """Make the ConfigMap; return None if another host was faster. It is no network yet: `up` makes it one."""
        # Without the right on leases, nothing is made.
        objects.found(self._at, "leases", self._name)
        labels = {LABEL_ENVIRONMENT: self._environment, LABEL_OWNER: secrets.token_hex(16)}
        wanted = manifests.network(self._name, {**labels, manifests.NO_NETWORK: "true"})
        with unless(CONFLICT):
            self._at.ask("POST", self._at.path(_PLACE), body=wanted)
        return self._found()

    def _fenced(self, lease: Lease, place: Object) -> bool:
        """Write the holder's token to what is kept. Return False if the lock or the environment is gone meanwhile."""
        mark = {"annotations": {HOLDER: lease.token}}
        while True:
            try:
                self._place = self._changed(_PLACE, place, {"metadata": mark})
                break
            except Refused as error:
                if error.status not in (CONFLICT, GONE):
                    raise
            # In this order: a holder that comes after this look changes the ConfigMap after it, too.
            again = self._found()
            try:
                lease.renew()
            except LostLock:
                return False
            if again is None or again["metadata"]["uid"] != place["metadata"]["uid"]:
                return False
            place = again
        self._files = self._fenced_files(mark)
        return True

    def _fenced_files(self, mark: Object) -> Object | None:
        while files := objects.found(self._at, _FILES, self._name):
            if not same_owner(files["metadata"], self._about(self._place)):
                # It is left from an environment that is gone.
                with unless_gone():
                    self._at.ask("DELETE", self._at.path(_FILES, self._name))
                continue
            with unless(CONFLICT, GONE):
                return self._changed(_FILES, files, {"metadata": mark})
        return None

    # ---- what is kept ----------------------------------------------------------------------------------------

    def keep(self, record: Mapping[str, Any]) -> None:
        with asking(self._at, f"write the record of environment {self._environment}"):
            self._place = self._ours(
                _PLACE, self._place, {"data": {manifests.RECORD: json.dumps(record, sort_keys=True)}}
            )

    def keep_file(self, name: str, content: Mapping[str, Any]) -> None:
        data = {name: base64.b64encode(json.dumps(content, sort_keys=True).encode()).decode()}
        with asking(self._at, f"write the passwords of environment {self._environment}"):
            self._files = self._ours(_FILES, self._files or self._first_files(), {"data": data})

    def _first_files(self) -> Object:
        """Make the Secret. A former holder may have been making it right now: then return that one."""
        about = self._about(self._place)
        about["annotations"] = {**about["annotations"], HOLDER: self._held().token}
        wanted = {"apiVersion": "v1", "kind": "Secret", "metadata": about, "type": "Opaque"}
        with unless(CONFLICT):
            self._at.ask("POST", self._at.path(_FILES), body=wanted)
        return self._again(_FILES)

    def remove(self) -> None:
        """Remove the ConfigMap; the cluster removes what it owns."""
        lease = self._held()
        lease.check()
        lease.end()
        with asking(self._at, f"remove environment {self._environment}"), unless_gone():
            self._delete_place(self._place)

    def _delete_place(self, place: Object) -> None:
        while True:
            at_version = {"resourceVersion": place["metadata"]["resourceVersion"]}
            body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": at_version}
            with unless(CONFLICT):
                self._at.ask("DELETE", self._at.path(_PLACE, self._name), body=body)
                return
            place = self._again(_PLACE)

    def _ours(self, resource: str, known: Object, change: Object) -> Object:
        """Change an object as long as this process has the lock; return it. Raise LostLock."""
        lease = self._held()
        lease.check()
        mark = {"annotations": {HOLDER: lease.token}}
        while True:
            with unless(CONFLICT, GONE):
                return self._changed(resource, known, {**change, "metadata": mark})
            # An answer got lost, or this devenv changed something else of the object; or it is not its own any more.
            known = self._again(resource)

    def _again(self, resource: str) -> Object:
        """Return an object as it is now. Raise LostLock if another host has the lock by now, or it is gone.

        In this order: who takes the lock after the look at the ConfigMap changes the object after that, too.
        """
        lease = self._held()
        found, place = objects.found(self._at, resource, self._name), self._found()
        if found is None or place is None or place["metadata"]["uid"] != self._place["metadata"]["uid"]:
            raise lease.lose(f"somebody has removed environment {self._environment}")
        if objects.labels_of(place).get(HOLDER) != lease.token:
            lease.renew()  # It knows who has the lock now.
            raise lease.lose(f"another host has changed environment {self._environment}")
        return found

    def _held(self) -> Lease:
        assert self._lease  # noqa: S101, State writes only under the lock
        return self._lease

    def _changed(self, resource: str, known: Object, change: Object) -> Object:
        """Change an object if it is at the version that is known."""
        version = {"resourceVersion": known["metadata"]["resourceVersion"]}
        body = {**change, "metadata": {**change.get("metadata", {}), **version}}
        return dict(self._at.ask("PATCH", self._at.path(resource, self._name), body=body, kind=MERGE))

    def _about(self, place: Object) -> Object:
        """Return the metadata of what the ConfigMap owns."""
        labels = {LABEL_ENVIRONMENT: self._environment, LABEL_OWNER: _token(place)}
        return manifests.metadata(self._name, labels, manifests.owner_of(place))


def _token(place: Object) -> str:
    return objects.labels_of(place).get(LABEL_OWNER, "")


def _kept(place: Object, files: Object | None) -> Kept:
    """Return what the objects hold. A Secret of an environment that is gone has nothing of this one."""
    if files and not same_owner(files["metadata"], {"ownerReferences": [manifests.owner_of(place)]}):
        files = None
    return Kept(
        _token(place),
        _decoded((place.get("data") or {}).get(manifests.RECORD, "")),
        {name: _decoded(base64.b64decode(text)) for name, text in ((files or {}).get("data") or {}).items()},
    )


def _decoded(text: str | bytes) -> dict[str, Any]:
    """Return the object that the JSON holds; an empty one if it holds none, as with a record on disk."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
