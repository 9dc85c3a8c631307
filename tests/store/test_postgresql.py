"""What is PostgreSQL's own: its types, its locks between many writers, and what it tells those who listen."""

import asyncio
import os
import threading

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from users import LANE, Daemon, PostgresUser

from orchestrator.core.model import BatchStatus, Fault, PromptStatus
from orchestrator.core.outcomes import Outcome
from orchestrator.errors import ConfigError, LeaseLost, SchemaMismatch, StoreUnavailable
from orchestrator.store.batches import (
    Claim,
    claim_batches,
    get_batch,
    insert_batch,
    move_batch,
    renew_lease,
    statuses,
)
from orchestrator.store.cancel import cancel, request_cancels
from orchestrator.store.database import Database
from orchestrator.store.dialect import take_turn
from orchestrator.store.intake import WRITTEN, CustomIdTaken, insert_new
from orchestrator.store.lanes import find_or_make_lane
from orchestrator.store.queue import (
    Line,
    admit_again,
    list_lines,
    list_ready,
    list_unadmitted,
    read_unadmitted,
    take_into_batch,
    wake_due,
)
from orchestrator.store.replies import Entry, get_members, record
from orchestrator.store.retention import prune_prompts
from orchestrator.store.schema import current_revision, migrate, newest_revision
from orchestrator.store.tables import metadata

pytestmark = pytest.mark.postgresql

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
SESSIONS = "(SELECT * FROM pg_stat_activity WHERE datname = current_database()) AS sessions"
"""Of this test: its server has other tests' too."""


@pytest.fixture
def other(queue_url):
    """A second user, with a connection of its own."""
    user = PostgresUser(queue_url)
    yield user
    user.connection.close()


@pytest.fixture
async def second(queue_url):
    """Another daemon's connections."""
    database = Database(queue_url)
    yield Daemon(database)
    await database.close()


def waiting_for_a_lock(user):
    return user.value(f"SELECT count(*) FROM {SESSIONS} WHERE wait_event_type = 'Lock'")


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


class Held:
    """Work in a transaction that stays open until it is let go."""

    def __init__(self, database, work):
        self.began, self._go = asyncio.Event(), asyncio.Event()
        self.done = asyncio.create_task(database.write(self._held(work)))

    def _held(self, work):
        async def held(connection):
            found = await work(connection)
            self.began.set()
            await self._go.wait()
            return found

        return held

    async def let_go(self):
        self._go.set()
        return await self.done


async def held(database, work):
    one = Held(database, work)
    beginning = asyncio.ensure_future(one.began.wait())
    await asyncio.wait([beginning, one.done], return_when=asyncio.FIRST_COMPLETED)
    if one.done.done():
        await one.done
    return one


# ---------------------------------------------------------------- the schema


async def test_migrating_from_empty_makes_what_the_metadata_say(database):
    def differences(connection):
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)

    assert await database.read(lambda c: c.run_sync(differences)) == []


async def test_migrators_at_once_do_no_harm(postgres):
    with postgres.lent("template0") as url:
        databases = [Database(url) for _ in range(4)]
        done = await asyncio.gather(*(migrate(one) for one in databases))
        assert {after for _before, after in done} == {newest_revision()}
        assert await current_revision(databases[0]) == newest_revision()
        for one in databases:
            await one.close()


async def test_a_schema_of_its_own_is_named_in_the_address(postgres):
    with postgres.lent("template0") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA queue")
        database = Database(f"{url}&options=-csearch_path%3Dqueue")
        await migrate(database)
        await database.close()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO queue.prompts (prompt) VALUES ('hi')")
            assert connection.execute("SELECT status FROM queue.results").fetchall() == [("queued",)]


def test_the_address_shows_no_password():
    database = Database("postgresql://me:hush@host/queue")
    assert "hush" not in database.named
    assert database.path is None


def test_a_missing_driver_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ConfigError, match="its extra postgresql"):
        Database("postgresql://host/queue")


