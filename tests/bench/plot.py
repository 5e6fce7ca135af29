"""Draw how cost grows with the number of environments. Only this file needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.process import Failed
from tests.bench.scale import Point

# Blue for measurements, a lighter blue for the second line, grey for all that is not data.
_MAIN, _SECOND, _GREY = "#1f5fa8", "#5fa8d3", "#6b7280"
_SETTINGS = {
    # The same numbers make the same file.
    "svg.hashsalt": "devenv",
    # Letters as shapes: the picture looks the same wherever it is shown.
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": "#111827",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "legend.frameon": False,
}
_INCHES = (9.6, 4.0)


def check() -> None:
    """Raise Failed without matplotlib: better before the bench than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Failed("cannot draw docs/benchmarks-scale.svg: run: .venv/bin/pip install -e '.[bench]'") from error


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw two panels, time and memory, and write them to a file; its ending says in which format."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        from matplotlib.figure import Figure

        figure = Figure(figsize=_INCHES, layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        _time(left, points)
        _memory(right, points)
        about = {"Date": None, "Creator": None, "Title": "What environments side by side cost"}
        figure.savefig(path, dpi=110, metadata=about if path.suffix == ".svg" else None)


def _time(axes: Any, points: Sequence[Point]) -> None:
    axes.set_title("Time until all are ready")
    axes.set_ylabel("seconds")
    _linear(axes, points, points[0].seconds)
    _line(axes, points, [point.seconds for point in points], _MAIN, "devenv up, golden", "{:.1f} s")
    _finish(axes, points)


def _memory(axes: Any, points: Sequence[Point]) -> None:
    axes.set_title("Memory of all environments")
    axes.set_ylabel("GB")
    resident = [point.rss_mb / 1000 for point in points]
    shares = [point.pss_mb / 1000 for point in points if point.pss_mb is not None]
    _linear(axes, points, resident[0])
    both = len(shares) == len(points)
    _line(axes, points, resident, _SECOND if both else _MAIN, "resident (RSS)", "" if both else "{:.2f} GB")
    if both:
        _line(axes, points, shares, _MAIN, "in proportion (PSS)", "{:.2f} GB")
    _finish(axes, points)


def _linear(axes: Any, points: Sequence[Point], one: float) -> None:
    ends = [points[0].environments, points[-1].environments]
    label = "linear growth of one environment"
    axes.plot(
        ends,
        [one * end / ends[0] for end in ends],
        linestyle=(0, (5, 4)),
        color=_GREY,
        linewidth=1.2,
        label=label,
        zorder=3,
    )


def _line(axes: Any, points: Sequence[Point], values: Sequence[float], color: str, label: str, words: str) -> None:
    """Draw a line with its points; `words` formats the number beside each point, below it as lines rise."""
    counts = [point.environments for point in points]
    axes.plot(counts, values, marker="o", markersize=6, linewidth=2, color=color, label=label)
    for count, value in zip(counts, values, strict=True):
        if words:
            at = {"xytext": (7, -5), "textcoords": "offset points", "ha": "left", "va": "top"}
            axes.annotate(words.format(value), (count, value), color=color, fontsize=9, **at)


def _finish(axes: Any, points: Sequence[Point]) -> None:
    counts = [point.environments for point in points]
    axes.set_xlabel("environments started at once")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlim(0, counts[-1] * 1.18)
    axes.set_ylim(bottom=0)
    axes.tick_params(length=0)
    axes.legend(loc="upper left", fontsize=9)
