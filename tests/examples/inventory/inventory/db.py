"""Items in a database."""

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db import exception as db_exception
from oslo_db.sqlalchemy import enginefacade, models
from sqlalchemy import orm

from inventory.context import Context
from inventory.exceptions import ItemExists, ItemNotFound, NotEnough


class Base(orm.DeclarativeBase):
    pass


class Item(models.TimestampMixin, Base):
    __tablename__ = "items"
    __table_args__ = (
        sa.UniqueConstraint("project_id", "name"),
        {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"},
    )
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    project_id: orm.Mapped[str] = orm.mapped_column(sa.String(64))
    name: orm.Mapped[str] = orm.mapped_column(sa.String(128))
    count: orm.Mapped[int] = orm.mapped_column(default=0)

    def to_dict(self) -> dict:
        return {"name": self.name, "count": self.count}


class Database:
    """Reads and changes only the items of the context's project."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._transactions = enginefacade.transaction_context()
        self._transactions.configure(**conf.database)

    @property
    def engine(self) -> sa.Engine:
        return self._transactions.writer.get_engine()

    def create_schema(self) -> None:
        Base.metadata.create_all(self.engine)

    def close(self) -> None:
        self._transactions.dispose_pool()

    def create(self, context: Context, name: str, count: int) -> dict:
        item = Item(project_id=context.project_id, name=name, count=count)
        try:
            with self._transactions.writer.using(context) as session:
                session.add(item)
        except db_exception.DBDuplicateEntry:
            raise ItemExists(f"there is an item {name} already") from None
        return item.to_dict()

    def list(self, context: Context) -> list[dict]:
        with self._transactions.reader.using(context) as session:
            found = session.scalars(sa.select(Item).filter_by(project_id=context.project_id).order_by(Item.name))
            return [item.to_dict() for item in found]

    def get(self, context: Context, name: str) -> dict:
        with self._transactions.reader.using(context) as session:
            return self._find(session, context, name).to_dict()

    def take(self, context: Context, name: str, count: int) -> dict:
        """Take some of an item out of stock. The caller holds the item's lock."""
        with self._transactions.writer.using(context) as session:
            item = self._find(session, context, name)
            if not 0 < count <= item.count:
                raise NotEnough(f"there are {item.count} of {name}, not {count}")
            item.count -= count
        return item.to_dict()

    @staticmethod
    def _find(session: orm.Session, context: Context, name: str) -> Item:
        item = session.scalars(sa.select(Item).filter_by(project_id=context.project_id, name=name)).one_or_none()
        if item is None:
            raise ItemNotFound(f"there is no item {name}")
        return item