# ---------------------------------------------------------------- a user's rows


def test_copy_and_many_rows_at_once_get_their_states(user):
    with user.connection.cursor().copy("COPY prompts (prompt) FROM STDIN") as copy:
        for number in range(1000):
            copy.write_row([f"prompt {number}"])
    assert user.value("SELECT count(*) FROM prompt_states WHERE line_bytes >= 8") == 1000
    assert user.value("SELECT count(DISTINCT custom_id) FROM prompts") == 1000


def test_a_known_id_is_skipped_and_touches_nothing(user):
    first = user.insert(custom_id="a")
    user.put(first, "failed")
    user.run("INSERT INTO prompts (custom_id, prompt) VALUES ('a', 'x'), ('b', 'x') ON CONFLICT DO NOTHING")
    assert user.values("SELECT status FROM prompt_states ORDER BY prompt_id") == ["failed", "queued"]


@pytest.mark.parametrize("not_before", ["infinity", "-infinity", "2027-01-15 08:00:00+00"])
def test_every_time_that_can_be_written_is_one(user, not_before):
    due = user.state(user.insert(not_before=not_before))["due_at_ms"]
    assert {"infinity": due > NOW_MS + DAY_MS, "-infinity": due < 0}.get(not_before, due == NOW_MS)


def test_what_is_no_time_no_number_and_no_json_is_refused(user):
    for column, value in {"not_before": "soon", "priority": "high", "metadata": "["}.items():
        with pytest.raises(psycopg.DataError):
            user.insert(**{column: value})


def test_metadata_can_be_asked_for(user):
    user.insert(metadata='{"customer": {"id": 7}}')
    assert user.value('SELECT id FROM results WHERE metadata @> \'{"customer": {"id": 7}}\'') == 1


def test_emptying_the_table_would_leave_answers_behind(user):
    user.insert()
    with pytest.raises(psycopg.IntegrityError, match="use DELETE"):
        user.run("TRUNCATE prompts")


def test_a_reader_in_another_time_zone_sees_the_same_moment(user):
    user.put(user.insert(), "cancelled")
    user.run("SET timezone = 'Asia/Tokyo'")
    assert user.value("SELECT abs(extract(epoch FROM now() - finished_at)) < 60 FROM results")


# ---------------------------------------------------------------- an answer with a NUL


async def test_a_nul_is_shown_as_a_replacement_and_the_response_keeps_it(user, daemon):
    prompt_id = user.insert()
    raw = '{"content":"a\\u0000b"}'
    outcome = Outcome(None, 200, "x\0y", "m\0", "a\0b", "s\0", 1, 1, "m\0", raw)

    async def work(connection):
        (member,) = await get_members(connection, [prompt_id])
        await record(connection, [Entry(member, outcome, None, PromptStatus.DONE, 1, 0)], NOW_MS)

    await daemon.write(work)
    (row,) = user.rows("SELECT answer, response FROM results")
    assert row == {"answer": "a\N{REPLACEMENT CHARACTER}b", "response": raw}


async def test_a_database_that_does_not_know_every_character_is_refused(postgres):
    name = f"latin_{os.getpid()}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    database = Database(postgres.url(name))
    try:
        with pytest.raises(SchemaMismatch, match="LATIN1"):
            await migrate(database)
    finally:
        await database.close()
        postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_upgrade_lets_an_insert_under_way_end(postgres, monkeypatch):
    with postgres.lent("template0") as url:
        database, user = Database(url), psycopg.connect(url)
        upgrade = command.upgrade
        monkeypatch.setattr(command, "upgrade", lambda config, _head: upgrade(config, "0007"))
        await migrate(database)
        monkeypatch.undo()
        long = "INSERT INTO prompts (prompt) SELECT 'x' || pg_sleep(0.01) FROM generate_series(1, 100)"
        inserting = asyncio.create_task(asyncio.to_thread(user.execute, long))
        await until(lambda: postgres.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchone())
        migrating = asyncio.create_task(migrate(database))
        await inserting
        user.commit()
        assert (await migrating)[1] == newest_revision()
        assert user.execute("SELECT count(*) FROM prompt_states").fetchone() == (100,)
        user.close()
        await database.close()


