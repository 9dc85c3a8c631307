"""What a stage does when the database fails under it, and that trouble with one batch is trouble with one batch."""

import asyncio
import contextlib
import sqlite3

import pytest
from rig import FLOW, admit, collect, pack, submit

from orchestrator.errors import StoreUnavailable
from orchestrator.loop import Bell, Troubles, run_loop


async def on_the_writer(rig, statement):
    """Run a PRAGMA on the daemon's own writing connection."""

    async def work(connection):
        return (await connection.exec_driver_sql(statement)).fetchall()

    return await rig.context.database.write(work)


@contextlib.contextmanager
def locked(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.parametrize("stage", FLOW[:-1])
async def test_a_database_that_is_locked_too_long_is_told_with_its_remedy_and_changes_nothing(rig, stage):
    rig.ask_many(3)
    for earlier in FLOW[: FLOW.index(stage)]:
        await rig.later(earlier)
    rig.clock.advance(60)
    await on_the_writer(rig, "PRAGMA busy_timeout=20")
    with locked(rig.path), pytest.raises(StoreUnavailable, match="another process holds a write transaction open"):
        await rig.run(stage)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1


async def test_a_disk_that_is_full_is_told_with_its_remedy_and_work_goes_on_when_there_is_room(start):
    rig = await start(sandbox={"answer_bytes": 4000})
    rig.ask_many(100)
    await rig.ended()
    pages = (await on_the_writer(rig, "PRAGMA page_count"))[0][0]
    await on_the_writer(rig, f"PRAGMA max_page_count={pages + 5}")
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="free some disk space"):
            await rig.run(collect)
    assert rig.batch()["output_cursor"] == rig.count()["done"]
    await on_the_writer(rig, "PRAGMA max_page_count=1000000")
    await rig.until_idle()
    assert rig.count() == {"done": 100}
    assert rig.ledger.creates == 1


async def test_a_loop_outlives_a_locked_database(rig):
    rig.ask_many(3)
    await on_the_writer(rig, "PRAGMA busy_timeout=20")
    bell = Bell()
    with locked(rig.path):
        loop = asyncio.create_task(
            run_loop("admit", lambda: admit(rig.context), bell, Troubles(), rig.context.seconds_until)
        )
        async with asyncio.timeout(10):
            while not rig.told("loop.failed"):
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while not rig.told("loop.recovered"):
            await asyncio.sleep(0.01)
    bell.stop()
    await loop
    assert rig.told("admit.admitted")


async def test_a_batch_that_brings_its_stage_down_does_not_hold_up_the_others(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 2})
    rig.ask_many(6)
    await rig.ended()
    rig.sql(
        "CREATE TRIGGER poison BEFORE UPDATE OF output_cursor ON batch_states WHEN NEW.id = 1"
        " BEGIN SELECT RAISE(ABORT, 'poison'); END"
    )
    for _ in range(5):
        with contextlib.suppress(Exception):
            await rig.run(collect)
        rig.clock.advance(1)
    assert rig.count() == {"done": 4, "batched": 2}
    rig.sql("DROP TRIGGER poison")
    await rig.until_idle()
    assert rig.count() == {"done": 6}


async def test_what_the_database_complains_of_names_no_answer(rig):
    rig.ask_many(3)
    await rig.ended()
    rig.sql("CREATE TRIGGER poison BEFORE INSERT ON replies BEGIN SELECT RAISE(ABORT, 'poison'); END")
    with pytest.raises(Exception, match="poison") as caught:
        await rig.run(collect)
    assert "You asked" not in f"{caught.value} {caught.value!r}"


async def test_a_cancelled_stage_gives_its_lease_back_and_has_failed_nothing(start):
    rig = await start(through_proxy=True)
    rig.ask_many(3)
    await rig.sealed()
    held = rig.proxy.hold("POST", "/files$", "after")
    sending = asyncio.create_task(submit(rig.context))
    await held.reached.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    held.drop()
    assert (rig.batch()["status"], rig.batch()["tries"]) == ("uploading", 0)
    assert rig.batch()["lease_until_ms"] == 0
    await rig.until_idle()
    assert rig.ledger.uploads == rig.ledger.creates == 1
    assert {row["attempts"] for row in rig.results().values()} == {1}


async def test_a_transaction_under_way_is_finished_although_its_stage_was_cancelled(rig):
    rig.ask_many(200)
    begun = asyncio.Event()

    async def work(connection):
        begun.set()
        await connection.exec_driver_sql("UPDATE prompts SET tag = 'first'")
        await connection.exec_driver_sql("UPDATE prompts SET metadata = '{}'")

    writing = asyncio.create_task(rig.context.database.write(work))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await rig.run(admit)
    whole = "SELECT count(*) FROM prompts WHERE tag = 'first' AND metadata = '{}'"
    assert await asyncio.to_thread(rig.value, whole) == 200


async def test_the_writes_of_a_cancelled_stage_are_whole_and_leave_no_lock(start):
    rig = await start()
    rig.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO prompts (custom_id, model, prompt) SELECT 'q-' || i, 'm', 'What about q-' || i || '?' FROM n"
    )
    for number in range(1, 60, 3):
        work = asyncio.create_task(rig.run(admit, pack))
        for _ in range(number):
            await asyncio.sleep(0)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await asyncio.to_thread(rig.sql, "UPDATE prompts SET tag = ? WHERE id = 1", str(number))
    await rig.until_idle()
    assert rig.count() == {"done": 5000}
    assert set(rig.ledger.executions.values()) == {1}
