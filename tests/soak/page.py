"""Show the figures, in the terminal and between two marks in docs/reliability.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.bench.process import Failed
from tests.soak.crowd import Crowd
from tests.soak.figures import SERVICES, Load

_MARKED = re.compile(r"(<!-- soak: begin -->\n).*?(<!-- soak: end -->)", re.DOTALL)


def figures(date: str, machine: Mapping[str, str | int | float], load: Load, crowd: Crowd) -> str:
    """Return a table of what was measured, in Markdown."""
    rows = {
        "uses of " + service: f"{load.work.uses[service]} ({load.work.uses[service] / load.seconds:.0f} a second)"
        for service in SERVICES
    }
    rows |= {
        "components": f"{load.components} at once, {load.work.components} in all",
        "clients": f"{load.clients} at once, for {load.seconds:.0f} s",
        "errors": str(load.work.errors.total()),
        "devenv's own process": f"{load.first_quarter:.1f} MB in the first quarter of the time, "
        f"{load.last_quarter:.1f} MB in the last",
        "components left in the services": f"{len(load.left)}, {load.closing:.0f} s after the clients had ended",
        "environments at once": f"{crowd.environments}, of {', '.join(crowd.services)}",
        "containers that ran": f"{crowd.running}, with {crowd.megabytes / 1000:.1f} GB (RSS)",
        "until all of them were ready": f"{crowd.up:.0f} s",
        "until all of them had gone": f"{crowd.down:.0f} s",
        "objects and files left of them": str(len(crowd.left)),
    }
    where = (
        f"{machine['cores']} cores, {machine['memory_gb']} GB, load average {machine['load_before']} before it began"
    )
    lines = [f"Written by `make soak` on {date}: {where}.", "", "| what | figure |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {figure} |" for what, figure in rows.items())]) + "\n"


def write(page: Path, text: str) -> None:
    """Put the figures between the marks of the page. Raises Failed if it has none."""
    before = page.read_text(encoding="utf-8")
    after, found = _MARKED.subn(lambda marks: f"{marks[1]}{text}{marks[2]}", before)
    if found != 1:
        raise Failed(f"cannot write into {page.name}: it has no place for the figures")
    page.write_text(after, encoding="utf-8")
