"""Libraries of OpenStack and others on what devenv wires: one environment for all tests in this folder."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
from project import Project, components, new_project, remove, require
from wired import Wired

COMPONENTS = """\
components:
  nova:
    catalog: {type: compute, url: "http://127.0.0.1:8774/v2.1"}
    sections: {neutron: network, cinder: block-storage}
  my-service: {}
"""
GUARDED = """\
profile: coordination
services: {etcd: {auth: true}}
components: [nova, my-service]
"""


@pytest.fixture(scope="package")
def wired(running: Project) -> Iterator[Wired]:
    """Wire all four services for nova and my-service."""
    with components(running, COMPONENTS):
        yield Wired(running)


@pytest.fixture(scope="package")
def variables(wired: Wired) -> dict[str, str]:
    """Return what `devenv env --component nova` says."""
    return wired.variables()


@pytest.fixture(scope="session")
def guarded(images: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """Start an etcd that asks for a login."""
    scratch = new_project(tmp_path_factory.mktemp("guarded"), "guarded")
    scratch.configure(GUARDED)
    scratch.devenv("up")
    yield Wired(scratch)
    remove(scratch)


@pytest.fixture(scope="session")
def etcd3gw() -> ModuleType:
    return _imported("etcd3gw")


@pytest.fixture(scope="session")
def etcd3() -> ModuleType:
    try:
        return _imported("etcd3")
    except (ImportError, TypeError) as error:
        # Its generated code is older than protobuf 4, which refuses it with a TypeError.
        require(f"etcd3 cannot be imported: {str(error).splitlines()[0]}")
        raise


def _imported(name: str) -> ModuleType:
    """Import a library without its warnings: of eventlet (etcd3gw), or of old generated code (etcd3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
