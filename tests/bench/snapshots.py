"""Measure how long it takes to save 200 MB of data and to restore them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pymysql

from tests.bench.engine import Engine
from tests.bench.process import Failed
from tests.bench.samples import Samples, Tell
from tests.bench.sides import Devenv

DATA_MB = 200
SAVE, RESTORE = f"snapshot save, {DATA_MB} MB", f"snapshot restore, {DATA_MB} MB"
ENGINE_COPY = "copied by the engine"
_NAME = "bench"


def measure_snapshots(side: Devenv, rounds: int, engine: Engine, samples: Samples, tell: Tell) -> None:
    """Save and restore all four services, with data in MySQL that no compression makes smaller.

    Also measure how long the engine alone takes to copy all that.
    """
    side.up()
    _fill(side)
    for _ in range(rounds):
        samples.add(ENGINE_COPY, side.name, seconds := engine.copy_volumes(side.label))
        tell(f"  {side.name:<8} {ENGINE_COPY:<24} {seconds:6.2f} s")
        samples.note(SAVE, side.name, side.save(_NAME), tell)
        with _database(side) as cursor:
            cursor.execute("DROP TABLE bench")
        samples.note(RESTORE, side.name, side.restore(_NAME), tell)
        _check(side)
        side.remove_snapshot(_NAME)
    side.down(volumes=True)


@contextlib.contextmanager
def _database(side: Devenv) -> Iterator[Any]:
    variables = side.variables()
    connection = pymysql.connect(
        host=variables["DEVENV_MYSQL_HOST"],
        port=int(variables["DEVENV_MYSQL_PORT"]),
        user=variables["DEVENV_MYSQL_USER"],
        password=variables["DEVENV_MYSQL_PASSWORD"],
        database=variables["DEVENV_MYSQL_DATABASE"],
    )
    with contextlib.closing(connection), connection.cursor() as cursor:
        yield cursor
        connection.commit()


def _fill(side: Devenv) -> None:
    source = random.Random(0)
    with _database(side) as cursor:
        cursor.execute("CREATE TABLE bench (id INT PRIMARY KEY, data LONGBLOB)")
        for number in range(DATA_MB):
            cursor.execute("INSERT INTO bench VALUES (%s, %s)", (number, source.randbytes(1_000_000)))


def _check(side: Devenv) -> None:
    """Check that the restored data are all that was saved."""
    with _database(side) as cursor:
        cursor.execute("SELECT COUNT(*), SUM(LENGTH(data)) FROM bench")
        if tuple(map(int, cursor.fetchone())) != (DATA_MB, DATA_MB * 1_000_000):
            raise Failed("cannot use this run: the snapshot did not bring all data back")
