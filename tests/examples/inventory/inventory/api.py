"""The API: items as JSON over HTTP, for users that Keystone knows."""

import re
import socketserver
from collections.abc import Callable
from wsgiref import simple_server

import oslo_messaging as messaging
import webob
import webob.dec
import webob.exc
from keystonemiddleware import auth_token
from oslo_config import cfg
from oslo_log import log
from oslo_service import service

from inventory.context import Context
from inventory.coordination import Coordination
from inventory.db import Database
from inventory.exceptions import InventoryError
from inventory.rpc import Client

LOG = log.getLogger(__name__)
# (method, path) of a request: (status of the answer, function that makes its body)
ROUTES: dict[tuple[str, re.Pattern], tuple[int, Callable]] = {}


def route(method: str, path: str, status: int = 200) -> Callable:
    def register(handler: Callable) -> Callable:
        ROUTES[method, re.compile(path)] = status, handler
        return handler

    return register


class Application:
    def __init__(self, database: Database, client: Client, coordination: Coordination) -> None:
        self._database = database
        self._client = client
        self._coordination = coordination

    @webob.dec.wsgify
    def __call__(self, request: webob.Request) -> webob.Response:
        for (method, path), (status, handler) in ROUTES.items():
            if method == request.method and (match := path.fullmatch(request.path_info)):
                context = Context.from_environ(request.environ)
                try:
                    return _answer(status, handler(self, context, request, **match.groupdict()))
                except InventoryError as error:
                    # Not str(error): that includes a worker's traceback.
                    return _answer(error.status, {"error": error.args[0]})
                except messaging.MessagingTimeout:
                    raise webob.exc.HTTPServiceUnavailable("no worker has answered") from None
        raise webob.exc.HTTPNotFound

    @route("GET", "/v1/items")
    def list_items(self, context: Context, request: webob.Request) -> dict:
        return {"items": self._database.list(context)}

    @route("POST", "/v1/items", 201)
    def create_item(self, context: Context, request: webob.Request) -> dict:
        body = _body(request, name=str, count=int)
        return self._database.create(context, body["name"], body["count"])

    @route("GET", "/v1/items/(?P<name>[^/]+)")
    def get_item(self, context: Context, request: webob.Request, name: str) -> dict:
        return self._database.get(context, name)

    @route("POST", "/v1/items/(?P<name>[^/]+)/take")
    def take_item(self, context: Context, request: webob.Request, name: str) -> dict:
        return self._client.take(context, name, _body(request, count=int)["count"])

    @route("GET", "/v1/workers")
    def list_workers(self, context: Context, request: webob.Request) -> dict:
        return {"workers": self._coordination.workers()}


def _body(request: webob.Request, **kinds: type) -> dict:
    try:
        body = request.json_body
        if all(isinstance(body[name], kind) for name, kind in kinds.items()):
            return body
    except (ValueError, KeyError, TypeError):
        pass
    raise webob.exc.HTTPBadRequest("JSON is wanted, with " + ", ".join(kinds))


def _answer(status: int, body: dict) -> webob.Response:
    return webob.Response(json_body=body, status=status)


class ApiService(service.Service):
    """Serves the API in threads. In production, use a WSGI server."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        super().__init__()
        self._conf = conf

    @property
    def url(self) -> str:
        return f"http://{self._conf.api.listen}:{self._server.server_port}"

    def start(self) -> None:
        super().start()
        self._database, self._client = Database(self._conf), Client(self._conf)
        self._coordination = Coordination(self._conf)
        self._coordination.start()
        application = Application(self._database, self._client, self._coordination)
        protected = auth_token.AuthProtocol(application, {"oslo_config_config": self._conf})
        listen, port = self._conf.api.listen, self._conf.api.port
        self._server = simple_server.make_server(listen, port, protected, _Server, _Handler)
        self.tg.add_thread(self._server.serve_forever, 0.05)

    def stop(self, graceful: bool = True) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()
        self._coordination.stop()
        self._database.close()
        super().stop(graceful)


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class _Handler(simple_server.WSGIRequestHandler):
    def log_message(self, message: str, *values: object) -> None:
        LOG.info(message, *values)
