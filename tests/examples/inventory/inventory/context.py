"""Who asks, from the API through RPC to the database."""

import oslo_messaging
from oslo_context import context
from oslo_db.sqlalchemy import enginefacade


@enginefacade.transaction_context_provider
class Context(context.RequestContext):
    """A request's context, which database transactions hang on, too."""


class Serializer(oslo_messaging.NoOpSerializer):
    """Has a context travel with each RPC message."""

    def serialize_context(self, context: Context) -> dict:
        return context.to_dict()

    def deserialize_context(self, values: dict) -> Context:
        return Context.from_dict(values)
