"""Run our services on a component's part of MySQL, RabbitMQ, etcd and Keystone; devenv's fixtures need no import."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from keystoneauth1 import adapter, loading, session
from oslo_config import cfg

from inventory import options
from inventory.api import ApiService
from inventory.context import Context
from inventory.db import Database
from inventory.rpc import Client
from inventory.worker import WorkerService
from tests.messaging import Notifications, listening


def configured(conf: cfg.ConfigOpts, component: str) -> cfg.ConfigOpts:
    """Return a component's options, with those of this test suite."""
    options.register(conf)
    # Components share etcd, and tooz takes no prefix from devenv.
    conf.set_override("prefix", component, "coordination")
    conf.set_override("port", 0, "api")
    return conf


@pytest.fixture
def conf(devenv_component, devenv_oslo_conf) -> cfg.ConfigOpts:
    return configured(devenv_oslo_conf.conf, devenv_component.name)


@pytest.fixture
def context() -> Context:
    return Context(project_id="a-project")


@pytest.fixture
def database(conf: cfg.ConfigOpts) -> Iterator[Database]:
    database = Database(conf)
    database.create_schema()
    yield database
    database.close()


@pytest.fixture
def start_worker(conf: cfg.ConfigOpts, database: Database) -> Iterator[Callable[[str], None]]:
    """Start a worker of that name; it stops after the test."""
    with ExitStack() as started:

        def start(host: str) -> None:
            conf.set_override("host", host)
            worker = WorkerService(conf)
            worker.start()
            started.callback(worker.stop)

        yield start


@pytest.fixture
def client(conf: cfg.ConfigOpts) -> Iterator[Client]:
    client = Client(conf)
    yield client
    client.close()


@pytest.fixture
def notifications(conf: cfg.ConfigOpts) -> Iterator[Notifications]:
    with listening(conf) as notifications:
        yield notifications


@pytest.fixture(scope="module")
def api(devenv_module_component) -> Iterator[ApiService]:
    """Start the API and a worker behind it, once for a module."""
    conf = cfg.ConfigOpts()
    conf(["--config-file", str(devenv_module_component.overlay)], default_config_files=[], default_config_dirs=[])
    configured(conf, devenv_module_component.name)
    conf.set_override("host", "a-worker")
    database = Database(conf)
    database.create_schema()
    database.close()
    with ExitStack() as started:
        for service in (WorkerService(conf), ApiService(conf)):
            service.start()
            started.callback(service.stop)
        yield service


@pytest.fixture(scope="module")
def http(devenv_module_component, api: ApiService) -> Iterator[adapter.Adapter]:
    """Ask the API with a token of the component's own user."""
    auth = loading.get_plugin_loader("password").load_from_options(**login(devenv_module_component.env))
    keystone = session.Session(auth=auth)
    yield adapter.Adapter(keystone, endpoint_override=api.url, raise_exc=False, connect_retries=0)
    keystone.session.close()


def login(variables: dict[str, str]) -> dict[str, str]:
    """Return what keystoneauth wants, from OS_AUTH_URL and so on."""
    names = ("auth_url", "username", "password", "project_name", "user_domain_id", "project_domain_id")
    return {name: variables[f"OS_{name.upper()}"] for name in names}
