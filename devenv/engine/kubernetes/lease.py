"""Hold a Lease of the cluster: the lock between hosts that share an environment.

Its holder renews it. Whoever waits takes it once nobody has changed it for LASTS seconds, by its own clock: the clocks
of hosts may differ. The holder counts from before it asked to renew, so it stops before another one takes the Lease.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from devenv.engine.http import Refused, unless, unless_gone
from devenv.engine.kubernetes import objects
from devenv.engine.kubernetes.connection import CONFLICT, GONE, MERGE, PATIENCE, Cluster
from devenv.engine.pod import Object
from devenv.errors import Cancelled, DevenvError, LostLock
from devenv.store.files import write_files

# Seconds for which a Lease holds without being renewed, after which the holder asks before it changes anything, and
# between two renewals.
LASTS, FRESH, _RENEW = 15, 10.0, 4.0
# Seconds between two looks of one that waits, and for the answer to a renewal.
_LOOK, _ANSWER = 0.5, 5.0
_RESOURCE = "leases"


def elapsed() -> float:
    """Return seconds that pass also while this host sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """The Lease of one environment, for one holder: this process, from `take` to `give_back`. Thread-safe.

    `lost` is called, in a thread, if another one takes it meanwhile.
    """

    def __init__(self, cluster: Cluster, about: Object, note: Path, lost: Callable[[], None]) -> None:
        """`about` is the metadata of the Lease; `note` the file of this host that says which holder it had last."""
        self._cluster, self._about, self._note, self._lost = cluster, about, note, lost
        self._name = str(about["name"])
        self.token = secrets.token_hex(8)
        self._holder = f"{socket.gethostname()} process {os.getpid()} {self.token}"
        self._turn = threading.RLock()
        self._over = threading.Event()
        self._version, self._renewed = "", 0.0
        self.loss: LostLock | None = None

    # ---- take ------------------------------------------------------------------------------------------------

    def take(self, waiting: Callable[[str], None] | None, over: Event | None) -> bool:
        """Take the Lease; wait for it if there is a `waiting`, which is told once for whom. Return whether it is taken.

        Raise Cancelled once `over` is set.
        """
        # A devenv of this host that was killed: the caller holds the lock of this host, so that one lives no more.
        killed = self._note.read_text() if self._note.exists() else ""
        seen, since, told = "", 0.0, False
        while True:
            if over and over.is_set():
                raise Cancelled
            found = self._there()
            version, holder = found["metadata"]["resourceVersion"], _holder_of(found)
            if version != seen:
                seen, since = version, elapsed()
            left = holder.rpartition(" ")[2] == killed or elapsed() - since > LASTS
            free = left or holder in ("", self._holder)
            if free and self._written(version):
                threading.Thread(target=self._keep, name="devenv-lease", daemon=True).start()
                return True
            if not free:
                if waiting is None:
                    return False
                if not told:
                    waiting(f"waiting for another devenv ({holder.rpartition(' ')[0]})")
                    told = True
                (over or Event()).wait(_LOOK)

    def _there(self) -> Object:
        """Return the Lease; make it if it is missing, or still there from an environment that is gone."""
        while True:
            found = objects.found(self._cluster, _RESOURCE, self._name)
            if found is not None and same_owner(found["metadata"], self._about):
                return found
            if found is not None:
                with unless_gone():
                    self._cluster.ask("DELETE", self._cluster.path(_RESOURCE, self._name))
            wanted = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._about}
            with unless(CONFLICT):
                path = self._cluster.path(_RESOURCE)
                return dict(self._cluster.ask("POST", path, body={**wanted, "spec": {"leaseDurationSeconds": LASTS}}))

    def _written(self, version: str) -> bool:
        """Become the holder of the Lease as it was. Return False if it has changed since."""
        write_files({self._note: self.token.encode()})
        began, times = elapsed(), {"acquireTime": _timestamp(), "renewTime": _timestamp()}
        try:
            self._version = self._patched(version, {"holderIdentity": self._holder, **times}, PATIENCE)
        except Refused as error:
            if error.status not in (CONFLICT, GONE):
                raise
            return False
        self._renewed = began
        return True

    # ---- hold ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise LostLock unless this process has the Lease. Ask the cluster if it did not for some seconds."""
        with self._turn:
            if self.loss:
                raise self.loss
            if elapsed() - self._renewed > FRESH:
                self.renew()

    def lose(self, why: str) -> LostLock:
        """Return the error for a Lease that is lost; `check` raises it from now on."""
        self.loss = self.loss or LostLock(
            f"cannot go on: {why}", "'devenv status' shows what is there; run the same command again"
        )
        return self.loss

    def renew(self) -> None:
        """Renew it. Raise LostLock if another one has it."""
        began = elapsed()
        while True:
            try:
                self._version = self._patched(self._version, {"renewTime": _timestamp()})
            except Refused as error:
                if error.status not in (CONFLICT, GONE):
                    raise
                found = objects.found(self._cluster, _RESOURCE, self._name)
                if found is None:
                    raise self.lose("somebody has removed this shared environment") from error
                if (holder := _holder_of(found)) != self._holder:
                    raise self.lose(_taken(holder)) from error
                # A renewal whose answer got lost, or somebody's kubectl.
                self._version = found["metadata"]["resourceVersion"]
            else:
                self._renewed = began
                return

    def _keep(self) -> None:
        """Renew the Lease until it is given back or lost."""
        while not self._over.wait(_RENEW):
            try:
                with self._turn:
                    if not self._over.is_set():
                        self.renew()
            except LostLock:
                self._lost()
                return
            except (OSError, Refused, DevenvError):
                pass  # The next turn asks again, or `check`.

    def end(self) -> None:
        """Renew it no more: it goes with its environment."""
        self._over.set()

    def give_back(self) -> None:
        """Let another holder take the Lease, if this process still has it."""
        self._over.set()
        if not self._version:
            return
        with self._turn:
            if not self.loss:
                with suppress(OSError, Refused, DevenvError):
                    self._patched(self._version, {"holderIdentity": ""})
            self._note.unlink(missing_ok=True)

    def _patched(self, version: str, spec: Object, patience: float = 0) -> str:
        """Change the Lease if it is at this version; return the next one."""
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        changed = self._cluster.ask(
            "PATCH",
            self._cluster.path(_RESOURCE, self._name),
            body=body,
            kind=MERGE,
            timeout=_ANSWER,
            patience=patience,
            guarded=False,
        )
        return str(changed["metadata"]["resourceVersion"])


def same_owner(one: Object, other: Object) -> bool:
    """Return whether two objects, by their metadata, belong to one that is the same."""
    owners = [[owner["uid"] for owner in about.get("ownerReferences") or ()] for about in (one, other)]
    return owners[0] == owners[1]


def _holder_of(lease: Object) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _taken(holder: str) -> str:
    who = holder.rpartition(" ")[0] or "another host"
    return f"{who} has taken over this shared environment, which this devenv had left alone for {LASTS} s"


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
