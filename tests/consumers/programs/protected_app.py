"""Put a WSGI application behind keystonemiddleware's auth_token, for the test to ask.

Arguments: those of any oslo.config program. `get` with headers answers [status, what it sends back].
"""

import sys

import webob.dec
from dialogue import answer
from keystonemiddleware import auth_token
from oslo_config import cfg


@webob.dec.wsgify
def application(request):
    """Send back who the middleware says the caller is."""
    return webob.Response(headerlist=[(k, v) for k, v in request.headers.items() if k.startswith("X-")])


conf = cfg.ConfigOpts()
conf(sys.argv[1:], project="consumer", default_config_files=[], default_config_dirs=[])
protected = auth_token.AuthProtocol(application, {"oslo_config_config": conf})


def get(headers):
    response = webob.Request.blank("/", headers=headers).get_response(protected)
    return response.status_int, dict(response.headers)


answer(get=get)
