"""oslo.limit and oslo.cache, configured by the overlay."""

from __future__ import annotations

from collections.abc import Iterator

import openstack
import pytest
from wired import SDK_WARNINGS, Wired

pytestmark = SDK_WARNINGS


@pytest.fixture
def limited(wired: Wired) -> Iterator[str]:
    """Set a limit of ten `consumers_servers`; yield the project of the plain member."""
    auth = wired.clouds()["devenv-system-admin"]["auth"]
    admin = openstack.connect(**auth, region_name="RegionOne", load_envvars=False, load_yaml_config=False)
    service = next(admin.identity.services(type="compute"))
    limit = admin.identity.create_registered_limit(
        service_id=service.id, region_id="RegionOne", resource_name="consumers_servers", default_limit=10
    )
    # Another service of the type, as a renamed component leaves it.
    another = admin.identity.create_service(type="compute", name="former")
    yield admin.identity.find_project("demo").id
    admin.identity.delete_service(another)
    admin.identity.delete_registered_limit(limit)
    admin.close()


def test_a_limit_of_the_components_endpoint_is_enforced(wired: Wired, limited: str) -> None:
    claims = wired.run("enforce_limit.py", limited, "consumers_servers", "10", "11", "--config-file", wired.overlay())
    assert claims == [True, False]


def test_one_process_finds_what_another_has_cached(wired: Wired) -> None:
    overlay = ("--config-file", wired.overlay())
    assert wired.run("use_cache.py", "key", "grüße", *overlay) == "grüße"
    assert wired.run("use_cache.py", "key", "", *overlay) == "grüße"
