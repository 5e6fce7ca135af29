"""A cluster keeps what every engine promises, except for what only some engines can do."""

from __future__ import annotations

from devenv.engine.kubernetes.kubernetes import Kubernetes
from devenv.engine.protocol import Capability
from tests import contract
from tests.contract import *  # noqa: F403 - the tests

# What the tests that are left out need: a capability that this engine lacks, or ports of the engine's host.
NEEDS = {
    Capability.READ_IMAGES: {"test_files_are_in_a_container_before_it_starts"},
    Capability.PAUSE: {
        "test_a_paused_container_stands_still_until_it_is_let_go_on",
        "test_a_paused_container_that_is_started_goes_on",
        "test_a_paused_container_can_be_stopped",
    },
    Capability.BUILD: {
        "test_an_image_that_a_container_is_of_stays",
        "test_a_build_that_fails_leaves_no_image",
        "test_a_root_file_system_becomes_an_image",
    },
    Capability.BUNDLE: {"test_images_travel_in_one_archive"},
    Capability.PULL: {"test_an_image_that_no_registry_has_is_not_pulled"},
    Capability.KEEP_DATA: {
        "test_an_image_is_listed_looked_at_and_removed",
        "test_data_go_into_an_image_and_from_there_into_a_new_volume",
        "test_data_that_break_off_are_not_kept",
        "test_a_stranger_that_is_named_like_what_fills_a_volume_is_left_alone",
    },
    "ports of its host": {"test_a_port_belongs_to_the_container_that_starts_first"},
    "measures": {"test_the_memory_of_a_container_and_the_size_of_its_data_are_measured"},
}
for _need, _names in NEEDS.items():
    assert _need not in Kubernetes.can
    for _name in _names:
        assert hasattr(contract, _name), _name
        del globals()[_name]
