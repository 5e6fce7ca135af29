"""Register options: our own, and those that libraries do not register themselves."""

import socket
from collections.abc import Sequence

from oslo_config import cfg
from oslo_db import options as db_options
from oslo_log import log
from oslo_messaging._metrics import client as metrics
from oslo_messaging._tracing import client as tracing

DEFAULT = [
    cfg.StrOpt("host", default=socket.gethostname(), help="The name of this worker among the others."),
    cfg.FloatOpt("call_timeout", default=20, min=0, help="Seconds in which a worker has to answer the API."),
]
API = [
    cfg.HostAddressOpt("listen", default="127.0.0.1", help="Where the API listens."),
    cfg.PortOpt("port", default=9390, help="0 for any free port."),
]
COORDINATION = [
    cfg.StrOpt("backend_url", help="Where tooz coordinates."),
    cfg.StrOpt("prefix", default="inventory", help="Begins the names of our locks and groups, which others share."),
]
GROUPS = {
    "DEFAULT": DEFAULT,
    "api": API,
    "coordination": COORDINATION,
    "database": db_options.database_opts,
    # oslo.messaging registers these two with the global cfg.CONF alone, but reads them from any ConfigOpts.
    "oslo_messaging_metrics": metrics.oslo_messaging_metrics,
    "oslo_messaging_tracing": tracing.oslo_messaging_tracing,
}


def register(conf: cfg.ConfigOpts) -> None:
    for group, options in GROUPS.items():
        conf.register_opts(options, None if group == "DEFAULT" else group)


def load(arguments: Sequence[str], commands: Sequence[cfg.Opt] = ()) -> cfg.ConfigOpts:
    """Return the options of one of our programs, and set up its log."""
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    register(conf)
    conf.register_cli_opts(commands)
    conf(arguments, project="inventory")
    log.setup(conf, "inventory")
    return conf
