"""A transaction is whole or was never there, whoever is cancelled, locked out or out of space meanwhile."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from orchestrator.core.model import Lane
from orchestrator.errors import StoreUnavailable
from orchestrator.store import database as module
from orchestrator.store.batches import insert_batch
from orchestrator.store.database import PRAGMAS, Database
from orchestrator.store.lanes import find_or_make_lane
from orchestrator.store.queue import Admitted, admit_prompts, list_ready, list_unadmitted, return_lines, take_into_batch
from orchestrator.store.schema import migrate

pytestmark = pytest.mark.sqlite

NOW_MS = 1_800_000_000_000
ROWS = 2000


@pytest.fixture
def impatient(monkeypatch):
    """Databases opened from here on wait for a lock for a moment only."""
    monkeypatch.setattr(module, "PRAGMAS", (*module.PRAGMAS, "busy_timeout=50"))


def sql(statement):
    async def work(connection):
        return (await connection.exec_driver_sql(statement)).rowcount

    return work


# ---------------------------------------------------------------- cancelled callers


def half_and_half(tag, inside):
    """Two large writes; tells when the second begins."""

    async def work(connection):
        rows = [(tag,)] * ROWS
        await connection.exec_driver_sql("INSERT INTO prompts (prompt, tag) VALUES ('x', ?)", rows)
        inside.set()
        found = await connection.exec_driver_sql(
            "UPDATE prompt_states SET waiting = 1 WHERE waiting = 0 AND status = 'queued' RETURNING prompt_id"
        )
        assert len(found.all()) == ROWS
        await connection.exec_driver_sql("INSERT INTO prompts (prompt, tag) VALUES ('x', ?)", rows)
        await connection.exec_driver_sql("UPDATE prompt_states SET waiting = 1 WHERE waiting = 0")

    return work


async def test_a_cancelled_caller_leaves_no_lock_and_no_half_transaction(user, database):
    for number in range(10):
        inside = asyncio.Event()
        caller = asyncio.create_task(database.write(half_and_half(f"t{number}", inside)))
        await inside.wait()
        for _ in range(number):
            await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await database.write(sql("UPDATE provider_states SET pauses = 0"))
        assert user.rows("SELECT tag, count(*) AS n FROM prompts GROUP BY tag ORDER BY tag") == [
            {"tag": f"t{one}", "n": 2 * ROWS} for one in range(number + 1)
        ]
    for _ in range(60):
        start = time.perf_counter()
        user.insert()
        await database.write(sql("INSERT INTO prompts (prompt) VALUES ('x')"))
        assert time.perf_counter() - start < 2


async def test_many_cancelled_callers_under_load_lose_nothing(user, database):
    async def write(number):
        await database.write(sql(f"INSERT INTO prompts (prompt, tag) VALUES ('x', 'a{number}'), ('y', 'a{number}')"))

    callers = [asyncio.create_task(write(number)) for number in range(60)]
    for number, caller in enumerate(callers):
        if number % 3:
            await asyncio.sleep(0)
            caller.cancel()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(one) for one in ended} <= {type(None), asyncio.CancelledError}
    await database.close()
    halves = user.values("SELECT count(*) FROM prompts GROUP BY tag HAVING count(*) <> 2")
    assert halves == []
    kept = {number for number, one in enumerate(ended) if one is None}
    assert {f"a{number}" for number in kept} <= set(user.values("SELECT tag FROM prompts"))


async def test_a_caller_cancelled_before_its_turn_is_served_all_the_same(user, database):
    inside = asyncio.Event()
    first = asyncio.create_task(database.write(half_and_half("first", inside)))
    await inside.wait()
    second = asyncio.create_task(database.write(sql("INSERT INTO prompts (prompt, tag) VALUES ('x', 'second')")))
    await asyncio.sleep(0)
    second.cancel()
    await first
    await database.close()
    assert user.value("SELECT count(*) FROM prompts WHERE tag = 'second'") == 1


async def test_closing_waits_for_what_is_under_way(user, queue_file):
    database = Database(f"sqlite:///{queue_file}")
    inside = asyncio.Event()
    caller = asyncio.create_task(database.write(half_and_half("t", inside)))
    await inside.wait()
    caller.cancel()
    await database.close()
    assert user.value("SELECT count(*) FROM prompts") == 2 * ROWS


async def test_work_that_raises_is_taken_back_whole(user, database):
    async def work(connection):
        await connection.exec_driver_sql("INSERT INTO prompts (prompt) VALUES ('x')")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(work)
    assert user.value("SELECT count(*) FROM prompts") == 0
    assert await database.write(sql("INSERT INTO prompts (prompt) VALUES ('x')")) == 1


# ---------------------------------------------------------------- isolation


async def test_work_that_ends_our_transaction_and_leaves_one_of_its_own_open_locks_nobody_out(user, database):
    """The pool gives back no connection in a transaction, whatever happened in it."""

    async def reopened(connection):
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.commit()
        await connection.commit()
        await driver.execute("BEGIN IMMEDIATE")

    await database.write(reopened)
    assert user.insert()
    await database.write(sql("UPDATE prompt_states SET waiting = 1"))
    assert user.value("SELECT sum(waiting) FROM prompt_states") == 1


async def test_writers_in_one_process_take_turns(user, database):
    """Each reads a number and writes the next one: none is lost."""
    user.run("INSERT INTO provider_states (name) VALUES ('p')")

    async def count(connection):
        found = (await connection.exec_driver_sql("SELECT pauses FROM provider_states")).scalar_one()
        await asyncio.sleep(0)
        await connection.exec_driver_sql("UPDATE provider_states SET pauses = ?", (found + 1,))

    await asyncio.gather(*(database.write(count) for _ in range(50)))
    assert user.value("SELECT pauses FROM provider_states") == 50


async def test_two_processes_that_read_before_they_write_lose_no_write(user, queue_file):
    user.run("INSERT INTO provider_states (name) VALUES ('p')")
    databases = [Database(f"sqlite:///{queue_file}") for _ in range(3)]

    async def count(connection):
        found = (await connection.exec_driver_sql("SELECT pauses FROM provider_states")).scalar_one()
        await connection.exec_driver_sql("UPDATE provider_states SET pauses = ?", (found + 1,))

    await asyncio.gather(*(one.write(count) for _ in range(10) for one in databases))
    for one in databases:
        await one.close()
    assert user.value("SELECT pauses FROM provider_states") == 30


async def test_a_read_sees_one_moment(user, database):
    async def look_twice(connection):
        first = (await connection.exec_driver_sql("SELECT count(*) FROM prompts")).scalar_one()
        user.insert()
        return first, (await connection.exec_driver_sql("SELECT count(*) FROM prompts")).scalar_one()

    assert await database.read(look_twice) == (0, 0)
    assert user.value("SELECT count(*) FROM prompts") == 1


async def test_reads_go_on_while_another_process_writes(user, database):
    user.insert()
    user.run("BEGIN IMMEDIATE")
    user.insert()
    assert len(await database.read(list_unadmitted)) == 1
    user.run("ROLLBACK")


# ---------------------------------------------------------------- a database that cannot be written now


async def test_a_database_locked_by_another_process_is_unavailable_and_then_not(impatient, user, queue_file):
    database = Database(f"sqlite:///{queue_file}")
    user.run("BEGIN IMMEDIATE")
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="database is locked: another process holds a write transaction"):
            await database.write(sql("INSERT INTO prompts (prompt) VALUES ('x')"))
    user.run("ROLLBACK")
    assert await database.write(sql("INSERT INTO prompts (prompt) VALUES ('x')")) == 1
    await database.close()


async def test_a_file_that_cannot_be_written_is_unavailable_for_writes_only(user, queue_file, monkeypatch):
    user.insert()
    monkeypatch.setattr("orchestrator.store.database.PRAGMAS", (*PRAGMAS, "query_only=ON"))
    database = Database(f"sqlite:///{queue_file}")
    with pytest.raises(StoreUnavailable, match=r"readonly database: check that .* writable"):
        await database.write(sql("INSERT INTO prompts (prompt) VALUES ('x')"))
    assert len(await database.read(list_unadmitted)) == 1
    await database.close()


async def test_what_fails_after_the_file_was_taken_away_is_told_as_that(database, queue_file):
    async def work(connection):
        queue_file.rename(queue_file.with_name("kept.db"))
        await connection.exec_driver_sql("SELECT * FROM what_a_driver_does_not_find")

    with pytest.raises(StoreUnavailable, match="was removed or replaced"):
        await database.read(work)


@pytest.mark.parametrize("writes", [True, False])
async def test_a_file_that_is_replaced_just_before_it_is_opened_is_never_worked_on(queue_file, monkeypatch, writes):
    """It would be read and written whenever the pool gives that connection, long after the right file is back."""
    kept = queue_file.with_name("kept.db")
    opened = module.driver.connected

    def too_late(path, **options):
        queue_file.rename(kept)
        queue_file.write_bytes(b"")
        return opened(path, **options)

    database = Database(f"sqlite:///{queue_file}")
    first, second = (database.read, database.write) if writes else (database.write, database.read)
    await first(sql("SELECT count(*) FROM prompts"))
    monkeypatch.setattr(module.driver, "connected", too_late)
    with pytest.raises(StoreUnavailable, match="was removed or replaced"):
        await second(sql("SELECT count(*) FROM prompts"))
    monkeypatch.setattr(module.driver, "connected", opened)
    kept.rename(queue_file)
    await second(sql("SELECT count(*) FROM prompts"))
    await database.close()


async def test_a_full_disk_stores_nothing_and_work_goes_on_once_there_is_space(user, database):
    user.insert(tag="before")
    pages = user.value("PRAGMA page_count")
    await database.write(sql(f"PRAGMA max_page_count = {pages + 3}"))
    fill = "INSERT INTO prompts (prompt, tag) SELECT hex(zeroblob(4000)), 'big' FROM prompt_states, (VALUES (1), (2))"

    async def work(connection):
        await connection.exec_driver_sql("UPDATE prompts SET tag = 'changed'")
        for _ in range(5):
            await connection.exec_driver_sql(fill)

    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="database or disk is full: free some disk space"):
            await database.write(work)
        assert user.values("SELECT tag FROM prompts") == ["before"]
    await database.write(sql(f"PRAGMA max_page_count = {pages + 10_000}"))
    await database.write(work)
    assert user.value("SELECT count(*) FROM prompts WHERE tag = 'big'") > 3


@pytest.fixture
async def connections_ended():
    """The driver's threads are waited for: one whose connection failed ends a moment after the failure is told."""
    yield
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


