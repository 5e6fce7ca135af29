"""Give tests of unittest, testtools and stestr a fixture and a base class. Both need the package `fixtures`.

All test classes of a process share one pool of components. All processes of a run, such as stestr's workers, share one
environment. The last process that ends stops what they started.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import unittest
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from devenv.errors import DevenvError, NoEngine
from devenv.spec.profile import find_project
from devenv.testing.lease import Leases, LentComponent, Service

try:
    import fixtures
except ImportError as error:
    words = "cannot use devenv.testing.DevenvFixture: package 'fixtures' is not installed; run 'pip install fixtures'"
    raise ImportError(words) from error

if TYPE_CHECKING:
    from oslo_config.cfg import ConfigOpts

_LEASES = Leases()


def _working_folder() -> Path | None:
    """Return the working directory, or None if somebody has deleted it."""
    try:
        return Path.cwd()
    except OSError:
        return None


_FOLDER = _working_folder()
# The processes that have forked children. These may use services and end without a word.
_PARENTS: set[int] = set()
os.register_at_fork(after_in_parent=lambda: _PARENTS.add(os.getpid()))


class DevenvFixture(fixtures.Fixture):
    """Lend a test a fresh component with a part of each service; `cleanUp` drops the component.

    Without `services`, it has a part of each service of the profile. `project` is any folder inside the project, by
    default the working directory. `environment` is the name of an environment. With `optional`, a test without a
    container engine is skipped.
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
        """Start the services. Raise a failure itself, not the exception that `fixtures` wraps it in."""
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
        self.component: LentComponent = _LEASES.get(*self._environment).component(self._services)
        self.addCleanup(self.component.give_back)

    @property
    def name(self) -> str:
        """Return the component's name."""
        return self.component.name

    @property
    def env(self) -> dict[str, str]:
        """Return the variables that `devenv run` gives a command."""
        return self.component.env

    @property
    def environ(self) -> dict[str, str]:
        """Return all variables for a program that runs as the component."""
        return self.component.environ

    @property
    def overlay(self) -> Path:
        """Return the path of its options for oslo.config, for `--config-file`."""
        return self.component.overlay

    @property
    def conf(self) -> ConfigOpts:
        """Return the options of the overlay, loaded."""
        return self.component.conf

    def service(self, name: str) -> Service:
        """Return a service as the component sees it."""
        return self.component.service(name)


class DevenvTestCase(fixtures.TestWithFixtures):
    """Give each test a fresh component, as `self.devenv`."""

    devenv_services: ClassVar[Sequence[str]] = ()
    devenv_profile: ClassVar[str] = ""
    # Whether tests without a container engine are skipped instead of failing.
    devenv_optional: ClassVar[bool] = False

    def setUp(self) -> None:
        super().setUp()
        fixture = DevenvFixture(self.devenv_services, self.devenv_profile, optional=self.devenv_optional)
        self.devenv = self.useFixture(fixture)

    @property
    def conf(self) -> ConfigOpts:
        """Return the component's options for oslo.config."""
        return self.devenv.conf


@atexit.register
def _end() -> None:
    """Stop using the environments; the last process of a run also stops what the run started.

    Another process does that, since this one can no longer start threads.
    """
    projects = {*_LEASES.projects}
    _LEASES.leave()
    if _FOLDER and os.getpid() in _PARENTS:
        # Where no project can be found, no child has used one.
        with suppress(DevenvError, OSError):
            projects.add(find_project(_FOLDER))
    for project in projects:
        # Python itself, with fixed arguments.
        subprocess.run([sys.executable, "-m", "devenv.testing.lease", str(project)], check=False)  # noqa: S603
