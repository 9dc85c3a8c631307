"""What is old enough is deleted, in small steps, and nothing else is."""

import contextlib
import importlib
import sqlite3
from functools import partial

import pytest
from rig import admit, pack

from orchestrator.core.model import Fault
from orchestrator.core.outcomes import Outcome
from orchestrator.stages import prune
from orchestrator.store import retention
from orchestrator.store.endings import BEFORE_ALL_ENDS, Watch, begin, list_earlier, look
from orchestrator.store.replies import keep_unreadable
from orchestrator.store.retention import (
    count_pages,
    give_back,
    list_expired,
    prune_prompts,
    read_pruned,
    take_chore,
)

DAY_SECONDS = 86_400
TABLES = ("prompts", "prompt_states", "replies", "batch_states")
SHORT = {"finished_days": 1}


def held(rig):
    return {table: rig.value(f"SELECT count(*) FROM {table}") for table in TABLES}


async def two_days_later(rig):
    rig.clock.advance(2 * DAY_SECONDS)
    await rig.run(prune)


async def every_end(rig):
    rig.ask("done", tag="a")
    rig.ask("done-after-failure", model="m+sandbox-fail-once")
    rig.ask("failed", model="m+sandbox-bad-request")
    rig.ask("invalid", body="no JSON")
    rig.ask("cancelled")
    rig.sql("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = (SELECT max(id) FROM prompts)")
    await rig.until_idle()


async def test_prompts_that_ended_long_ago_go_with_all_that_is_known_of_them(start):
    rig = await start(retention=SHORT)
    await every_end(rig)
    tokens = rig.value("SELECT sum(prompt_tokens) FROM progress WHERE status = 'done'")
    await two_days_later(rig)
    assert held(rig) == dict.fromkeys(TABLES, 0)
    counted = rig.sql("SELECT status, prompts, prompt_tokens FROM pruned_counts ORDER BY status")
    assert [row["prompts"] for row in counted] == [1, 2, 2]
    assert tokens == counted[1]["prompt_tokens"] > 0
    assert await rig.context.database.read(read_pruned) == {"cancelled": 1, "done": 2, "failed": 2}


async def test_what_is_younger_or_has_not_ended_stays(start):
    rig = await start(retention={"finished_days": 3})
    await every_end(rig)
    await rig.run(prune)
    before = held(rig)
    await two_days_later(rig)
    assert held(rig) == before
    rig.ask("young")
    rig.ask("waiting", not_before="2099-01-01")
    rig.ask("batched")
    await rig.run(admit, pack)
    await two_days_later(rig)
    assert set(rig.statuses()) == {"young", "waiting", "batched"}


async def test_what_is_old_only_by_a_clock_that_has_jumped_ahead_stays_until_it_is_set_right(start):
    rig = await start(retention=SHORT)
    await every_end(rig)
    await rig.run(prune)
    before = held(rig)
    rig.clock.jump(3 * DAY_SECONDS)
    for _ in range(5):
        await rig.later(prune, seconds=600)
    (told,) = rig.told("daemon.clock_jumped")
    assert (told["ahead_seconds"], told["log_level"]) == (3 * DAY_SECONDS, "warning")
    rig.clock.jump(-3 * DAY_SECONDS)
    for _ in range(20):
        await rig.later(prune, seconds=600)
    assert held(rig) == before
    assert len(rig.told("daemon.clock_jumped")) == 1
    await two_days_later(rig)
    assert held(rig) == dict.fromkeys(TABLES, 0)


async def test_a_clock_that_jumped_ahead_and_stays_there_is_believed(start):
    rig = await start(retention=SHORT)
    await every_end(rig)
    await rig.run(prune)
    rig.clock.jump(2 * DAY_SECONDS)
    await rig.run(prune)
    await rig.later(prune, seconds=3000)
    rig.clock.jump(DAY_SECONDS)
    await rig.later(prune, seconds=3000)
    assert len(rig.told("daemon.clock_jumped")) == 2
    assert held(rig)["prompts"] == 5
    await rig.later(prune, seconds=3601)
    assert held(rig)["prompts"] == 0


