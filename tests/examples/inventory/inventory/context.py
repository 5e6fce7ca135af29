"""Pass on who asks, from the API through RPC to the database."""

import oslo_messaging
from oslo_context import context
from oslo_db.sqlalchemy import enginefacade


@enginefacade.transaction_context_provider
class Context(context.RequestContext):
    """A request's context, to which oslo.db also ties transactions."""


class Serializer(oslo_messaging.NoOpSerializer):
    """Sends a context with each RPC message."""

    def serialize_context(self, context: Context) -> dict:
        return context.to_dict()

    def deserialize_context(self, values: dict) -> Context:
        return Context.from_dict(values)
