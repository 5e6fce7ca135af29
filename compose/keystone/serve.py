"""Set up and serve Keystone from one process, because each import of Keystone costs two seconds.

The order is the point: everything that needs no database comes first and runs while the database
starts. The port opens last, so an open port means that every account below accounts.json exists.
"""

import contextlib
import gc
import json
import os
import pathlib
import signal
import sys
import time
import uuid
import warnings

HERE = pathlib.Path(__file__).resolve().parent
STARTED = time.monotonic()
POLL_SECONDS = 0.1
# Keystone keeps three credential keys; its constant lives in a module that is slow to import.
CREDENTIAL_KEYS = 3


def main() -> None:
    """Run the phases; each prints its time, and the first that fails ends the process."""
    # Python is process 1 here: without handlers of its own the kernel drops both signals. Nothing is
    # worth a slow goodbye, since the database rolls back what a request left open.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    # Eventlet's farewell, thirty lines long; it is a dependency that nothing here runs.
    warnings.simplefilter("ignore")
    with phase("config"):
        settings = load_settings()
    with phase("import"):
        app = load_application()
    with phase("keys"):
        make_keys()
    with phase("database"):
        wait_for_database(settings["database_timeout"])
    with phase("schema"):
        sync_schema()
    with phase("bootstrap"):
        bootstrap(settings)
    with phase("accounts"):
        ensure_accounts(settings)
    serve(app, settings)


@contextlib.contextmanager
def phase(name):
    """Print how long a phase took; turn any failure into one line that names the phase."""
    began = time.monotonic()
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
        sys.exit(f"cannot finish {name}: {type(error).__name__}: {reason}")
    print(f"{name} {time.monotonic() - began:.2f} s", flush=True)


def load_settings():
    """Read accounts.json, and fail before the slow import if a key is missing."""
    settings = json.loads((HERE / "accounts.json").read_text())
    wanted = {"url", "region", "domain", "listen", "database_timeout", "admin", "projects", "users"}
    if missing := sorted(wanted - settings.keys()):
        raise ValueError(f"accounts.json lacks {', '.join(missing)}")
    return settings


def load_application():
    """Build the WSGI application without touching the database.

    `keystone.wsgi.api` would also load the backends, which query the database, and which a process
    may load only once: the bootstrapper does it below.
    """
    gc.disable()  # A tenth of the time would go into looking for garbage among modules, which stay.
    # Not used here, but to be there when the database is.
    import alembic.command  # noqa: F401
    import keystone.cmd.bootstrap
    import keystone.common.sql.upgrades
    import pymysql  # noqa: F401
    import waitress  # noqa: F401
    from keystone.server import configure
    from keystone.server.flask import application, core

    configure(config_files=[str(HERE / "keystone.conf")])
    app = core.setup_app_middleware(application.application_factory("public"))
    gc.freeze()
    gc.enable()
    return app


def make_keys():
    """Make the keys of tokens, receipts and credentials as keystone-manage does; existing keys stay."""
    from keystone.common.fernet_utils import FernetUtils
    from keystone.conf import CONF

    for group in ("fernet_tokens", "fernet_receipts", "credential"):
        options = CONF[group]
        keys = options.max_active_keys if "max_active_keys" in options else CREDENTIAL_KEYS
        store = FernetUtils(options.key_repository, keys, group)
        store.create_key_directory()
        if not store.validate_key_repository(requires_write=True):
            raise PermissionError(f"{options.key_repository} is not writable")
        store.initialize_key_repository()


def wait_for_database(timeout):
    """Poll until the database accepts Keystone's login.

    devenv makes the user and the database after the server is up, so a refused connection, an unknown
    host, a denied login and a missing database all mean "not yet". A broken URL fails at once.
    """
    import sqlalchemy
    from keystone.conf import CONF

    engine = sqlalchemy.create_engine(CONF.database.connection, poolclass=sqlalchemy.pool.NullPool)
    deadline, reason = time.monotonic() + timeout, ""
    while True:
        try:
            return engine.connect().close()
        except sqlalchemy.exc.DBAPIError as error:
            if str(error.orig) != reason:
                reason = str(error.orig)
                print(f"waiting for the database: {reason}", flush=True)
        if time.monotonic() > deadline:
            raise TimeoutError(f"no login within {timeout} s: {reason}")
        time.sleep(POLL_SECONDS)


def sync_schema():
    """Bring the schema to this release, in one step since nobody else uses it.

    Signals wait for the half second that this takes: MySQL cannot roll back a table, and the next start
    would stumble over half a schema.
    """
    from keystone.common.sql import upgrades

    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        upgrades.offline_sync_database_to_version()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def bootstrap(settings):
    """Make the administrator, the roles and the catalogue, or set their password and URL anew."""
    from keystone.cmd.bootstrap import Bootstrapper

    admin = settings["admin"]
    work = Bootstrapper()
    work.admin_username, work.admin_password = admin["name"], admin["password"]
    work.project_name, work.admin_role_name = admin["project"], "admin"
    work.service_name, work.region_id = "keystone", settings["region"]
    # One URL for all: middleware asks for the internal endpoint unless told otherwise.
    work.public_url = work.internal_url = work.admin_url = settings["url"]
    work.immutable_roles = True
    work.bootstrap()


def ensure_accounts(settings):
    """Make what bootstrap leaves out and every consumer expects."""
    from keystone.common.provider_api import ProviderAPIs

    api, domain = ProviderAPIs, settings["domain"]
    roles = {role["name"]: role["id"] for role in api.role_api.list_roles()}
    projects = {name: ensure_project(api, name, domain) for name in settings["projects"]}
    for user in settings["users"]:
        user_id = ensure_user(api, user["name"], user["password"], domain)
        grant = api.assignment_api.create_grant
        for project, names in user.get("projects", {}).items():
            for name in names:
                grant(roles[name], user_id=user_id, project_id=projects[project])
        for name in user.get("domain", []):
            grant(roles[name], user_id=user_id, domain_id=domain)
        for name in user.get("system", []):
            api.assignment_api.create_system_grant_for_user(user_id, roles[name])


def ensure_project(api, name, domain):
    """Return the id of a project, made if it is not there."""
    from keystone import exception

    try:
        return api.resource_api.get_project_by_name(name, domain)["id"]
    except exception.ProjectNotFound:
        project = {"id": uuid.uuid4().hex, "name": name, "domain_id": domain, "enabled": True}
        return api.resource_api.create_project(project["id"], project)["id"]


def ensure_user(api, name, password, domain):
    """Return the id of a user that has this password.

    The password is tried first: setting it revokes the user's tokens, which a restart should not do.
    """
    from keystone import exception

    try:
        user_id = api.identity_api.get_user_by_name(name, domain)["id"]
    except exception.UserNotFound:
        user = {"name": name, "password": password, "domain_id": domain, "enabled": True}
        return api.identity_api.create_user(user)["id"]
    try:
        api.identity_api.driver.authenticate(user_id, password)
    except AssertionError:
        api.identity_api.update_user(user_id, {"password": password})
    return user_id


def serve(app, settings):
    """Open the port and serve until a signal ends the process."""
    import waitress

    # One process, or Keystone's in-memory cache goes stale. poll(), as select() ends at 1024 files;
    # the default of 100 connections is few when every service keeps some alive.
    server = waitress.create_server(
        app, **settings["listen"], connection_limit=1000, asyncore_use_poll=True, ident="keystone"
    )
    print(f"serving {settings['url']} after {time.monotonic() - STARTED:.2f} s", flush=True)
    server.run()


if __name__ == "__main__":
    main()