async def test_nothing_is_deleted_unless_it_is_asked_for(rig):
    await every_end(rig)
    before = held(rig)
    rig.clock.advance(10_000 * DAY_SECONDS)
    await rig.run(prune)
    assert held(rig) == before


async def test_a_prompt_that_is_queued_again_meanwhile_stays(start):
    rig = await start(retention=SHORT)
    await every_end(rig)
    write, read, before_ms = rig.context.database.write, rig.context.database.read, rig.context.in_ms(1)
    listed = await read(partial(list_expired, before_ms=before_ms))
    rig.sql("UPDATE prompt_states SET status = 'queued' WHERE status = 'failed'")
    assert await write(partial(prune_prompts, prompt_ids=listed, before_ms=before_ms)) == 3
    assert rig.count() == {"queued": 2}


async def test_a_prompt_that_an_open_batch_may_still_answer_stays_until_that_is_closed(start):
    rig = await start(retention=SHORT)
    await every_end(rig)
    rig.sql("UPDATE batch_states SET status = 'ended' WHERE id = 1")
    in_first = {row[0] for row in rig.sql("SELECT DISTINCT custom_id FROM attempts WHERE batch_id = 1")}
    await two_days_later(rig)
    assert set(rig.statuses()) == in_first == {"done", "done-after-failure", "failed"}
    rig.sql("UPDATE batch_states SET status = 'settled'")
    await rig.run(prune)
    assert held(rig) == dict.fromkeys(TABLES, 0)


@pytest.mark.sqlite  # INSERT OR REPLACE
async def test_what_a_replaced_row_left_behind_goes_too(start):
    rig = await start(retention=SHORT)
    await every_end(rig)
    rig.sql("INSERT OR REPLACE INTO prompts (custom_id, model, prompt) VALUES ('done', 'm', 'Rather this?')")
    await two_days_later(rig)
    assert held(rig) == {"prompts": 1, "prompt_states": 1, "replies": 0, "batch_states": 0}


async def test_a_custom_id_is_free_again_and_its_new_question_is_answered(start):
    rig = await start(retention=SHORT)
    rig.ask("q", "The old question")
    await rig.until_idle()
    old = rig.value("SELECT id FROM prompts")
    await two_days_later(rig)
    rig.ask("q", "The new question")
    await rig.until_idle()
    assert "The new question" in rig.result("q")["answer"]
    assert rig.result("q")["id"] > old


async def test_lines_that_nobody_could_read_go_with_their_batch(start):
    rig = await start(retention=SHORT)
    rig.ask("q", model="m+sandbox-not-object-once")
    await rig.until_idle()
    assert rig.value("SELECT count(*) FROM replies WHERE prompt_id IS NULL") == 1
    await two_days_later(rig)
    assert held(rig) == dict.fromkeys(TABLES, 0)


async def test_very_many_lines_that_nobody_could_read_go_in_small_steps_and_then_their_batch(start, monkeypatch):
    rig = await start(retention=SHORT)
    rig.ask("deleted by its user")
    await rig.until_idle()
    rig.sql("DELETE FROM prompts")
    lost = [Outcome(Fault.UNREADABLE, raw=b"{")] * 25
    await rig.context.database.write(partial(keep_unreadable, batch_id=1, outcomes=lost, now_ms=0))
    rig.clock.advance(2 * DAY_SECONDS)
    monkeypatch.setattr(retention, "LONGEST_SECONDS", -1.0)
    left = []
    for _ in range(4):
        assert (await prune(rig.context)).more
        left.append((rig.value("SELECT count(*) FROM replies"), len(rig.batches())))
    assert left == [(15, 1), (5, 1), (0, 1), (0, 0)]


async def test_a_batch_whose_files_are_to_be_deleted_stays_until_they_are(start):
    rig = await start(retention={**SHORT, "remote_files": "delete"})
    await every_end(rig)
    await two_days_later(rig)
    assert held(rig) == {"prompts": 0, "prompt_states": 0, "replies": 0, "batch_states": 2}
    rig.sql("UPDATE batch_states SET files_deleted_at_ms = 1 WHERE id = 1")
    await rig.run(prune)
    assert [batch["id"] for batch in rig.batches()] == [2]


