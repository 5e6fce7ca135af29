"""Run every command of docs/kubernetes.md, in its order, on a real cluster."""

from __future__ import annotations

import pytest
from project import Project

from tests.clusters.cluster import Cluster
from tests.pages import CLUSTER, sessions, steps, unlike


@pytest.mark.long
def test_every_command_of_the_page_works(project: Project, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    # The page's reader chooses the engine by an option.
    project.extra = {name: value for name, value in project.extra.items() if name != "DEVENV_ENGINE"}
    ran, shown = 0, dict(sessions(CLUSTER))
    for file, command in steps(CLUSTER):
        if file:
            (project.folder / file).write_text(command)
        else:
            told = project.shell(command)
            assert not unlike(shown.get(command, []), told), told
            ran += 1
    assert ran >= 5
    cluster.emptied(namespaces[0])