# ---------------------------------------------------------------- many at once


async def test_whoever_looks_for_new_rows_passes_over_those_another_daemon_has_in_hand(user, daemon, second):
    user.insert_many(4)
    one = await held(daemon.database, lambda c: read_unadmitted(c, [1, 2], 1000))
    assert [line.prompt_id for line in await second.database.look(list_unadmitted)] == [3, 4]
    assert [row.id for row, _ in await second.write(lambda c: read_unadmitted(c, [1, 2, 3, 4], 1000))] == [3, 4]
    assert [row.id for row, _ in await one.let_go()] == [1, 2]


async def test_an_edit_waits_for_the_verdict_and_is_admitted_anew(user, daemon, other):
    prompt_id = user.insert(prompt="short")

    async def judged(connection):
        await read_unadmitted(connection, [1], 1000)
        await asyncio.sleep(0)
        lane_id = await find_or_make_lane(connection, LANE)
        await connection.exec_driver_sql(f"UPDATE prompt_states SET lane_id = {lane_id}, model = 'm'")

    one = await held(daemon.database, judged)
    edit = threading.Thread(target=other.run, args=("UPDATE prompts SET prompt = 'much longer' WHERE id = 1",))
    edit.start()
    await until(lambda: waiting_for_a_lock(user))
    await one.let_go()
    await asyncio.to_thread(edit.join)
    state = user.state(prompt_id)
    assert (state["lane_id"], state["line_bytes"]) == (None, len("much longer"))


async def test_a_row_that_is_being_packed_cannot_be_deleted_meanwhile(user, daemon, other):
    prompt_id = user.insert()
    await daemon.admit(prompt_id)
    refused = []

    def delete():
        with pytest.raises(psycopg.IntegrityError, match="in a batch"):
            other.run("DELETE FROM prompts")
        refused.append(True)

    one = await held(daemon.database, lambda c: take_into_batch(c, 7, [Line(prompt_id, 10)]))
    deletion = threading.Thread(target=delete)
    deletion.start()
    await until(lambda: waiting_for_a_lock(user))
    await one.let_go()
    await asyncio.to_thread(deletion.join)
    assert refused
    assert user.value("SELECT count(*) FROM prompts") == 1


async def test_a_cancel_reaches_a_prompt_that_is_just_coming_back(user, daemon, second):
    prompt_id = user.insert()
    await daemon.admit(prompt_id)
    batch = await daemon.batch(prompt_id)
    user.run("UPDATE batch_states SET status = 'submitted', remote_batch_id = 'r'")

    async def give_back(connection):
        (member,) = await get_members(connection, [prompt_id])
        entry = Entry(member, Outcome(Fault.EXPIRED), batch.id, PromptStatus.QUEUED, 0, 1, NOW_MS)
        await record(connection, [entry], NOW_MS)

    one = await held(daemon.database, give_back)
    cancelled = asyncio.ensure_future(second.write(lambda c: cancel(c, [prompt_id], NOW_MS)))
    await until(lambda: waiting_for_a_lock(user))
    await one.let_go()
    assert (await cancelled).at_once == 1
    assert user.state(prompt_id)["status"] == "cancelled"


