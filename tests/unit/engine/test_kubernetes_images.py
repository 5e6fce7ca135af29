"""What devenv takes from a cluster's nodes about images."""

from __future__ import annotations

from typing import Any

import pytest
from fake_api import Answer, answering, refusal

from devenv.engine.kubernetes.observe import devenv_images
from devenv.errors import NoEngine


def nodes(*images: list[str], **about: Any) -> Answer:
    found = [{"status": {"images": [{"names": [name], "sizeBytes": 5} for name in some]}} for some in images]
    return Answer(body={"metadata": about, "items": found})


def test_images_of_devenv_that_each_node_has_are_known_by_their_familiar_names() -> None:
    first = ["docker.io/devenv/one:1", "docker.io/devenv/two:1", "docker.io/library/debian:13"]
    with answering(nodes(first, ["docker.io/devenv/one:1", "docker.io/library/debian:13"])) as (cluster, _):
        assert devenv_images(cluster) == [{"RepoTags": ["devenv/one:1"], "Size": 5, "Labels": {}, "Created": 0}]


@pytest.mark.parametrize("answer", [refusal(403), nodes(["devenv/one:1"], **{"continue": "token"}), nodes()])
def test_nothing_is_known_of_nodes_that_are_many_or_not_to_be_seen(answer: Answer) -> None:
    with answering(answer) as (cluster, _):
        assert devenv_images(cluster) == []


def test_a_cluster_that_refuses_the_login_is_told() -> None:
    with answering(refusal(401)) as (cluster, _), pytest.raises(NoEngine):
        devenv_images(cluster)
