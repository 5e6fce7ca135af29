"""The schema on each database, as the projects test their migrations."""

import os

import sqlalchemy
import testtools
from oslo_db.sqlalchemy import enginefacade, test_fixtures

NAMED = os.environ.get("OS_TEST_DBAPI_ADMIN_CONNECTION", "")


class Schema(test_fixtures.OpportunisticDBTestMixin):
    def setUp(self):
        if not NAMED and self.FIXTURE.DRIVER != "sqlite":
            # oslo.db would try whatever server has the usual port.
            self.skipTest("no database is named")
        super().setUp()
        self.engine = enginefacade.writer.get_engine()

    def test_a_table_keeps_its_rows(self):
        table = sqlalchemy.Table("t", sqlalchemy.MetaData(), sqlalchemy.Column("a", sqlalchemy.Integer))
        table.create(self.engine)
        with self.engine.begin() as connection:
            connection.execute(table.insert(), {"a": 1})
            self.assertEqual([(1,)], connection.execute(sqlalchemy.select(table)).all())
        self.assertEqual(self.FIXTURE.DRIVER, self.engine.dialect.name)


class TestOnSQLite(Schema, testtools.TestCase):
    FIXTURE = test_fixtures.OpportunisticDbFixture


class TestOnMySQL(Schema, testtools.TestCase):
    FIXTURE = test_fixtures.MySQLOpportunisticFixture
    # Usually such a suite skips a database that it cannot use, and nobody notices.
    SKIP_ON_UNAVAILABLE_DB = "mysql" not in NAMED


class TestOnPostgreSQL(Schema, testtools.TestCase):
    FIXTURE = test_fixtures.PostgresqlOpportunisticFixture
    SKIP_ON_UNAVAILABLE_DB = "postgresql" not in NAMED