async def test_a_batch_that_is_being_packed_is_not_cancelled_for_its_first_lines(user, daemon, second):
    mine, yours = user.insert(), user.insert()
    lane_id = await daemon.admit(mine, yours)

    async def open_batch(connection):
        batch_id = await insert_batch(connection, "orc-1", lane_id, "me", NOW_MS, NOW_MS + 1000)
        await take_into_batch(connection, batch_id, [Line(mine, 10)])

    async def cancel_mine():
        done = await second.write(lambda c: cancel(c, [mine], NOW_MS))
        return await second.write(lambda c: request_cancels(c, sorted(done.batches)))

    one = await held(daemon.database, open_batch)
    requested = asyncio.ensure_future(cancel_mine())
    await until(lambda: waiting_for_a_lock(user))
    await one.let_go()
    assert await requested == []
    assert user.values("SELECT cancel_requested FROM batch_states") == [False]
    assert user.state(mine)["cancelling"] == 1
    assert user.state(yours)["cancelling"] == 0


async def test_a_row_that_a_user_is_editing_keeps_no_other_from_its_turn(user, daemon, other):
    edited, free = user.insert_many(2)
    lane_id = await daemon.admit(edited, free, waiting=True)
    user.run("UPDATE prompt_states SET due_at_ms = 1")
    other.connection.autocommit = False
    other.connection.execute("UPDATE prompts SET priority = 5 WHERE id = %s", (edited,))
    async with asyncio.timeout(10):
        assert await daemon.write(lambda c: wake_due(c, NOW_MS)) == 1
        assert await daemon.write(lambda c: admit_again(c, lane_id)) == 1
    other.connection.rollback()
    assert user.state(free)["lane_id"] is None
    assert await daemon.write(lambda c: wake_due(c, NOW_MS)) == 1


async def test_old_rows_that_a_user_is_deleting_are_left_to_them(user, daemon, other):
    deleted, old = user.insert_many(2)
    user.run("UPDATE prompt_states SET status = 'cancelled', finished_at_ms = 1")
    other.connection.autocommit = False
    other.connection.execute("DELETE FROM prompts WHERE id = %s", (deleted,))
    async with asyncio.timeout(10):
        assert await daemon.write(lambda c: prune_prompts(c, [deleted, old], NOW_MS)) == 1
    other.connection.commit()
    assert user.values("SELECT count(*) FROM prompts") == [0]
    assert user.values("SELECT count(*) FROM prompt_states") == [0]


async def test_two_packers_share_no_line(user, daemon, second):
    prompt_ids = user.insert_many(6)
    lane_id = await daemon.admit(*prompt_ids)
    one = await held(daemon.database, lambda c: list_ready(c, lane_id, 3))
    taken = await second.write(lambda c: list_ready(c, lane_id, 6))
    assert [line.prompt_id for line in taken] == prompt_ids[3:]
    assert [line.prompt_id for line in await one.let_go()] == prompt_ids[:3]


async def test_a_batch_that_is_being_written_is_claimed_by_nobody(user, daemon, second):
    await daemon.admit(user.insert())
    batch = await daemon.batch(1, lease_until_ms=NOW_MS - 1)
    one = await held(daemon.database, lambda c: renew_lease(c, batch, NOW_MS - 1))
    packing = statuses(BatchStatus.PACKING)

    async def claimed():
        return await second.write(lambda c: claim_batches(c, packing, Claim("other", NOW_MS, NOW_MS + 1)))

    assert await claimed() == []
    await one.let_go()
    assert [one.fence for one in await claimed()] == [batch.fence + 1]
    with pytest.raises(LeaseLost):
        await daemon.write(lambda c: renew_lease(c, batch, NOW_MS))


async def test_a_lane_wanted_by_many_at_once_is_made_once(daemon, second):
    found = await asyncio.gather(*(one.write(lambda c: find_or_make_lane(c, LANE)) for one in [daemon, second] * 5))
    assert len({*found}) == 1


async def test_turns_are_taken_one_after_the_other(daemon, second, user):
    one = await held(daemon.database, take_turn)
    waiting = asyncio.create_task(second.write(take_turn))
    await until(lambda: waiting_for_a_lock(user))
    assert not waiting.done()
    await one.let_go()
    await waiting


