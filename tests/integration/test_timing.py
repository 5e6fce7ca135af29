"""`up` reports its timing as a chart, JSON and a trace file. One `up` of the quickest service is enough for all."""

from __future__ import annotations

import json
import stat

import pytest
from project import Project, one_clear_line

KEYS = ("create etcd", "start etcd", "ready etcd")


def test_an_up_tells_what_took_how_long(project: Project) -> None:
    one_clear_line(project.devenv("status", "etcd", "--timing", check=False), 3, "cannot show timings", "devenv up")
    trace = project.folder / "trace.json"
    # A new process, since its start is a part of the timing.
    up = project.process("up", "etcd", "--timing", "--trace", str(trace))
    chart = up.stdout.partition("\nlast up, ")[2]
    # The chart leaves out phases that took next to no time.
    assert all(f"\n{name} " in chart for name in ("start devenv", "create network", *KEYS))
    assert "█" in chart and " -> ready etcd, " in chart and max(map(len, chart.splitlines())) <= 80
    assert "up in " in up.stdout.partition("\nlast up, ")[0]

    again = project.devenv("status", "--timing")
    assert again.stdout.startswith("SERVICE") and again.stdout.partition("\nlast up, ")[2] == chart

    timing = project.json("status", "--timing")["timing"]
    steps = {step["key"]: step for step in timing["operations"]}
    assert {*KEYS} < steps.keys()
    assert steps["ready etcd"]["after"] == ["start etcd"] and steps["ready etcd"]["service"] == "etcd"
    spans = {span["key"]: span for span in timing["phases"]} | steps
    assert {"start devenv", "plan", "write files"} < spans.keys()
    chain = [spans[key] for key in timing["critical"]]
    lengths = sum(span["ended"] - span["began"] + span["waited"] for span in chain)
    assert lengths == pytest.approx(timing["seconds"], abs=0.001)
    assert [span["began"] for span in chain] == sorted(span["began"] for span in chain)

    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    drawn = {event["args"].get("key", event["name"]): event for event in events}
    assert drawn.keys() == spans.keys()
    for key, span in spans.items():
        assert drawn[key]["dur"] / 1e6 == pytest.approx(span["ended"] - span["began"], abs=0.00001)
        assert drawn[key]["args"]["critical"] == (key in timing["critical"])
    project.devenv("status", "--trace", str(project.folder / "again.json"))
    assert (project.folder / "again.json").read_bytes() == trace.read_bytes()

    (kept,) = project.state.glob("environments/*/timing.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    secrets = json.loads(kept.with_name("secrets.json").read_text()).values()
    assert not [secret for secret in secrets if secret in kept.read_text() + trace.read_text()]
    assert "timing" not in project.json("status")
