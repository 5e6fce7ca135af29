"""Write a run as a trace file for ui.perfetto.dev and chrome://tracing, as Chrome's JSON object format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from devenv.lifecycle.timing import Run, Span, Step, before, critical, in_words, waits
from devenv.store.files import check_place, real_path, write_files


def as_trace(run: Run) -> dict[str, Any]:
    """Return the run as Perfetto and chrome://tracing read it: a track per service, or several for parallel work."""
    tracks = _tracks(run)
    return {
        "traceEvents": [
            _about("process_name", 0, name=f"devenv up, {run.environment}"),
            *(_about("thread_name", number, name=name) for number, (name, _) in enumerate(tracks, 1)),
            *(_about("thread_sort_index", number, sort_index=number) for number in range(1, len(tracks) + 1)),
            *_slices(run, tracks),
            *_flows(run, tracks),
        ],
        "displayTimeUnit": "ms",
        "otherData": {"began": run.began, "devenv": run.version, "critical": in_words(run)},
    }


def _tracks(run: Run) -> list[tuple[str, list[Span]]]:
    """Put each operation on the first free track of its service, since slices of one track may not overlap."""
    found: dict[str, list[list[Span]]] = {"devenv": [list(run.phases)]}
    for step in run.operations:
        tracks = found.setdefault(step.service, [])
        free = next((track for track in tracks if not track or track[-1].ended <= step.began), None)
        if free is None:
            tracks.append(free := [])
        free.append(step)
    return [
        (name if number == 1 else f"{name} ({number})", track)
        for name, tracks in found.items()
        for number, track in enumerate(tracks, 1)
    ]


def _about(what: str, track: int, **words: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 1, "tid": track, "args": words}


def _slices(run: Run, tracks: Sequence[tuple[str, list[Span]]]) -> Iterator[dict[str, Any]]:
    waited, chain = waits(run), {link.span for link in critical(run)}
    for number, (_, track) in enumerate(tracks, 1):
        for span in track:
            began, ended = _microseconds(span.began), _microseconds(span.ended)
            kind = "devenv"
            about: dict[str, Any] = {"critical": span in chain}
            if isinstance(span, Step):
                kind = span.key.rpartition(" ")[0]
                about |= {"key": span.key, "cause": span.cause, "after": span.after, "failed": span.failed}
                about |= {"waited": round(waited[span.key], 6)}
            common = {"name": run.name(span), "cat": kind, "ph": "X", "pid": 1, "tid": number}
            yield {**common, "ts": began, "dur": ended - began, "args": about}


def _flows(run: Run, tracks: Sequence[tuple[str, list[Span]]]) -> Iterator[dict[str, Any]]:
    """Yield an arrow to each operation from each one that it waited for."""
    track_of = {span: number for number, (_, track) in enumerate(tracks, 1) for span in track}
    earlier = before(run)
    pairs = [(other, step) for step in run.operations for other in earlier[step.key]]
    for number, (other, step) in enumerate(pairs, 1):
        common = {"name": "after", "cat": "after", "id": number, "pid": 1}
        # An arrow begins inside a slice, and the end of a slice is outside it.
        leaves = max(_microseconds(other.began), _microseconds(other.ended) - 1)
        yield {**common, "ph": "s", "tid": track_of[other], "ts": leaves}
        yield {**common, "ph": "f", "bp": "e", "tid": track_of[step], "ts": _microseconds(step.began)}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def write_trace(path: Path, run: Run, project: Path) -> None:
    """Write the run for Perfetto and chrome://tracing. Raise ConfigError if devenv cannot write the file."""
    check_place(path, project)
    real = real_path(path)
    # Outside of the project, do not follow a link that somebody put there meanwhile.
    target = real if real.is_relative_to(project.resolve()) else path
    write_files({target: (json.dumps(as_trace(run)) + "\n").encode()}, 0o644)