async def test_a_batch_that_is_not_over_stays_however_old_it_is(start):
    rig = await start(retention=SHORT)
    rig.ask("old")
    await rig.until_idle()
    rig.ask("running")
    await rig.submitted()
    await two_days_later(rig)
    assert [batch["status"] for batch in rig.batches()] == ["submitted"]
    await rig.until_idle()
    assert rig.statuses() == {"running": "done"}


async def test_a_batch_stays_for_as_long_as_a_prompt_of_it_does(start):
    rig = await start(retention=SHORT)
    rig.ask("again", model="m+sandbox-bad-request")
    await rig.until_idle()
    rig.sql("UPDATE prompts SET not_before = '2099-01-01'")
    rig.sql("UPDATE prompt_states SET status = 'queued'")
    await two_days_later(rig)
    assert held(rig) == {"prompts": 1, "prompt_states": 1, "replies": 1, "batch_states": 1}


async def test_a_batch_without_prompts_stays_until_it_is_old(start):
    rig = await start(retention=SHORT)
    rig.ask("deleted by its user")
    await rig.until_idle()
    rig.sql("DELETE FROM prompts")
    await rig.later(prune, seconds=DAY_SECONDS - 120)
    assert len(rig.batches()) == 1
    await rig.later(prune, seconds=200)
    assert rig.batches() == []


async def test_one_step_is_short(start, monkeypatch):
    monkeypatch.setattr(retention, "LONGEST_SECONDS", -1.0)
    monkeypatch.setattr(retention, "SLICE_ROWS", 3)
    rig = await start(retention=SHORT)
    rig.ask_many(8, body="no JSON")
    await rig.run(admit)
    rig.clock.advance(2 * DAY_SECONDS)
    left = []
    while (await prune(rig.context)).more:
        left.append(held(rig)["prompts"])
    assert left[:3] == [5, 2, 0]


async def test_the_log_tells_of_many_steps_in_one_line(start, monkeypatch):
    monkeypatch.setattr(retention, "PAGE_ROWS", 3)
    rig = await start(retention=SHORT)
    rig.context.pruning.told_at_ms = rig.context.now_ms() + 2 * DAY_SECONDS * 1000
    rig.ask_many(8)
    await rig.until_idle()
    await two_days_later(rig)
    (told,) = rig.told("prune.pruned")
    assert (told["prompts"], told["batches"]) == (8, 1)


async def test_in_a_long_work_the_log_tells_at_once_and_then_of_all_that_follows_within_a_minute(start, monkeypatch):
    monkeypatch.setattr(retention, "PAGE_ROWS", 3)
    rig = await start(retention=SHORT)
    rig.ask_many(8)
    await rig.until_idle()
    await two_days_later(rig)
    assert [(told["prompts"], told["batches"]) for told in rig.told("prune.pruned")] == [(3, 0), (5, 1)]


async def leased_by_another(rig):
    now_ms, until_ms = rig.context.now_ms(), rig.context.in_ms(60)
    lease = partial(take_chore, name="prune", owner="another", now_ms=now_ms, until_ms=until_ms)
    assert await rig.context.database.write(lease)


async def test_batches_are_deleted_by_one_daemon_at_a_time_too(start):
    rig = await start(retention=SHORT)
    rig.ask("deleted by its user")
    await rig.until_idle()
    rig.sql("DELETE FROM prompts")
    rig.clock.advance(2 * DAY_SECONDS)
    await leased_by_another(rig)
    await rig.run(prune)
    assert len(rig.batches()) == 1


async def test_only_one_daemon_does_it_at_a_time(start):
    rig = await start(retention=SHORT)
    await every_end(rig)
    rig.clock.advance(2 * DAY_SECONDS)
    await leased_by_another(rig)
    before = held(rig)
    await rig.run(prune)
    assert held(rig) == before
    await rig.later(prune, seconds=61)
    assert held(rig) == dict.fromkeys(TABLES, 0)


