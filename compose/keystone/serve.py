"""Set up and serve Keystone from one process, because each import of Keystone costs two seconds.

The order matters: what needs no database comes first and runs while the database starts. The port opens last, so an
open port means that everything in accounts.json exists.
"""

import contextlib
import ctypes
import datetime
import gc
import importlib.util
import json
import os
import pathlib
import signal
import socket
import sys
import time
import uuid
import warnings

HERE = pathlib.Path(__file__).resolve().parent
SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.1


def main():
    """Run the phases; the first that fails ends the process."""
    began = time.monotonic()
    # Process 1 ignores signals without a handler. It may end immediately: the database rolls back what a request left
    # open.
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    # Eventlet, which nothing here runs, warns about its end in thirty lines.
    warnings.simplefilter("ignore")
    with phase("config"):
        settings = json.loads((HERE / "accounts.json").read_text())
    with phase("import"):
        app = load_application()
    with phase("keys"):
        make_keys()
    with phase("database"):
        wait_for_database(settings["database_timeout"])
    with phase("schema"):
        sync_schema()
    with phase("bootstrap"):
        revoked = last_revocation()
        bootstrap(settings)
    with phase("accounts"):
        ensure_accounts(settings)
        ensure_catalog(settings)
        backdate_revocations(revoked)
    with phase("first token"):
        issue_token(app, settings)
    with phase("listen"):
        serve_forever = open_port(app, **settings["listen"])
    print(f"serving {settings['url']} after {time.monotonic() - began:.2f} s", flush=True)
    serve_forever()


@contextlib.contextmanager
def phase(name):
    """Print how long a phase took; turn any failure into one line that names the phase."""
    began = time.monotonic()
    try:
        yield
    except Exception as error:
        sys.exit(f"cannot finish {name}: {type(error).__name__}: {' '.join(str(error).split())}")
    print(f"{name} {time.monotonic() - began:.2f} s", flush=True)


def load_application():
    """Build the WSGI application without touching the database.

    `keystone.wsgi.api` would also load the backends, which query the database. A process may load them only once, and
    the bootstrapper does so later.
    """
    gc.disable()  # Looking for garbage among modules, which all stay, would take a tenth of the time.
    # Without this, eventlet imports 230 modules about DNS.
    os.environ["EVENTLET_NO_GREENDNS"] = "yes"
    # Only an identity provider for others needs its SAML library, which takes a third of a second to import.
    postpone("keystone.federation.idp")
    # The steps after the database's start need these, so import them while it starts.
    import keystone.cmd.bootstrap  # noqa: F401
    import sqlalchemy
    import werkzeug.test  # noqa: F401
    from keystone.conf import CONF
    from keystone.server import configure
    from keystone.server.flask import application, core

    configure(config_files=[str(HERE / "keystone.conf")])
    sqlalchemy.make_url(CONF.database.connection).get_dialect().import_dbapi()
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = core.setup_app_middleware(application.application_factory("public"))
    # devstack and others look for Keystone under this path.
    app = DispatcherMiddleware(app, {"/identity": app})
    gc.freeze()
    gc.enable()
    give_back()
    return app


def give_back():
    """Return memory that only the imports needed to the kernel; GNU's C library can do that."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def postpone(name):
    """Import a module when something in it is used first, not when it is imported."""
    spec = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)


def make_keys():
    """Create the keys for tokens, receipts and credentials as keystone-manage does; keep existing keys."""
    from keystone.common.fernet_utils import FernetUtils
    from keystone.conf import CONF

    for group in ("fernet_tokens", "fernet_receipts", "credential"):
        # Keystone keeps three credential keys and has no option for that.
        keep = CONF[group].max_active_keys if "max_active_keys" in CONF[group] else 3
        store = FernetUtils(CONF[group].key_repository, keep, group)
        store.create_key_directory()
        if not store.validate_key_repository(requires_write=True):
            raise PermissionError(f"{store.key_repository} is not writable")
        store.initialize_key_repository()


def wait_for_database(timeout):
    """Poll until the database accepts Keystone's login.

    devenv creates the user and the database when the server is up. So a refused connection, an unknown host, a denied
    login and a missing database all mean "not yet". A broken URL fails immediately.
    """
    import sqlalchemy
    from keystone.conf import CONF

    engine = sqlalchemy.create_engine(CONF.database.connection, poolclass=sqlalchemy.pool.NullPool)
    deadline, reason = time.monotonic() + timeout, ""
    while True:
        try:
            return engine.connect().close()
        except sqlalchemy.exc.DBAPIError as error:
            if (line := str(error.orig).partition("\n")[0]) != reason:
                reason = line
                print(f"waiting for the database: {reason}", flush=True)
            # After a second, this is the database's first start: use the time to import what only a first start needs.
            if time.monotonic() > deadline - timeout + 1:
                import keystone.common.sql.upgrades  # noqa: F401
        if time.monotonic() > deadline:
            raise TimeoutError(f"no login within {timeout} s: {reason}")
        time.sleep(POLL_SECONDS)


def sync_schema():
    """Bring the schema to this release, in one step since nobody else uses it.

    Block signals for the half second that this takes: MySQL cannot roll back a table, and the next start would stumble
    over half a schema.
    """
    if schema_is_current():
        return
    from keystone.common.sql import upgrades

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        upgrades.offline_sync_database_to_version()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def schema_is_current():
    """Tell whether the database has all migrations. Keystone's files name the last one of each branch.

    This does without Alembic, whose import takes 0.1 s.
    """
    import sqlalchemy
    from keystone.common import sql

    versions = pathlib.Path(sql.__file__).parent / "migrations" / "versions"
    heads = {path.read_text().strip() for path in versions.glob("*_HEAD")}
    try:
        with sql.session_for_read() as session:
            # oslo.db logs a traceback if PostgreSQL misses a table.
            if not sqlalchemy.inspect(session.connection()).has_table("alembic_version"):
                return False
            found = set(session.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalars())
    except Exception:  # Alembic explains it better.
        return False
    return bool(heads) and found == heads


def bootstrap(settings):
    """Create the administrator, the roles and the catalogue, or update their password and URL."""
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
    """Create what every consumer expects and bootstrap does not create."""
    from keystone.common.provider_api import ProviderAPIs as api

    domain, assign = settings["domain"], api.assignment_api
    roles = {role["name"]: role["id"] for role in api.role_api.list_roles()}
    projects = {name: ensure_project(api, name, domain) for name in settings["projects"]}
    for user in settings["users"]:
        user_id = ensure_user(api, user["name"], user["password"], domain)
        for project, names in user.get("projects", {}).items():
            for name in names.split(","):
                assign.create_grant(roles[name], user_id=user_id, project_id=projects[project])
        if name := user.get("domain"):
            assign.create_grant(roles[name], user_id=user_id, domain_id=domain)
        if name := user.get("system"):
            assign.create_system_grant_for_user(user_id, roles[name])


def ensure_project(api, name, domain):
    """Return the id of a project; create it if it does not exist."""
    from keystone import exception

    try:
        return api.resource_api.get_project_by_name(name, domain)["id"]
    except exception.ProjectNotFound:
        project = {"id": uuid.uuid4().hex, "name": name, "domain_id": domain, "enabled": True}
        return api.resource_api.create_project(project["id"], project)["id"]


def ensure_user(api, name, password, domain):
    """Return the id of a user that has this password.

    Try the password first: setting it revokes the user's tokens, which a restart should not do.
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


