"""Which versions of a server that somebody else runs are too old."""

from __future__ import annotations

import pytest

from devenv.services.base import Hopeless, Target, check_version
from devenv.spec.catalogue import load_catalogue


@pytest.mark.parametrize(
    ("url", "older", "oldest"),
    [
        ("mysql://root:x@127.0.0.1:3306", "5.7.44-log", "8.0.11"),
        ("mariadb://root:x@127.0.0.1:3306", "10.4.34-MariaDB-1:10.4.34+maria~ubu2004", "10.5.1-MariaDB"),
        ("postgresql://root:x@127.0.0.1:5432/postgres", "14.11 (Debian 14.11-1)", "15.0"),
        ("rabbit://root:x@127.0.0.1:5672/", "3.7.28", "3.8.0"),
        ("http://127.0.0.1:2379", "3.3.27", "3.4.0"),
    ],
    ids=["mysql", "mariadb", "postgresql", "rabbitmq", "etcd"],
)
def test_an_attached_server_is_refused_below_the_oldest_version_of_its_definition(
    url: str, older: str, oldest: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    definition = load_catalogue(attached={name: {"attach": url}})[name]
    target = Target("127.0.0.1", 1, url, definition.probe, name)
    check_version(oldest, target)
    with pytest.raises(Hopeless, match=r"and devenv needs .* or newer"):
        check_version(older, target)