async def test_who_follows_the_results_misses_none_and_gets_none_twice(start):
    rig = await start(retention=SHORT)
    rig.ask_many(5)
    await rig.until_idle()
    watch = Watch()
    earlier = await rig.context.database.read(partial(begin, watch=watch))
    listed = partial(list_earlier, earlier=earlier, after=BEFORE_ALL_ENDS, count=10)
    assert len(await rig.context.database.read(listed)) == 5
    await two_days_later(rig)
    assert await rig.context.database.read(partial(look, watch=watch)) == []
    for number in range(3):
        rig.ask(f"new-{number}")
        await rig.until_idle()
        (end,) = await rig.context.database.read(partial(look, watch=watch))
        assert end[1] == 6 + number


# ---------------------------------------------------------------- space


def size_of(rig):
    """Of the file, once all that was written is in it."""
    with contextlib.closing(sqlite3.connect(rig.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return rig.path.stat().st_size


async def large_ones_pruned(rig):
    rig.ask_many(100, body="no JSON" + "x" * 100_000)
    await rig.run(admit)
    before = size_of(rig)
    await two_days_later(rig)
    return before, size_of(rig)


@pytest.mark.sqlite
async def test_the_file_shrinks(start):
    before, after = await large_ones_pruned(await start(retention=SHORT))
    assert before > 10_000_000
    assert after < before / 10


async def emptied(start):
    """A rig whose file holds a large row, and far more free pages than that."""
    rig = await start(retention=SHORT)
    rig.ask("large", body="x" * 2_000_000, not_before="2099-01-01")
    rig.ask_many(20, body="no JSON" + "x" * 500_000)
    rig.sql("DELETE FROM prompts WHERE custom_id LIKE 'q-%'")
    return rig


async def free_pages(rig):
    return await rig.context.database.read(count_pages)


@pytest.mark.sqlite
async def test_a_tenth_of_the_file_stays_free_for_what_comes_next(start):
    rig = await emptied(start)
    await rig.run(prune)
    pages, free = await free_pages(rig)
    assert pages // 10 - 2 <= free <= pages // 10


@pytest.mark.sqlite
async def test_space_is_given_back_in_small_steps(start, monkeypatch):
    rig = await emptied(start)
    monkeypatch.setattr(importlib.import_module("orchestrator.stages.prune"), "STEP_PAGES", 3)
    _, before = await free_pages(rig)
    assert (await prune(rig.context)).moved == 3
    assert (await free_pages(rig))[1] == before - 3


@pytest.mark.sqlite
async def test_a_step_that_takes_long_gives_back_one_page(start, monkeypatch):
    rig = await emptied(start)
    monkeypatch.setattr(retention, "LONGEST_SECONDS", -1.0)
    _, before = await free_pages(rig)
    assert await rig.context.database.write(partial(give_back, pages=50)) == 1
    assert (await free_pages(rig))[1] == before - 1


@pytest.mark.sqlite
async def test_space_is_given_back_by_one_daemon_at_a_time(start):
    rig = await emptied(start)
    await leased_by_another(rig)
    before = await free_pages(rig)
    await rig.run(prune)
    assert await free_pages(rig) == before


@pytest.mark.sqlite
async def test_a_file_that_cannot_shrink_is_left_as_it_is(start, queue_file):
    with contextlib.closing(sqlite3.connect(queue_file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    before, after = await large_ones_pruned(await start(retention=SHORT))
    assert after >= before
    assert held(await start(retention=SHORT))["prompts"] == 0


@pytest.mark.sqlite  # the version of the file
@pytest.mark.parametrize("days", [1, 36_500])
async def test_a_daemon_with_nothing_to_delete_writes_nothing(start, days):
    rig = await start(retention={"finished_days": days})
    rig.ask("queued", not_before="2099-01-01")
    rig.ask("ended just now", body="no JSON")
    await rig.run(admit)
    version = await rig.context.database.foreign_version()
    await rig.run(prune)
    assert await rig.context.database.foreign_version() == version
    assert not rig.told("prune.pruned")
    assert rig.value("SELECT count(*) FROM chores") == 0
