"""Serve Keystone's WSGI application with waitress, which is in the image."""

import signal
import sys

# Process 1 has no default handlers: without this one a stop would take the full grace period.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import waitress  # noqa: E402
from keystone.wsgi.api import application  # noqa: E402

waitress.serve(application, listen="0.0.0.0:5000")
