"""Write the log of a CI job: groups that GitHub and GitLab fold, headers elsewhere; annotations and masks on GitHub."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import IO

from devenv.hiding import is_long


class JobLog:
    """Write to the log of a job, for no CI system in particular. One group is open at most; groups do not nest."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._open = False

    def begin(self, title: str) -> None:
        """Begin a group, which the CI system may fold. It lasts until the next group or `end`."""
        self.end()
        self._open = True
        self._begin(title)

    def end(self) -> None:
        if self._open:
            self._end()
        self._open = False

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines of other programs, so that the CI system takes none of them for a command."""
        for line in lines:
            self._say(line)

    def error(self, reason: str) -> None:
        """Show on the page of the job why it failed, where the CI system can."""

    def mask(self, words: Iterable[str]) -> None:
        """Hide these words in everything that the job prints from now on, where the CI system can."""

    def _begin(self, title: str) -> None:
        self._say(f"---- {title} ----")

    def _end(self) -> None: ...

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class GitHub(JobLog):
    """Write workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions."""

    def _begin(self, title: str) -> None:
        self._say(f"::group::{_escaped(title)}")

    def _end(self) -> None:
        self._say("::endgroup::")

    def lines(self, lines: Iterable[str]) -> None:
        token = secrets.token_hex(16)
        self._say(f"::stop-commands::{token}")
        super().lines(lines)
        self._say(f"::{token}::")

    def error(self, reason: str) -> None:
        self._say(f"::error title=devenv ci::{_escaped(reason)}")

    def mask(self, words: Iterable[str]) -> None:
        for word in filter(is_long, words):  # GitHub hides it inside of other words, too.
            self._say(f"::add-mask::{_escaped(word)}")


class GitLab(JobLog):
    """Write collapsible sections: https://docs.gitlab.com/ci/jobs/job_logs."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.time) -> None:
        super().__init__(stream)
        self._clock = clock
        self._number = 0

    def _begin(self, title: str) -> None:
        self._number += 1
        self._say(f"{self._mark('start', '[collapsed=true]')}{title}")

    def _end(self) -> None:
        self._say(self._mark("end"))

    def _mark(self, what: str, options: str = "") -> str:
        return f"\x1b[0Ksection_{what}:{int(self._clock())}:devenv_{self._number}{options}\r\x1b[0K"


def job_log(stream: IO[str], variables: Mapping[str, str]) -> JobLog:
    """Return the log for the CI system that set these environment variables."""
    if variables.get("GITHUB_ACTIONS") == "true":
        return GitHub(stream)
    return (GitLab if variables.get("GITLAB_CI") else JobLog)(stream)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
