"""Migrate a schema up, store and read a text, and migrate down again; through oslo.db, from the overlay alone.

Arguments: those of any oslo.config program. Prints what it saw, step by step.
"""

import json
import sys

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from oslo_config import cfg
from oslo_db import options
from oslo_db.sqlalchemy import enginefacade
from sqlalchemy import orm

Base = orm.declarative_base()


class Host(Base):
    __tablename__ = "consumer_hosts"
    __table_args__ = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}  # noqa: RUF012
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.String(255), nullable=False)


@enginefacade.transaction_context_provider
class Context:
    pass


@enginefacade.writer
def upgrade(context):
    connection = context.session.connection()
    operations = Operations(MigrationContext.configure(connection))
    Base.metadata.create_all(connection)
    operations.create_table("consumer_disks", sa.Column("id", sa.Integer, primary_key=True), mysql_engine="InnoDB")
    operations.add_column("consumer_disks", sa.Column("host_id", sa.Integer))
    operations.create_index("by_host", "consumer_disks", ["host_id"])
    operations.create_foreign_key("of_host", "consumer_disks", "consumer_hosts", ["host_id"], ["id"])
    inspector = sa.inspect(connection)
    indexes = [index["name"] for index in inspector.get_indexes("consumer_disks")]
    return indexes + [key["name"] for key in inspector.get_foreign_keys("consumer_disks")]


@enginefacade.writer
def store(context, text):
    context.session.add(Host(name=text))


@enginefacade.reader
def load(context):
    return [host.name for host in context.session.query(Host)]


@enginefacade.writer
def downgrade(context):
    connection = context.session.connection()
    operations = Operations(MigrationContext.configure(connection))
    operations.drop_constraint("of_host", "consumer_disks", type_="foreignkey")
    operations.drop_table("consumer_disks")
    operations.drop_table("consumer_hosts")
    return [name for name in sa.inspect(connection).get_table_names() if name.startswith("consumer_")]


def main():
    options.set_defaults(cfg.CONF)
    cfg.CONF(sys.argv[1:], project="consumer", default_config_files=[], default_config_dirs=[])
    context = Context()
    seen = {"made": upgrade(context)}
    store(context, "grüße ✓ 🚀")
    seen |= {"texts": load(context), "left": downgrade(context)}
    print(json.dumps(seen))


main()
