"""Keep the files of one environment for programs: where they are, what is on record of them, and their move.

At any moment the record has every file that devenv may have written, so what a killed devenv leaves is found again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from devenv.errors import ConfigError
from devenv.model import Catalogue
from devenv.store.files import real_path
from devenv.store.registry import all_records
from devenv.store.state import State
from devenv.wiring import contents, folder


class Written:
    """The folder of an environment's files. `chosen` is the caller's own, or None. The lock's holder changes files."""

    def __init__(self, project: Path, name: str, state: State, chosen: Path | None) -> None:
        self._project, self._name, self._state, self._chosen = project, name, state, chosen
        self._moves = False

    @property
    def folder(self) -> Path:
        """Return the folder of the files for programs: where they are, or where `up` will write them."""
        return self._wanted if self._moves else self._recorded()

    @property
    def usual_folder(self) -> Path:
        """Return the folder of an environment for which nobody chose one."""
        return folder.folder_of(self._project, self._name)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Let the files go to the folder that the caller chose. Only `up` does; others leave them where they are."""
        self._moves = True
        try:
            yield
        finally:
            self._moves = False

    def check_place(self) -> None:
        """Raise ConfigError if devenv cannot use the folder, or another environment has its files there."""
        folder.check(self._project, self.folder, self._top)
        for other in all_records() if self._chosen else ():
            if str(self.folder) in (other.folder, other.left_folder) and other.id != self._state.id:
                raise ConfigError(
                    f"cannot write to {self.folder}: environment {other.id} of {other.project} has its files there",
                    hint="name another folder",
                )

    def check(self, names: Collection[str]) -> None:
        """Raise ConfigError if a file of another program has a name that devenv is going to write."""
        record = self._state.load()
        ours = record.files if self._stays() else ()
        left = record.left_files if record.left_folder == str(self.folder) else ()
        folder.check_files(self.folder, self._top, names, {*ours, *left})

    def write(self, files: Mapping[str, str], catalogue: Catalogue) -> list[Path]:
        """Write these files to the folder and remove devenv's other files; return those that changed.

        If the folder changes, the old files stay until the new ones are on disk.
        """
        self._remove_left()
        self.check(files)
        if not self._stays():
            return self._move(files, catalogue)
        before = self._own_files(catalogue)
        # On record before devenv writes them: it can then remove what a killed devenv leaves.
        self._state.amend(files=sorted({*self._state.load().files, *files}), folder=self._place)
        written = folder.write(self._project, self.folder, files, before, self._top)
        self._state.amend(files=sorted(files))
        return written

    def remove(self, catalogue: Catalogue, but: Path | None = None) -> None:
        """Remove the files that devenv has written for the environment, except those in the folder `but`."""
        self._remove_left(but)
        if (place := self._recorded()) != but:
            folder.remove(self._project, place, self._own_files(catalogue), folder.top_of(place, self._name))
        self._state.amend(files=[], folder="")

    def _move(self, files: Mapping[str, str], catalogue: Catalogue) -> list[Path]:
        """Write these files to another folder, and remove those in the old one, or the new ones if that fails."""
        old = {"left_folder": str(self._recorded()), "left_files": sorted(self._own_files(catalogue))}
        self._state.amend(left_folder=str(self.folder), left_files=sorted(files))
        try:
            written = folder.write(self._project, self.folder, files, _known_files(self._top, catalogue), self._top)
            self._state.amend(files=sorted(files), folder=self._place, **old)
        finally:
            self._remove_left()
        return written

    def _remove_left(self, but: Path | None = None) -> None:
        """Remove what a move of the files, perhaps a killed one, left in the other folder."""
        record = self._state.load()
        if record.left_folder and (place := Path(record.left_folder)) != but:
            folder.remove(self._project, place, record.left_files, folder.top_of(place, self._name))
        self._state.amend(left_folder="", left_files=[])

    def _own_files(self, catalogue: Catalogue) -> set[str]:
        """Return the names of the files that are devenv's: those on record, and all that it knows where it left a mark.

        The record may have been lost.
        """
        top = folder.top_of(self._recorded(), self._name)
        return {*self._state.load().files, *_known_files(top, catalogue)}

    def _recorded(self) -> Path:
        """Return where the environment's files are, or would be."""
        record = self._state.load()
        if not record.files:
            return self._wanted
        return Path(record.folder) if record.folder else self.usual_folder

    def _stays(self) -> bool:
        """Return whether the files are in the folder where they should be, whatever it is called."""
        recorded = self._recorded()
        with suppress(OSError):
            return recorded.samefile(self.folder)
        return real_path(recorded) == real_path(self.folder)

    @property
    def _wanted(self) -> Path:
        return folder.folder_of(self._project, self._name, self._chosen)

    @property
    def _top(self) -> Path:
        return folder.top_of(self.folder, self._name)

    @property
    def _place(self) -> str:
        """Return the folder as the record has it."""
        return "" if self.folder == self.usual_folder else str(self.folder)


def _known_files(top: Path, catalogue: Catalogue) -> Collection[str]:
    """Return the names of all files that devenv knows, if it left a mark in the folder."""
    return contents.known_files(catalogue) if folder.is_marked(top) else ()
