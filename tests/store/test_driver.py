"""What a transaction asks of the driver's thread, and that it asks no less than it must."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys

import pytest

from orchestrator.store import driver

pytestmark = pytest.mark.sqlite
FORGETFUL = """
import asyncio
from orchestrator.store.database import Database

async def main():
    database = Database("sqlite:///" + {path!r})
    await database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    await database.write(lambda connection: connection.exec_driver_sql("DELETE FROM chores"))

asyncio.run(main())
"""


def statements(*texts):
    async def work(connection):
        return [(await connection.exec_driver_sql(text)).all() for text in texts]

    return work


async def nothing(_connection):
    return "nothing"


@pytest.fixture
async def journeys(database, monkeypatch):
    """What is waited for, as the names of functions; the connections are open already."""
    for transaction in (database.read, database.write):
        await transaction(statements("SELECT 1"))
    made, inner = [], driver.Connection._execute

    async def counted(self, function, *given):
        made.append(function.__name__)
        return await inner(self, function, *given)

    monkeypatch.setattr(driver.Connection, "_execute", counted)
    return made


async def test_a_read_waits_once_for_each_statement(database, journeys):
    assert await database.read(statements("SELECT 1", "SELECT 2")) == [[(1,)], [(2,)]]
    assert journeys == ["_execute_now"] * 2


async def test_a_write_waits_once_for_each_statement_and_for_its_commit(database, journeys):
    await database.write(statements("SELECT 1", "DELETE FROM chores RETURNING name"))
    assert journeys == ["_execute_now", "_execute_now", "commit"]


async def test_a_transaction_without_a_statement_never_begins(database, journeys):
    for transaction in (database.read, database.write):
        assert await transaction(nothing) == "nothing"
    assert journeys == []


async def test_work_that_raises_before_its_first_statement_locks_nobody_out(database, queue_file):
    async def broken(_connection):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await database.write(broken)
    await database.foreign_version()  # asks the same connection, outside of any transaction
    with contextlib.closing(sqlite3.connect(queue_file, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("end", ["returns", "raises"])
async def test_a_read_leaves_no_snapshot_behind(database, queue_file, end):
    async def work(connection):
        await connection.exec_driver_sql("SELECT count(*) FROM prompts")
        if end == "raises":
            raise RuntimeError("a bug")

    with contextlib.suppress(RuntimeError):
        await database.read(work)
    with contextlib.closing(sqlite3.connect(queue_file, timeout=0, isolation_level=None)) as other:
        other.execute("INSERT INTO prompts (prompt) VALUES ('x')")
        for _ in range(200):
            blocked, *_ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not blocked:
                return
            await asyncio.sleep(0.05)
    pytest.fail("the log cannot be emptied: somebody still reads an old moment of the queue")


async def test_a_statement_brings_its_columns_its_rows_and_how_many_it_touched(queue_file):
    async with driver.connected(str(queue_file), writes=True) as connection:
        found = await connection.run("SELECT 1 AS one, 'x' AS text", ())
        assert [name for name, *_ in found.description] == ["one", "text"]
        assert found.rows == [(1, "x")]
        inserted = await connection.run("INSERT INTO prompts (prompt) VALUES (?)", [("a",), ("b",)], many=True)
        assert (inserted.description, inserted.rows, inserted.rowcount) == (None, [], 2)
        assert (await connection.run("UPDATE prompts SET tag = 't'", ())).rowcount == 2


def test_a_process_that_forgets_to_close_ends_all_the_same(queue_file):
    script = FORGETFUL.format(path=str(queue_file))
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
