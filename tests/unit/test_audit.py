"""The list of devenv's dependencies is current, and their licences ask for no more than to be named."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests import audit

# Mozilla's is not quite permissive: you must give on your changes to a package's own files.
PERMISSIVE = re.compile(r"\b(Apache|BSD|MIT|ISC|PSF|Python Software Foundation|MPL|Mozilla)\b")


def test_the_page_is_current() -> None:
    assert audit.PAGE.read_text() == audit.page(), "look at what changed, then run: python -m tests.audit"


def test_each_dependency_has_its_reason_and_no_other_has_one() -> None:
    project = tomllib.loads((audit.TOP / "pyproject.toml").read_text())["project"]
    assert {Requirement(one).name.lower() for one in project["dependencies"]} == set(audit.reasons())


def test_every_licence_is_a_permissive_one_or_mozillas() -> None:
    licences = {name: audit.licence(name) for name in audit.dependencies()}
    assert {name: text for name, text in licences.items() if not PERMISSIVE.search(text) or "GPL" in text} == {}


def answering(monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, output, "")

    monkeypatch.setattr(subprocess, "run", run)


def test_what_is_known_is_told_and_what_could_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"id": "CVE-1", "fix_versions": ["2", "3"]}
    answers = [{"name": "a", "version": "1", "vulns": [found]}, {"name": "b", "skip_reason": "not found"}]
    answering(monkeypatch, json.dumps({"dependencies": [*answers, {"name": "c", "version": "1", "vulns": []}]}))
    assert audit.vulnerabilities() == (["a 1: CVE-1, mended in 2, 3"], ["b"])


def test_where_no_database_answers_nobody_could_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "")
    assert audit.vulnerabilities() == ([], list(audit.dependencies()))
