"""Write the figures of a scenario's sweep into docs/reliability.md and docs/reliability.json."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.case import Outcome
from tests.chaos.proxy import FAULTS
from tests.chaos.scenarios import SCENARIOS

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_COUNTED = """\
Requests are counted in one run of the scenario without a fault, before all cases. devenv asks for the state of a
starting service until it works, so another run may send fewer requests or more; no case covers additional ones. A case
is "not met" if its request did not come, or if the fault could not be applied to the answer. Such a case does not
count as run."""
_BETWEEN = re.compile(r"(?<=<!-- sweep -->\n).*(?=<!-- end of sweep -->)", re.DOTALL)


def figures(requests: int, outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return all figures of a scenario. They count cases in which a request met the fault, or something did not hold.

    `requests` is how many the scenario has when nothing goes wrong.
    """
    met = [outcome for outcome in outcomes if outcome.request or outcome.problems]
    return {
        **about,
        "requests": requests,
        "not met": len(outcomes) - len(met),
        **_by_fault(met),
        "requests met": dict(Counter(outcome.request for outcome in met if outcome.request).most_common()),
        "not survived": {str(o.case): [o.request, *o.problems] for o in met if o.problems},
    }


def _by_fault(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    faults = {fault: [o for o in outcomes if o.case.fault == fault] for fault in FAULTS}
    counted = {fault: {"cases": len(some), "survived": len(_survived(some))} for fault, some in faults.items() if some}
    return {"cases": len(outcomes), "survived": len(_survived(outcomes)), "faults": counted}


def _survived(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if not outcome.problems]


def page(swept: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of scenarios, for people."""
    heads = ("scenario", "swept on", "requests", "cases", "survived", *FAULTS)
    rows = [heads, ("---", "---", *["---:"] * (len(heads) - 2))]
    for name, one in swept.items():
        by_fault = [_share(one["faults"].get(fault)) for fault in FAULTS]
        rows.append((name, *(str(one[key]) for key in ("date", "requests", "cases", "survived")), *by_fault))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    lost = [why for one in swept.values() for why in one["not survived"].items()]
    cases, survived, missed = (sum(one[key] for one in swept.values()) for key in ("cases", "survived", "not met"))
    return (
        f"**{cases} cases run, {survived} survived.** Not met: {missed}.\n\n{_COUNTED}\n\n{table}\n"
        "[reliability.json](reliability.json) has all figures, the machine, and the cases by kind of request.\n\n"
        + "".join(f"- Not survived: {case} ({request}): {_first(why)}\n" for case, (request, *why) in lost)
    )


def _share(counted: Mapping[str, int] | None) -> str:
    if not counted:
        return ""
    whole = counted["cases"] == counted["survived"]
    return str(counted["cases"]) if whole else f"{counted['survived']} of {counted['cases']}"


def _first(problems: Sequence[str]) -> str:
    return problems[0].splitlines()[0][:200]


def write(swept: Mapping[str, Any], folder: Path = _DOCS) -> None:
    """Write these scenarios' figures into both files, beside those of others; in the page, between its marks."""
    figures, path = folder / "reliability.json", folder / "reliability.md"
    known = json.loads(figures.read_text()) if figures.exists() else {}
    whole = {name: {**known, **swept}[name] for name in SCENARIOS if name in known or name in swept}
    figures.write_text(json.dumps(whole, indent=2) + "\n")
    text, found = _BETWEEN.subn(lambda _: page(whole), path.read_text())
    assert found == 1, f"{path.name} does not say where the figures go"
    path.write_text(text)
