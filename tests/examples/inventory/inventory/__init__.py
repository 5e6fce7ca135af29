"""Keeps count of what is in stock: an API, workers, and the command that makes their tables."""

from oslo_service import backend

# Before any library asks oslo.service for a class of its: threads, not eventlet.
backend.init_backend(backend.BackendType.THREADING)
