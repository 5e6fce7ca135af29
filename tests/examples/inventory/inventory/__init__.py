"""Keep count of what is in stock: an API, workers, and the command that makes their tables."""

from oslo_service import backend

# Choose threads, not eventlet, before any library asks oslo.service for one of its classes.
backend.init_backend(backend.BackendType.THREADING)