def ensure_catalog(settings):
    """Recreate the entries of components; only in an exported environment does accounts.json have any."""
    from keystone.common.provider_api import ProviderAPIs as api

    catalog = api.catalog_api
    there = catalog.list_services()
    for entry in settings.get("catalog", []):
        for known in there:
            if known.get("description") == entry["description"]:
                catalog.delete_service(known["id"])
        if not entry["type"]:
            continue
        words = {key: entry[key] for key in ("type", "name", "description")}
        service = {"id": uuid.uuid4().hex, "enabled": True, **words}
        catalog.create_service(service["id"], service)
        for interface in ("public", "internal", "admin"):
            endpoint = {"id": uuid.uuid4().hex, "interface": interface, "url": entry["url"], "enabled": True}
            place = {"service_id": service["id"], "region_id": settings["region"]}
            catalog.create_endpoint(endpoint["id"], {**endpoint, **place})


def last_revocation():
    """Return the number of the latest revocation; the numbers increase."""
    import sqlalchemy
    from keystone.common import sql
    from keystone.revoke.backends.sql import RevocationEvent

    with sql.session_for_read() as session:
        return session.query(sqlalchemy.func.max(RevocationEvent.id)).scalar() or 0


def backdate_revocations(last):
    """Move revocations after `last` back in time: else a changed password also revokes the next tokens of that second.

    Passwords change here only after data was copied. The port is not open yet, so this process itself caused every
    revocation after `last`, and no user has a token of this second. Older revocations stay as they are.
    """
    from keystone.common import sql
    from keystone.revoke.backends.sql import RevocationEvent
    from keystone.revoke.core import REVOKE_REGION

    with sql.session_for_write() as session:
        for event in session.query(RevocationEvent).filter(RevocationEvent.id > last):
            # One second, and one more because MySQL may have rounded up. This process has run for longer than that.
            event.issued_before -= datetime.timedelta(seconds=2)
    REVOKE_REGION.invalidate()


def issue_token(app, settings):
    """Get a token as a client does, so that no client waits for what only the first token loads."""
    from werkzeug.test import Client

    admin, domain = settings["admin"], {"id": settings["domain"]}
    user = {"name": admin["name"], "password": admin["password"], "domain": domain}
    auth = {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": {"name": admin["project"], "domain": domain}},
    }
    answer = Client(app).post("/v3/auth/tokens", base_url=settings["url"].removesuffix("/v3"), json={"auth": auth})
    if answer.status_code != 201:
        # If a user locked the administrator out, only a server that serves lets them mend that.
        print(f"no token for {admin['name']}: HTTP {answer.status_code}", flush=True)


def open_port(app, host, port, threads, processes):
    """Return a function that serves forever. With several processes, keystone.conf turns the memory cache off."""
    listener = socket.create_server((host, port), backlog=1024)
    fork(int(processes) - 1)
    try:
        import waitress
    except ImportError:  # Another image than this folder's. Flask always brings a server, though a slower one.
        from werkzeug.serving import make_server

        return make_server(host, port, app, threaded=True, fd=listener.fileno()).serve_forever
    # Use poll(), because select() ends at 1024 files. Every service keeps connections alive, so the default of 100 is
    # too few.
    options = {"connection_limit": 1000, "asyncore_use_poll": True, "ident": "keystone"}
    return waitress.create_server(app, sockets=[listener], threads=threads, **options).run


def fork(number):
    """Fork into equal processes; when one of them ends, all end."""
    others = []

    def lost(*_):
        # Process 1 also learns of the end of other programs that ran in the container.
        with contextlib.suppress(ChildProcessError):
            while child := os.waitpid(-1, os.WNOHANG)[0]:
                if child in others:
                    print(f"serving process {child} has ended", flush=True)
                    os._exit(1)

    for _ in range(number):
        child = os.fork()
        if child == 0:
            return
        others.append(child)
    if others:
        signal.signal(signal.SIGCHLD, lost)
        lost()


if __name__ == "__main__":
    main()
