"""For unittest, testtools and stestr: a fixture and a base class. They need the package `fixtures`.

All test classes of a process share its components' pool, and all processes of a run share the environment: stestr's
workers, too. The last one that ends takes down what they brought up.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import unittest
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from devenv.errors import NoEngine
from devenv.spec.profile import find_project
from devenv.testing.lease import Leases, LentComponent, Service

try:
    import fixtures
except ImportError as error:
    raise ImportError("cannot use devenv.fixture: there is no package 'fixtures'; pip install fixtures") from error

if TYPE_CHECKING:
    from oslo_config.cfg import ConfigOpts

_LEASES = Leases()
_PID = os.getpid()
_PROJECTS: set[Path] = set()


class DevenvFixture(fixtures.Fixture):
    """A fresh component of the services (all of the profile, if none is named); it is dropped by `cleanUp`.

    `project` is any folder inside the project (the working directory, if not given), `environment` the name of one.
    With `optional`, a test that uses it is skipped where there is no container engine.
    """

    def __init__(
        self,
        services: Sequence[str] = (),
        profile: str = "",
        environment: str = "default",
        project: Path | str = ".",
        settings: Mapping[str, Any] | None = None,
        optional: bool = False,
    ) -> None:
        super().__init__()
        self._services, self._optional = services, optional
        self._environment = (find_project(Path(project)), environment, profile, settings)

    def setUp(self) -> None:
        """Raises what the services cannot be brought up for, and not what `fixtures` makes of it."""
        try:
            super().setUp()
        except fixtures.MultipleExceptions as error:
            failure = error.args[0][1]
        else:
            return
        if isinstance(failure, NoEngine) and self._optional:
            raise unittest.SkipTest(failure.message)
        raise failure

    def _setUp(self) -> None:
        _PROJECTS.add(self._environment[0])
        self.component: LentComponent = _LEASES.get(*self._environment).component(self._services)
        self.addCleanup(self.component.give_back)

    @property
    def name(self) -> str:
        """The component's name."""
        return self.component.name

    @property
    def env(self) -> dict[str, str]:
        """The variables that `devenv run` gives a command."""
        return self.component.env

    @property
    def overlay(self) -> Path:
        """Its options for oslo.config, as a file for `--config-file`."""
        return self.component.overlay

    @property
    def conf(self) -> ConfigOpts:
        """The options of the overlay, loaded."""
        return self.component.conf

    def service(self, name: str) -> Service:
        """A service as the component sees it."""
        return self.component.service(name)


class DevenvTestCase(fixtures.TestWithFixtures):
    """A test case whose tests have a fresh component each, as `self.devenv`."""

    devenv_services: ClassVar[Sequence[str]] = ()
    devenv_profile: ClassVar[str] = ""
    # Skipped, and no error, where there is no engine.
    devenv_optional: ClassVar[bool] = False

    def setUp(self) -> None:
        super().setUp()
        fixture = DevenvFixture(self.devenv_services, self.devenv_profile, optional=self.devenv_optional)
        self.devenv = self.useFixture(fixture)

    @property
    def conf(self) -> ConfigOpts:
        """The component's options for oslo.config."""
        return self.devenv.conf


@atexit.register
def _end() -> None:
    """Use nothing any longer: the last process that used an environment takes down what runs brought up.

    In a process of its own, as this one can start no threads any more.
    """
    if os.getpid() != _PID:
        return  # a forked child, which has none of it
    _LEASES.leave()
    for project in _PROJECTS:
        # Python itself, with words of ours.
        subprocess.run([sys.executable, "-m", "devenv.testing.lease", str(project)], check=False)  # noqa: S603
