"""Plug into pytest: start base services for tests, and create a component for each test. See `devenv help pytest`.

pytest loads this wherever devenv is installed, so it imports nothing of devenv before a test asks for something.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import pytest

if TYPE_CHECKING:
    from oslo_config.cfg import ConfigOpts

    from devenv.errors import DevenvError
    from devenv.testing.lease import Lease, Leases, LentComponent, Service

T = TypeVar("T")

_MARKER = "devenv(services=[…], profile=…): start these services for the test (default: all of the profile)"
_COMPONENTS = ("devenv_component", "devenv_module_component", "devenv_oslo_conf")
_FIXTURES = {"devenv", *_COMPONENTS}


# ---- options -----------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("devenv", "OpenStack's base services (devenv)")
    for name, words in (
        ("profile", "use this profile (default: the one in devenv.yaml)"),
        ("env", "use this environment (default: default; with --devenv-fresh: pytest)"),
    ):
        group.addoption(f"--devenv-{name}", metavar="NAME", default="", help=words)
        parser.addini(f"devenv_{name}", words, default="")
    reuse = "use services that are ready as they are; start and stop the others (default)"
    group.addoption("--devenv-reuse", dest="devenv_fresh", action="store_false", default=None, help=reuse)
    fresh = "use an environment that only such runs share, with no data from before"
    group.addoption("--devenv-fresh", dest="devenv_fresh", action="store_true", default=None, help=fresh)
    parser.addini("devenv_fresh", fresh, type="bool", default=False)
    citest = "give OpenStack's own test suites the account openstack_citest in the databases, before the first test"
    group.addoption("--devenv-citest", action="store_true", help=citest)
    parser.addini("devenv_citest", citest, type="bool", default=False)
    keep = "leave running what the run started, until a run without this option, or 'devenv gc'"
    group.addoption("--devenv-keep", action="store_true", help=keep)
    artifacts = "write logs, inspections and step times of the services to this folder, for CI to upload"
    group.addoption("--devenv-artifacts", metavar="DIR", type=Path, help=artifacts)
    group.addoption("--devenv-optional", action="store_true", help="without an engine, skip tests that need one")


def _setting(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"--devenv-{name}") or config.getini(f"devenv_{name}"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.pluginmanager.register(Session(config), "devenv-session")


# ---- one process of a test run -----------------------------------------------------------------------------------


class Session:
    """Hold what this process uses of devenv, and which part of it the current test uses."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._process = config, os.getpid()
        self._leases: Leases | None = None
        # Whether any test asks for services: each may run in a forked child of its own.
        self._asked = False
        # By profile: the services of each marker, and the services of markers whose test has a component.
        self._wanted: dict[str, set[tuple[str, ...]]] = {}
        self._components: dict[str, set[tuple[str, ...]]] = {}
        self._began = time.time()
        # The services that the current test uses, and the services that fixtures hold beyond a test.
        self._used: list[tuple[Lease, str]] = []
        self._lasting: dict[str, list[tuple[Lease, str]]] = {}

    @property
    def _is_worker(self) -> bool:
        return hasattr(self._config, "workerinput")

    @property
    def _ends_the_run(self) -> bool:
        """Return whether this is the process that was started to run the tests."""
        return not self._is_worker and os.getpid() == self._process

    @property
    def wants_services(self) -> bool:
        return bool(self._wanted)

    @property
    def wants_accounts(self) -> bool:
        """Return whether the databases get an account for OpenStack's own test suites, whatever devenv.yaml says."""
        return bool(self._config.getoption("--devenv-citest") or self._config.getini("devenv_citest"))

    def lease(self, profile: str, settings: Mapping[str, Any], marked: str = "") -> Lease:
        """Return the environment for tests of this profile, or of the profile that a marker names, `marked`."""
        from devenv.testing.lease import FRESH, Leases

        self._leases = leases = self._leases or Leases()
        fresh = self._config.getoption("devenv_fresh")
        fresh = self._config.getini("devenv_fresh") if fresh is None else fresh
        name = _setting(self._config, "env") or (FRESH if fresh else "default")
        if marked and marked != profile:
            name = f"{FRESH}-{marked}" if name in (FRESH, "default") else f"{name}-{marked}"
        accounts = self.wants_accounts and not marked
        wanted = self._config.rootpath, name, marked or profile, settings, bool(fresh), accounts
        return self.asked(lambda: leases.get(*wanted))

    def asked(self, ask: Callable[[], T]) -> T:
        """Return the result of `ask`. An error of devenv fails the test, without a traceback."""
        from devenv.errors import DevenvError, NoEngine

        try:
            return ask()
        except DevenvError as error:
            failure = error
        if isinstance(failure, NoEngine) and self._config.getoption("--devenv-optional"):
            pytest.skip(failure.message)
        _fail(failure)

    def use(self, lease: Lease, services: Sequence[str]) -> None:
        """Note that the current test uses these services."""
        self._used += [(lease, name) for name in services if (lease, name) not in self._used]

    def lend(self, lease: Lease, services: Sequence[str], fixture: str) -> Iterator[LentComponent]:
        component = self.asked(lambda: lease.component(services))
        self._lasting[fixture] = [(lease, name) for name in component.services]
        try:
            yield component
        finally:
            component.give_back()

    # ---- beginning -------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._config.option.collectonly or _controls_workers(self._config):
            return
        for item in session.items:
            fixtures = {*getattr(item, "fixturenames", ())}
            self._asked |= bool(fixtures & _FIXTURES)
            if marker := item.get_closest_marker("devenv"):
                self._asked = True
                if self._is_worker and _wrong(marker):
                    continue  # The test reports it; raised here, it would end the worker.
                services, profile = _marked(marker)
                self._wanted.setdefault(profile, set()).add(services)
                if fixtures & {*_COMPONENTS}:
                    self._components.setdefault(profile, set()).add(services)

    def begin(self, profile: str, settings: Mapping[str, Any]) -> None:
        """Start the services that markers ask for, in the background."""
        for marked, wanted in self._wanted.items():
            # A marker without services needs all of the profile.
            services = [] if () in wanted else sorted({name for names in wanted for name in names})
            self.lease(profile, settings, marked).begin(services, sorted(self._components.get(marked, ())))

    # ---- a test ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._began, self._used = time.time(), []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        report = yield
        if report.failed and self._leases:
            used = [*self._used]
            for fixture in getattr(item, "fixturenames", ()):
                used += [one for one in self._lasting.get(fixture, ()) if one not in used]
            for lease, service in used:
                report.sections.append(_section(lease, service, self._began))
        return report

    # ---- ending ----------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Any:
        """Finish after all fixtures, whatever they raise, and with xdist after all workers."""
        try:
            return (yield)
        finally:
            self._finish()

    def _finish(self) -> None:
        """Stop what the run used. With workers or forked children, the process that started them does that."""
        if not self._ends_the_run:
            self._close()
            return
        if not (self._leases or self._asked or _controls_workers(self._config)):
            return
        if folder := self._config.getoption("--devenv-artifacts"):
            self._tried(self._write_artifacts, folder)
        self._tried(self._close)
        if not self._config.getoption("--devenv-keep"):
            self._tried(self._clear)

    def _tried(self, act: Callable[..., None], *arguments: Any) -> None:
        """Do one step of the end. Print an error instead of raising it, so that the next step is done, too."""
        from devenv.errors import DevenvError

        try:
            act(*arguments)
        except Exception as error:  # a plugin may block sockets or replace files, in its own way
            words = f"{error.message}; {error.hint}" if isinstance(error, DevenvError) else repr(error)
            if reporter := self._config.pluginmanager.getplugin("terminalreporter"):
                reporter.write_line(f"\ndevenv: {words}", red=True)

    def _clear(self) -> None:
        from devenv.testing.lease import clear

        clear(_project(self._config))

    def _close(self) -> None:
        if self._leases:
            self._leases.close()

    def _write_artifacts(self, folder: Path) -> None:
        from devenv.testing.artifacts import write_artifacts
        from devenv.testing.lease import environments

        passwords = self._leases.passwords if self._leases else ()
        for environment in environments(_project(self._config)):
            write_artifacts(environment, folder / environment.name, passwords)