async def test_a_folder_that_is_not_there_is_unavailable_and_the_drivers_own_error_is_kept(tmp_path, connections_ended):
    database = Database(f"sqlite:///{tmp_path}/no/queue.db")
    with pytest.raises(StoreUnavailable, match="unable to open database file: check that") as caught:
        await database.read(list_unadmitted)
    await database.close()
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


async def test_a_file_that_is_no_database_is_unavailable(tmp_path, connections_ended):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"these are my notes\n" * 1000)
    database = Database(f"sqlite:///{path}")
    for attempt in (database.read, database.write):
        with pytest.raises(StoreUnavailable, match="not a database"):
            await attempt(list_unadmitted)
    with pytest.raises(StoreUnavailable, match="not a database"):
        await migrate(database)
    await database.close()
    assert path.read_bytes() == b"these are my notes\n" * 1000


# ---------------------------------------------------------------- other people's writes

WRITER = """
import json, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
print("ready", flush=True)
seconds = []
for number in range(60):
    start = time.perf_counter()
    connection.execute("INSERT INTO prompts (prompt, tag) VALUES ('x', 'theirs')")
    seconds.append(time.perf_counter() - start)
    time.sleep(0.01)
print(json.dumps(seconds))
"""


async def test_another_process_inserts_within_a_second_while_the_daemon_works_at_full_speed(user, daemon, queue_file):
    user.run("BEGIN")
    user.run_many("INSERT INTO prompts (prompt, tag) VALUES (?, 'ours')", [("x" * 500,)] * 6000)
    user.run("COMMIT")
    lane_id = await daemon.write(lambda c: find_or_make_lane(c, Lane("p", "/v1/x", "24h")))

    async def admit(connection):
        rows = await list_unadmitted(connection)
        await admit_prompts(connection, [Admitted(row.prompt_id, lane_id, "m", 9, False) for row in rows])

    async def take(connection):
        key = f"orc-{time.perf_counter_ns()}"
        batch_id = await insert_batch(connection, key, lane_id, "me", NOW_MS, NOW_MS)
        await take_into_batch(connection, batch_id, await list_ready(connection, lane_id, 2000))
        return batch_id

    async def give_back(connection):
        batch_id = (await connection.exec_driver_sql("SELECT max(id) FROM batch_states")).scalar_one()
        await return_lines(connection, batch_id, readmit=True)

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(queue_file), stdout=subprocess.PIPE
    )
    await process.stdout.readline()
    written = asyncio.create_task(process.communicate())
    while not written.done():
        for step in (admit, take, give_back):
            await daemon.write(step)
    seconds = json.loads((await written)[0])
    assert len(seconds) == user.value("SELECT count(*) FROM prompts WHERE tag = 'theirs'") == 60
    assert max(seconds) < 1


async def test_the_foreign_version_changes_with_a_commit_of_anybody_else_and_with_nothing_else(database, queue_file):
    first = await database.foreign_version()
    await database.write(sql("INSERT INTO prompts (prompt) VALUES ('ours')"))
    await database.read(sql("SELECT count(*) FROM prompts"))
    assert await database.foreign_version() == first
    with contextlib.closing(sqlite3.connect(queue_file)) as user, user:
        user.execute("INSERT INTO prompts (prompt) VALUES ('theirs')")
    assert await database.foreign_version() != first


async def test_looking_at_the_version_needs_no_write_lock(database, queue_file):
    await database.foreign_version()
    with contextlib.closing(sqlite3.connect(queue_file, isolation_level=None)) as user:
        user.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(5):
            await database.foreign_version()
