"""Which files of the project's own something is merged into, and in which order they change.

What merges is loaded only where there is something to merge: it takes 10 ms, which most commands need not spend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from devenv.errors import ConfigError
from devenv.model import Desired
from devenv.store.files import real_path
from devenv.store.places import wired_record
from devenv.wiring.contents import CLOUDS, overlay_name

if TYPE_CHECKING:
    from devenv.wiring.merge import Change, Wired

# What is merged, by the name of the wired file that it is the content of.
Texts = Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """A file to merge into: the options of a component, or clouds if `component` is empty.

    `listed` says that devenv.yaml asks for it, and so that it must be inside the project.
    """

    path: Path
    component: str
    listed: bool

    @property
    def source(self) -> str:
        """The wired file whose content is merged."""
        return overlay_name(self.component) if self.component else CLOUDS


@dataclass(frozen=True)
class Merges:
    """What is to be merged, and the real paths of the files to restore before."""

    jobs: Sequence[Job] = ()
    stale: Sequence[Path] = ()


class ProjectFiles:
    """The files of one project that one environment has something in."""

    def __init__(self, project: Path, environment: str, default: bool, note: Callable[[str], None]) -> None:
        """devenv.yaml's `wire` is for the project's `default` environment: others must not take its files."""
        self._project, self._environment, self._default, self._note = project, environment, default, note

    def listed(self, desired: Desired, component: str = "") -> list[Job]:
        """What devenv.yaml wants merged, for one component or for all."""
        choices = [choice for choice in desired.components.values() if component in ("", choice.name)]
        jobs = [Job(self._project / file, choice.name, True) for choice in choices for file in choice.wire]
        if jobs and not self._default:
            self._note("'wire' in devenv.yaml is for the default environment: this one merges nothing")
            return []
        return jobs

    def jobs(self, desired: Desired, component: str, files: Sequence[Path], clouds: Path | None) -> list[Job]:
        """Return what to merge by hand: into these files, or all that devenv.yaml lists, and clouds into a clouds.yaml.

        Raises ConfigError if there is none.
        """
        listed = self.listed(desired, component)
        known = {real_path(job.path) for job in listed}
        jobs = [Job(path, component, real_path(path) in known) for path in files]
        if not jobs and not clouds and not (jobs := listed):
            raise ConfigError("cannot wire: devenv.yaml lists no file", "name a component and a file")
        return jobs + ([Job(clouds, "", False)] if clouds else [])

    def merged(self, component: str, files: Sequence[Path], clouds: Path | None) -> list[Path]:
        """Return the files to restore: these, or all that have something merged into them, of one component or of all.

        Raises ConfigError for a file that has something of another component.
        """
        wired = self.wired()
        if component and files:
            for other in wired:
                if other.component != component and other.path in map(real_path, files):
                    whose = repr(other.component) if other.component else "--clouds"
                    raise ConfigError(
                        f"cannot unwire {other.path} for {component!r}: it is for {whose}", "name that one"
                    )
        return [*files, *([clouds] if clouds else ())] or [w.path for w in wired if component in ("", w.component)]

    def choose(self, desired: Desired, texts: Texts) -> Merges:
        """What is listed, and what somebody had merged by hand: `up` keeps both current."""
        jobs = {real_path(job.path): job for job in self.listed(desired)}
        stale = []
        for wired in self.wired():
            by_hand = not wired.listed and (not wired.component or wired.component in desired.components)
            if wired.path in jobs:
                stale += [wired.path] if jobs[wired.path].component != wired.component else []
            elif not by_hand:
                stale.append(wired.path)
            elif not wired.path.exists():
                self._note(f"{wired.path} is gone: nothing is merged into it")
            elif (job := Job(wired.path, wired.component, False)).source in texts:
                jobs[wired.path] = job
        return Merges(list(jobs.values()), stale)

    def check(self, merges: Merges, texts: Texts) -> list[Path]:
        """The files that would change. Raises ConfigError for one that cannot be merged into."""
        # What a former component has in a file goes first: then there is nothing to find out before.
        jobs = [job for job in merges.jobs if real_path(job.path) not in merges.stale]
        changes = [self.merge(job, texts, write=False) for job in jobs]
        return [*merges.stale, *(change.path for change in changes if change.changed)]

    def apply(self, merges: Merges, texts: Texts) -> tuple[list[Path], list[Path]]:
        """Restore and merge; returns the files that something was merged into, and those that are as they were."""
        restored = [self.restore(path) for path in merges.stale if path.exists()]
        merged = [self.merge(job, texts, write=True) for job in merges.jobs if job.source in texts]
        # Only now: a file that was renamed takes over what is on record under its old name.
        recorded = {wired.path for wired in self.wired()} if merges.stale else set()
        restored += [self.restore(path) for path in merges.stale if not path.exists() and path in recorded]
        self.tell([*restored, *merged])
        changed = [change.path for change in merged if change.changed]
        return changed, [change.path for change in restored if change.changed and change.path not in changed]

    def merge(self, job: Job, texts: Texts, write: bool) -> Change:
        """Merge into one file. Raises ConfigError if that cannot be done, with the file as it was."""
        if job.source not in texts:
            raise ConfigError(f"cannot wire {job.path}: no service has anything for it", hint="'devenv up' first")
        from devenv.wiring import merge

        owner = merge.Owner(self._environment, job.component)
        return merge.wire(job.path, self._project, owner, texts[job.source], job.listed, write, self._note)

    def restore(self, path: Path, write: bool = True) -> Change:
        """Undo what was merged into one file. Raises ConfigError if that cannot be done."""
        from devenv.wiring import merge

        return merge.unwire(path, self._project, self._environment, write, self._note)

    def restore_all(self, paths: Iterable[Path], write: bool = True) -> list[Change]:
        """Undo all that can be undone; raises ConfigError afterwards if there is something that cannot."""
        changes, errors = [], []
        for path in paths:
            try:
                changes.append(self.restore(path, write))
            except ConfigError as error:
                errors.append(error)
        self.tell(changes)
        if errors:
            errors[0].detail = (*errors[0].detail, *(f"also: {error}" for error in errors[1:]))
            raise errors[0]
        return changes

    def wired(self) -> list[Wired]:
        """The files that have something merged into them for this environment."""
        if not wired_record().exists():
            return []
        from devenv.wiring import merge

        return merge.wired(self._environment)

    def tell(self, changes: Iterable[Change]) -> None:
        """Pass on what people should know of the changes."""
        for change in changes:
            for note in change.notes:
                self._note(f"{change.path}: {note}")
