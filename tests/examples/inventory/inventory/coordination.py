"""Hold locks that count on every machine, and list the workers."""

from contextlib import suppress

from oslo_config import cfg
from tooz import coordination, locking


class Coordination:
    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._prefix = conf.coordination.prefix
        self._group = f"{self._prefix}-workers".encode()
        self._coordinator = coordination.get_coordinator(
            conf.coordination.backend_url, conf.host.encode(), executor="sync"
        )

    def start(self) -> None:
        self._coordinator.start(start_heart=True)

    def stop(self) -> None:
        self._coordinator.stop()

    def lock(self, name: str) -> locking.Lock:
        return self._coordinator.get_lock(f"/{self._prefix}/{name}".encode())

    def join(self) -> None:
        """Be one of the workers, until `stop`."""
        # Not join_group_create: it waits for a second after it has made the group.
        with suppress(coordination.GroupAlreadyExist):
            self._coordinator.create_group(self._group).get()
        self._coordinator.join_group(self._group).get()

    def workers(self) -> list[str]:
        try:
            return sorted(member.decode() for member in self._coordinator.get_members(self._group).get())
        except coordination.GroupNotCreated:
            return []
