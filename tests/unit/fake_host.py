"""A host made of a folder and scripted answers; it records what devenv.engine.install would do to a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from devenv.engine import install as host

DEFAULT = ("unix:///var/run/docker.sock", "default")
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n'
NOTHING: list[str] = []


class FakeHost(host.Host):
    """A machine in a folder. It records and answers commands; dockerd starts or dies as the test says."""

    def __init__(self, root: Path, release: str = DEBIAN, uid: int = 0) -> None:
        self.root = root
        self.user = uid
        self.programs = {"dockerd", "mmdebstrap"}
        self.failing: dict[str, str] = {}  # a word of a command -> what it prints as it fails
        self.ran: list[str] = []
        self.spawned: list[str] = []
        self.socket: host.Listening = "absent"
        self.sockets: dict[str, host.Listening] = {}
        self.exits: int | None = None
        self.answers = True  # once dockerd or its unit is started
        self.clock = 0.0
        self.write("/etc/os-release", release)
        self.process(2, "python")
        self.path("/proc/self").symlink_to("2")

    def write(self, name: str, text: str) -> None:
        file = self.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def process(self, pid: int, program: str, state: str = "S", network: str = "net:[1]") -> None:
        self.write(f"/proc/{pid}/stat", f"{pid} ({program}) {state} 1 1 1")
        namespace = self.path(f"/proc/{pid}/ns/net")
        namespace.parent.mkdir(exist_ok=True)
        namespace.symlink_to(network)

    def uid(self) -> int:
        return self.user

    def which(self, program: str) -> str | None:
        return f"/usr/sbin/{program}" if program in self.programs else None

    def run(self, argv: Sequence[str], timeout: float | None = None) -> host.Outcome:
        self.ran.append(" ".join(argv))
        for word, output in self.failing.items():
            if word in argv:
                return host.Outcome(1, output)
        if "rm" in argv:
            Path(argv[-1]).unlink()
        if "docker.io" in argv:
            self.programs.add("dockerd")
        if "systemctl" in argv and self.answers:
            self.socket = "yes"
        return host.Outcome(0, "")

    def spawn(self, argv: Sequence[str], log: Path) -> Callable[[], int | None]:
        self.spawned.append(" ".join(argv))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write("this start: no iptables\n")
        if self.answers and self.exits is None:
            self.socket = "yes"
        return lambda: self.exits

    def listening(self, name: str, request: bytes = b"") -> host.Listening:
        return self.socket if name == host.SOCKET else self.sockets.get(name, "absent")

    def now(self) -> float:
        return self.clock

    def pause(self) -> None:
        self.clock += 1
