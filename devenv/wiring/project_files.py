"""Choose the project's own files to merge into, and change them in a safe order.

merge.py takes 10 ms to load, so most commands never load it.
"""

from __future__ import annotations

import os
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

# The contents of wired files, by their names.
Texts = Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """A project, and the folder of an environment's own files; `read_only` if these are elsewhere than in the project.

    devenv then leaves out listed files that it may not write to.
    """

    project: Path
    folder: Path
    read_only: bool = False


@dataclass(frozen=True)
class Job:
    """A file to merge into: the options of a component, or clouds if `component` is empty.

    `listed` means that devenv.yaml asks for it, so it must be inside the project.
    """

    path: Path
    component: str
    listed: bool

    @property
    def source(self) -> str:
        """Return the name of the wired file whose content to merge."""
        return overlay_name(self.component) if self.component else CLOUDS


@dataclass(frozen=True)
class Merges:
    """The merges to do, and the real paths of the files to restore before."""

    jobs: Sequence[Job] = ()
    stale: Sequence[Path] = ()


class ProjectFiles:
    """The files of one project that one environment merges into."""

    def __init__(self, place: Place, environment: str, default: bool, note: Callable[[str], None]) -> None:
        """Only the project's `default` environment merges into the files under devenv.yaml's `wire`."""
        self._place, self._project = place, place.project
        self._environment, self._default, self._note = environment, default, note

    def listed(self, desired: Desired, component: str = "") -> list[Job]:
        """Return the merges that devenv.yaml lists, for one component or for all."""
        choices = [choice for choice in desired.components.values() if component in ("", choice.name)]
        jobs = [Job(self._project / file, choice.name, True) for choice in choices for file in choice.wire]
        if jobs and not self._default:
            self._note("'wire' is for the default environment: this one merges nothing")
            return []
        return [job for job in jobs if not self._left_out(job)]

    def _left_out(self, job: Job) -> bool:
        """Return whether nothing can be merged into a listed file, and tell the user what does without."""
        places = [job.path.parent, *([job.path] if os.path.exists(job.path) else ())]  # noqa: PTH110  it never raises
        if not self._place.read_only or all(os.access(place, os.W_OK) for place in places):
            return False
        self._note(f"left {job.path} alone, which is read-only: pass {self._source(job)} as another --config-file")
        return True

    def _source(self, job: Job) -> str:
        path = self._place.folder / job.source
        return str(path.relative_to(self._project) if path.is_relative_to(self._project) else path)

    def jobs(self, desired: Desired, component: str, files: Sequence[Path], clouds: Path | None) -> list[Job]:
        """Return the merges into these files, or all that devenv.yaml lists, and the one of clouds into a clouds.yaml.

        Raise ConfigError if there is none.
        """
        if files and not component:
            raise ConfigError(f"cannot wire {files[0]}: no component is named", "name the one whose options it gets")
        listed = self.listed(desired, component)
        known = {real_path(job.path) for job in listed}
        jobs = [Job(path, component, real_path(path) in known) for path in files]
        if not jobs and not clouds and not (jobs := listed):
            which = " that devenv may write to" if self._place.read_only else ""
            raise ConfigError(
                f"cannot wire: no component lists a file{which} under 'wire'", "name a component and a file"
            )
        return jobs + ([Job(clouds, "", False)] if clouds else [])

    def merged(self, component: str, files: Sequence[Path], clouds: Path | None) -> list[Path]:
        """Return the files to restore: these, or all that devenv has merged into, for one component or for all.

        Raise ConfigError for a file that has options of another component.
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
        """Return the merges that `up` keeps current: those of devenv.yaml and those of `devenv wire`."""
        jobs = {real_path(job.path): job for job in self.listed(desired)}
        stale = []
        for wired in self.wired():
            by_hand = not wired.listed and (not wired.component or wired.component in desired.components)
            if wired.path in jobs:
                stale += [wired.path] if jobs[wired.path].component != wired.component else []
            elif not by_hand:
                stale.append(wired.path)
            elif not wired.path.exists():
                self._note(f"{wired.path} does not exist any more: devenv merges nothing into it")
            elif (job := Job(wired.path, wired.component, False)).source in texts:
                jobs[wired.path] = job
        return Merges(list(jobs.values()), stale)

    def check(self, merges: Merges, texts: Texts) -> list[Path]:
        """Return the files that would change. Raise ConfigError for one that devenv cannot merge into."""
        # `apply` restores a file with options of another component first, so devenv cannot check its merge before.
        jobs = [job for job in merges.jobs if real_path(job.path) not in merges.stale]
        changes = [self.merge(job, texts, write=False) for job in jobs]
        return [*merges.stale, *(change.path for change in changes if change.changed)]

    def apply(self, merges: Merges, texts: Texts) -> tuple[list[Path], list[Path]]:
        """Restore and merge. Return the files that a merge changed, and those that are as they were before."""
        restored = [self.restore(path) for path in merges.stale if path.exists()]
        merged = [self.merge(job, texts, write=True) for job in merges.jobs if job.source in texts]
        # Only after the merges, in which a renamed file takes over the record under its old name.
        recorded = {wired.path for wired in self.wired()} if merges.stale else set()
        restored += [self.restore(path) for path in merges.stale if not path.exists() and path in recorded]
        self.tell([*restored, *merged])
        changed = [change.path for change in merged if change.changed]
        return changed, [change.path for change in restored if change.changed and change.path not in changed]

    def merge(self, job: Job, texts: Texts, write: bool) -> Change:
        """Merge into one file. Raise ConfigError if that fails, with the file as it was."""
        if job.source not in texts:
            raise ConfigError(f"cannot wire {job.path}: no service has options for it", hint="run 'devenv up' first")
        from devenv.wiring import merge

        owner = merge.Owner(self._environment, job.component)
        addition = merge.Addition(owner, texts[job.source], job.listed, self._source(job))
        return merge.wire(job.path, self._project, addition, write, self._note)

    def restore(self, path: Path, write: bool = True) -> Change:
        """Undo the merge into one file. Raise ConfigError if that fails."""
        from devenv.wiring import merge

        return merge.unwire(path, self._project, self._environment, write, self._note)

    def restore_all(self, paths: Iterable[Path], write: bool = True) -> list[Change]:
        """Undo the merges into all these files. Raise ConfigError afterwards if one failed."""
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
        """Return the files that this environment has merged into."""
        if not wired_record().exists():
            return []
        from devenv.wiring import merge

        return merge.wired(self._environment)

    def tell(self, changes: Iterable[Change]) -> None:
        """Report the notes of the changes to the user."""
        for change in changes:
            for note in change.notes:
                self._note(f"{change.path}: {note}")
