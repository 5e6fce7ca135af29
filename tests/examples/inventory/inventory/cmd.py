"""The programs: inventory-api, inventory-worker, inventory-manage."""

import sys

from oslo_config import cfg
from oslo_service import service

from inventory import options
from inventory.api import ApiService
from inventory.db import Database
from inventory.worker import WorkerService


def api() -> int:
    return _serve(ApiService)


def worker() -> int:
    return _serve(WorkerService)


def manage() -> int:
    command = cfg.StrOpt("command", positional=True, choices=["db_sync"], required=True, help="Make the tables.")
    database = Database(options.load(sys.argv[1:], [command]))
    database.create_schema()
    database.close()
    return 0


def _serve(kind: type[service.Service]) -> int:
    conf = options.load(sys.argv[1:])
    return service.launch(conf, kind(conf), restart_method="mutate").wait() or 0