async def test_two_outcomes_of_one_prompt_are_written_one_after_the_other(user, daemon, second):
    prompt_id = user.insert()
    oops = Outcome(Fault.SERVER, 500)

    async def note(connection):
        (member,) = await get_members(connection, [prompt_id])
        await record(connection, [Entry(member, oops, None, PromptStatus.QUEUED, member.attempts + 1, 0)], NOW_MS)

    await asyncio.gather(*(one.write(note) for one in [daemon, second] * 5))
    assert user.state(prompt_id)["replies"] == user.state(prompt_id)["attempts"] == 10


async def test_a_batch_is_not_sent_with_a_line_that_is_being_cancelled(user, daemon, second):
    await daemon.admit(user.insert())
    batch = await daemon.batch(1)
    one = await held(daemon.database, lambda c: cancel(c, [1], NOW_MS))
    sending = asyncio.create_task(second.write(lambda c: renew_lease(c, batch, NOW_MS)))
    await until(lambda: waiting_for_a_lock(user))
    assert (await one.let_go()).at_once == 1
    await sending
    assert await second.read(lambda c: list_lines(c, batch.id)) == []


async def test_a_custom_id_taken_between_look_and_insert_is_looked_for_again(user, daemon, other):
    rows = [dict.fromkeys(WRITTEN) | {"custom_id": name, "prompt": "x", "priority": 0} for name in "ab"]
    other.run("BEGIN")
    other.insert(custom_id="b")
    storing = asyncio.create_task(daemon.write(lambda c: insert_new(c, rows, look=True)))
    await until(lambda: waiting_for_a_lock(user))
    other.run("COMMIT")
    with pytest.raises(CustomIdTaken):
        await storing
    assert await daemon.write(lambda c: insert_new(c, rows, look=True)) == {1}


# ---------------------------------------------------------------- sessions


async def test_a_cancelled_caller_leaves_no_lock_and_no_half_transaction(user, daemon):
    for number in range(5):
        began = asyncio.Event()
        insert = f"INSERT INTO prompts (prompt, priority) SELECT 'x', {number} FROM generate_series(1, 500)"

        async def work(connection, began=began, insert=insert, number=number):
            await connection.exec_driver_sql(insert)
            began.set()
            await connection.exec_driver_sql(f"UPDATE prompt_states SET waiting = 1 WHERE priority = {number}")
            await connection.exec_driver_sql(insert)

        caller = asyncio.create_task(daemon.write(work))
        await began.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    await daemon.database.close()
    assert user.value("SELECT count(*) FROM prompts") == 5000
    locks = f"pg_locks JOIN {SESSIONS} USING (pid)"
    assert user.value(f"SELECT count(*) FROM {locks} WHERE locktype = 'transactionid'") == 0


async def test_a_session_frozen_within_a_transaction_loses_its_locks(user, queue_url, monkeypatch):
    monkeypatch.setitem(
        __import__("orchestrator.store.postgresql", fromlist=["SESSION"]).SESSION,
        "idle_in_transaction_session_timeout",
        "200ms",
    )
    frozen = Database(queue_url)

    async def work(connection):
        await take_turn(connection)
        await asyncio.sleep(1)  # what a SIGSTOP does to it
        await connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StoreUnavailable):
        await frozen.write(work)
    await frozen.write(take_turn)
    await frozen.close()


async def test_a_lost_connection_is_unavailable_once_and_then_there_again(user, daemon):
    await daemon.read(lambda c: c.exec_driver_sql("SELECT 1"))
    user.run(f"SELECT pg_terminate_backend(pid) FROM {SESSIONS} WHERE application_name = 'orchestrator'")
    with pytest.raises(StoreUnavailable):
        await daemon.read(lambda c: c.exec_driver_sql("SELECT 1"))
    await daemon.read(lambda c: c.exec_driver_sql("SELECT 1"))


async def test_connections_are_bounded(user, daemon):
    await asyncio.gather(*(daemon.read(lambda c: c.exec_driver_sql("SELECT pg_sleep(0.05)")) for _ in range(40)))
    mine = f"SELECT count(*) FROM {SESSIONS} WHERE application_name = 'orchestrator'"
    assert 1 < user.value(mine) <= 10