def _controls_workers(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("dsession")


def _project(config: pytest.Config) -> Path:
    from devenv.spec.profile import find_project

    return find_project(config.rootpath)


def _section(lease: Lease, service: str, since: float) -> tuple[str, str]:
    """Return a section for the report: what a service logged, without secrets, since CIs show reports to others."""
    from devenv.testing.artifacts import hider

    try:
        state, lines = lease.view(service, since)
    except Exception as error:  # whatever it is, it must not end the run
        state, lines = str(error), []
    hide = hider(lease.environment, lease.passwords)
    return f"{service} ({hide(state)}), its log during the test", hide("\n".join(lines))


def _fail(error: DevenvError) -> NoReturn:
    detail = "".join(f"  {line}\n" for line in error.detail)
    pytest.fail(f"{detail}{error.message}\nhint: {error.hint} (exit code {error.exit_code} of devenv)", pytrace=False)


def _marked(marker: pytest.Mark | None) -> tuple[tuple[str, ...], str]:
    """Return the services and the profile that a marker asks for."""
    if marker is None:
        return (), ""
    if wrong := _wrong(marker):
        raise pytest.UsageError(wrong)
    return tuple(marker.kwargs.get("services", ())), marker.kwargs.get("profile", "")


def _wrong(marker: pytest.Mark) -> str:
    """Return why devenv cannot use a marker, or an empty string."""
    wrong = [str(one) for one in marker.args] + sorted(marker.kwargs.keys() - {"services", "profile"})
    services, profile = marker.kwargs.get("services", ()), marker.kwargs.get("profile", "")
    if not isinstance(services, list | tuple) or not all(isinstance(name, str) for name in services):
        wrong.append(f"services={services!r}")
    if not isinstance(profile, str):
        wrong.append(f"profile={profile!r}")
    usage = _MARKER.partition(":")[0]
    return f"cannot use marker devenv with {', '.join(wrong)}; write {usage}" if wrong else ""


# ---- fixtures ----------------------------------------------------------------------------------------------------


class Devenv:
    """Give a test the administrator's view of the environment. Services start when a test asks for them."""

    def __init__(self, session: Session, lease: Callable[[], Lease], services: Sequence[str]) -> None:
        self._session, self._lease, self._services = session, lease, services

    def service(self, name: str) -> Service:
        """Return a ready service. Its `endpoint` has `host`, `port` and `url`; `endpoints` maps names to all."""
        lease = self._lease()
        service = self._session.asked(lambda: lease.service(name))
        self._session.use(lease, [name])
        return service

    @property
    def services(self) -> dict[str, Service]:
        """Return all services of the fixture `devenv_services`."""
        lease = self._lease()
        found = self._session.asked(lambda: lease.services(self._services))
        self._session.use(lease, list(found))
        return found

    @property
    def env(self) -> dict[str, str]:
        """Return what `devenv env` prints: DEVENV_MYSQL_URL, …, and OS_* for the administrator."""
        return {name: value for service in self.services.values() for name, value in service.env.items()}


class OsloConf(NamedTuple):
    """Hold a component's options for oslo.config: loaded, and as a file. Without oslo.config, `conf` is None."""

    conf: ConfigOpts | None
    path: Path


@pytest.fixture(scope="session")
def devenv_profile(pytestconfig: pytest.Config) -> str:
    """Return the profile of the services. Override it; empty means the profile in devenv.yaml."""
    return _setting(pytestconfig, "profile")


@pytest.fixture(scope="session")
def devenv_services() -> Sequence[str]:
    """Return the services of a component if no marker names any. Override it; empty means all of the profile."""
    return ()


@pytest.fixture(scope="session")
def devenv_settings() -> Mapping[str, Any]:
    """Return settings of services that the run starts, as under `services:` in devenv.yaml. Override it."""
    return {}


@pytest.fixture(scope="session")
def devenv(
    _devenv_session: Session, devenv_profile: str, devenv_services: Sequence[str], devenv_settings: Mapping[str, Any]
) -> Devenv:
    """Return the environment of the test run, as the administrator sees it."""
    # Asked again for each service: a test may fork, or patch the standard library.
    return Devenv(_devenv_session, lambda: _devenv_session.lease(devenv_profile, devenv_settings), devenv_services)


@pytest.fixture
def devenv_component(request: pytest.FixtureRequest, _devenv_lend: Lend) -> Iterator[LentComponent]:
    """Lend a fresh component with a part of each service; drop it after the test."""
    yield from _devenv_lend(request, "devenv_component")


@pytest.fixture(scope="module")
def devenv_module_component(request: pytest.FixtureRequest, _devenv_lend: Lend) -> Iterator[LentComponent]:
    """Lend a fresh component to all tests of a module."""
    yield from _devenv_lend(request, "devenv_module_component")


@pytest.fixture
def devenv_oslo_conf(devenv_component: LentComponent) -> OsloConf:
    """Return the options of `devenv_component` as a loaded ConfigOpts (None without oslo.config), and their file."""
    from devenv.errors import ConfigError

    try:
        return OsloConf(devenv_component.conf, devenv_component.overlay)
    except ConfigError:
        return OsloConf(None, devenv_component.overlay)


Lend = Callable[[pytest.FixtureRequest, str], Iterator["LentComponent"]]


@pytest.fixture(scope="session")
def _devenv_lend(
    _devenv_session: Session, devenv_profile: str, devenv_services: Sequence[str], devenv_settings: Mapping[str, Any]
) -> Lend:
    def lend(request: pytest.FixtureRequest, fixture: str) -> Iterator[LentComponent]:
        services, profile = _marked(request.node.get_closest_marker("devenv"))
        lease = _devenv_session.lease(devenv_profile, devenv_settings, profile)
        yield from _devenv_session.lend(lease, services or devenv_services, fixture)

    return lend


@pytest.fixture(scope="session")
def _devenv_session(pytestconfig: pytest.Config) -> Session:
    found = pytestconfig.pluginmanager.getplugin("devenv-session")
    assert isinstance(found, Session)  # noqa: S101
    return found


@pytest.fixture(scope="session", autouse=True)
def _devenv_begin(request: pytest.FixtureRequest, _devenv_session: Session) -> None:
    """Start services that markers ask for with the first test of the run, and wait for accounts for test suites."""
    if not (_devenv_session.wants_services or _devenv_session.wants_accounts):
        return
    profile, settings = (request.getfixturevalue(name) for name in ("devenv_profile", "devenv_settings"))
    _devenv_session.begin(profile, settings)
    if _devenv_session.wants_accounts:
        _devenv_session.asked(_devenv_session.lease(profile, settings).lend_accounts)


@pytest.fixture(autouse=True)
def _devenv_marked(request: pytest.FixtureRequest, _devenv_session: Session) -> None:
    """Wait until the services of a marked test are ready."""
    if marker := request.node.get_closest_marker("devenv"):
        if wrong := _wrong(marker):
            pytest.fail(wrong, pytrace=False)
        profile, settings = (request.getfixturevalue(name) for name in ("devenv_profile", "devenv_settings"))
        services, marked = _marked(marker)
        lease = _devenv_session.lease(profile, settings, marked)
        _devenv_session.use(lease, list(_devenv_session.asked(lambda: lease.services(services))))
