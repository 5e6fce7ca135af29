"""What a complete sweep leaves behind: its figures in docs/reliability.md and docs/reliability.json."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.case import Outcome
from tests.chaos.proxy import FAULTS

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_COUNTED = """\
Requests are those of one run of the scenario in which nothing goes wrong, before all cases. A service that comes up is
asked for its state until it works, so another run may have some more, which are not tried, or fewer. A case is "not
met", and none of those run, if there was no such request that time, or the fault could not be applied to its answer."""
_BETWEEN = re.compile(r"(?<=<!-- sweep -->\n).*(?=<!-- end of sweep -->)", re.DOTALL)


def figures(requests: Mapping[str, int], outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> dict[str, Any]:
    """All that is told of a sweep. Its cases are those in which the fault was met, or something did not hold.

    `requests` is how many each scenario has when nothing goes wrong.
    """
    met = [outcome for outcome in outcomes if outcome.request or outcome.problems]
    return {
        **about,
        "cases": len(met),
        "survived": len(_survived(met)),
        "not met": len(outcomes) - len(met),
        "scenarios": {
            name: {"requests": number, **_by_fault([o for o in met if o.case.scenario == name])}
            for name, number in requests.items()
        },
        "requests met": dict(Counter(outcome.request for outcome in met if outcome.request).most_common()),
        "not survived": {str(o.case): [o.request, *o.problems] for o in met if o.problems},
    }


def _by_fault(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    faults = {fault: [o for o in outcomes if o.case.fault == fault] for fault in FAULTS}
    counted = {fault: {"cases": len(some), "survived": len(_survived(some))} for fault, some in faults.items() if some}
    return {"cases": len(outcomes), "survived": len(_survived(outcomes)), "faults": counted}


def _survived(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.problems]


def page(told: Mapping[str, Any]) -> str:
    """The same for people."""
    heads = ("scenario", "requests", "cases", "survived", *FAULTS)
    rows = [heads, ("---", *["---:"] * (len(heads) - 1))]
    for name, one in told["scenarios"].items():
        by_fault = [_share(one["faults"].get(fault)) for fault in FAULTS]
        rows.append((name, str(one["requests"]), str(one["cases"]), str(one["survived"]), *by_fault))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    lost = "".join(f"- {case} ({request}): {_first(why)}\n" for case, (request, *why) in told["not survived"].items())
    return (
        f"{told['date']}, {told['cores']} cores, Docker Engine {told['engine']}, {told['minutes']} minutes:\n"
        f"**{told['cases']} cases run, {told['survived']} survived.** Not met: {told['not met']}.\n\n"
        f"{_COUNTED}\n\n{table}\n"
        "All of it, with how many cases each kind of request had, is in [reliability.json](reliability.json).\n\n"
        + (f"Not survived:\n\n{lost}" if lost else "")
    )


def _share(counted: Mapping[str, int] | None) -> str:
    if not counted:
        return ""
    whole = counted["cases"] == counted["survived"]
    return str(counted["cases"]) if whole else f"{counted['survived']} of {counted['cases']}"


def _first(problems: Sequence[str]) -> str:
    return problems[0].splitlines()[0][:200]


def write(told: Mapping[str, Any], folder: Path = _DOCS) -> None:
    """Have both files hold these figures; of the page, only what stands between its two marks changes."""
    (folder / "reliability.json").write_text(json.dumps(told, indent=2) + "\n")
    path = folder / "reliability.md"
    text, found = _BETWEEN.subn(lambda _: page(told), path.read_text())
    assert found == 1, f"{path.name} does not say where the figures go"
    path.write_text(text)