async def test_nobody_there_is_said_with_the_address_and_no_password():
    database = Database("postgresql://me:hush@127.0.0.1:1/queue")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/queue") as caught:
        await database.read(get_batch)
    assert "hush" not in str(caught.value)
    await database.close()


# ---------------------------------------------------------------- LISTEN


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """No look without a notification, so that only what is heard wakes anybody."""
    monkeypatch.setattr("orchestrator.store.postgresql.LISTEN_SECONDS", 60)
    monkeypatch.setattr("orchestrator.store.postgresql.RECONNECT_SECONDS", 60)


async def listening(user):
    await until(lambda: user.value(f"SELECT count(*) FROM {SESSIONS} WHERE query LIKE 'LISTEN%'") == 1)


async def test_a_new_row_and_a_changed_one_wake_whoever_listens(user, daemon):
    heard = daemon.database.changes(60, str)
    await anext(heard)
    await listening(user)
    changes = (
        user.insert,
        lambda: user.run("UPDATE prompts SET priority = 1"),
        lambda: user.run("UPDATE prompt_states SET status = 'cancelled'"),
        lambda: user.run("UPDATE prompt_states SET status = 'queued'"),
    )
    for change in changes:
        waiting = asyncio.ensure_future(anext(heard))
        change()
        async with asyncio.timeout(10):
            await waiting
    await heard.aclose()


async def test_a_batch_that_moves_wakes_the_other_daemons(user, daemon, second):
    await daemon.admit(user.insert())
    batch = await daemon.batch(1)
    heard = second.database.changes(60, str)
    await anext(heard)
    await listening(user)
    waiting = asyncio.ensure_future(anext(heard))
    await daemon.write(lambda c: move_batch(c, batch, BatchStatus.SEALED, "pack"))
    async with asyncio.timeout(10):
        await waiting
    await heard.aclose()


async def test_whoever_listens_hears_of_ended_prompts(user, other, daemon):
    other.run("LISTEN orchestrator_results")
    prompt_id = user.insert()

    async def work(connection):
        (member,) = await get_members(connection, [prompt_id])
        await record(connection, [Entry(member, Outcome(None, 200), None, PromptStatus.DONE, 1, 0)], NOW_MS)

    await daemon.write(work)
    (told,) = await asyncio.to_thread(lambda: list(other.connection.notifies(timeout=5, stop_after=1)))
    assert told.channel == "orchestrator_results"


async def test_a_listener_whose_connection_is_cut_listens_again(user, daemon, monkeypatch):
    monkeypatch.setattr("orchestrator.store.postgresql.RECONNECT_SECONDS", 0.05)
    reasons = []
    heard = daemon.database.changes(60, reasons.append)
    await anext(heard)
    await listening(user)
    user.run(f"SELECT pg_terminate_backend(pid) FROM {SESSIONS} WHERE query LIKE 'LISTEN%'")
    async with asyncio.timeout(20):
        await anext(heard)  # cut
        assert reasons[-1]
        await anext(heard)  # there again: something may have been missed
        assert reasons[-1] is None
        await listening(user)
        waiting = asyncio.ensure_future(anext(heard))
        user.insert()
        await waiting
    await heard.aclose()


async def test_whoever_cannot_listen_is_told_why_and_looks_all_the_same(user, daemon, monkeypatch):
    monkeypatch.setattr("orchestrator.store.postgresql.RECONNECT_SECONDS", 0.01)
    monkeypatch.setattr("orchestrator.store.postgresql.ARRIVED", "no name")
    reasons = []
    heard = daemon.database.changes(60, reasons.append)
    for _ in range(3):
        await anext(heard)
    assert len(reasons) == 3
    assert all("syntax error" in reason for reason in reasons)
    await heard.aclose()
