"""What a user may do by plain SQL, at every moment of a prompt's life: the daemon is safe against all of it."""

import asyncio
import importlib
import re
import sqlite3

import psycopg
import pytest
from rig import admit, collect, pack, poll, settle, submit

admit_stage = importlib.import_module("orchestrator.stages.admit")
CANCEL = "UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = 1"
REQUEUE = "UPDATE prompt_states SET status = 'queued' WHERE prompt_id = 1"
DELETE = "DELETE FROM prompts WHERE id = 1"
OF = "WHERE prompt_id = (SELECT id FROM prompts WHERE custom_id = '{0}')"
EDITS = {
    "cancel": f"UPDATE prompt_states SET status = 'cancelled' {OF}",
    "requeue": f"UPDATE prompt_states SET status = 'queued' {OF}",
    "delete": "DELETE FROM prompts WHERE custom_id = '{0}'",
    "edit": "UPDATE prompts SET prompt = 'Another question?' WHERE custom_id = '{0}'",
    "replace": "INSERT OR REPLACE INTO prompts (custom_id, model, prompt) VALUES ('{0}', 'm', 'Another question?')",
    "upsert": (
        "INSERT INTO prompts (custom_id, model, prompt) VALUES ('{0}', 'm', 'Another question?')"
        " ON CONFLICT (custom_id) DO UPDATE SET prompt = excluded.prompt"
    ),
    "label": "UPDATE prompts SET tag = 'new', metadata = '{{}}' WHERE custom_id = '{0}'",
}
STAGES = (admit, pack, submit, poll, collect, settle)
REFUSED = {
    "cancel": "batched_has_batch|no such move",
    "requeue": "batched_has_batch|no such move",
    "delete": "in a batch",
    "edit": "was sent as it stands",
    "upsert": "was sent as it stands",
}


@pytest.mark.parametrize("moment", range(len(STAGES) + 1))
async def test_an_edit_at_any_moment_is_done_or_refused_and_loses_nothing(rig, kind, moment):
    edits = EDITS if kind == "sqlite" else {name: edit for name, edit in EDITS.items() if name != "replace"}
    for name in (*edits, "untouched"):
        rig.ask(name)
    for number, stage in enumerate(STAGES[:moment]):
        if number == STAGES.index(poll):
            rig.clock.advance(60)
        await rig.run(stage)
    made = set()
    for name, edit in edits.items():
        try:
            rig.sql(edit.format(name))
            made.add(name)
        except (sqlite3.IntegrityError, psycopg.IntegrityError) as error:
            assert re.search(REFUSED[name], str(error))
    await rig.until_idle()
    expected = dict.fromkeys((*edits, "untouched"), "done")
    if "cancel" in made:
        expected["cancel"] = "cancelled"
    if "delete" in made:
        del expected["delete"]
    assert rig.statuses() == expected
    for name in {"edit", "replace", "upsert"} & made:
        assert rig.result(name)["answer"].endswith("You asked: Another question?")
    for name, runs in rig.ledger.executions.items():
        assert runs == 1 or (name == "replace" and runs == 2)
    assert rig.value("SELECT count(*) FROM results") == rig.value("SELECT count(*) FROM prompts")


@pytest.mark.parametrize("edit", [CANCEL, DELETE])
async def test_a_prompt_between_two_attempts_can_be_cancelled_or_deleted(rig, edit):
    rig.ask("one", model="m+sandbox-fail-always")
    rig.ask("two")
    await rig.collected()
    rig.sql(edit)
    await rig.until_idle()
    assert rig.ledger.executions == {"one": 1, "two": 1}
    assert rig.statuses().get("one") in (None, "cancelled")


async def test_a_failed_prompt_that_is_queued_again_starts_with_all_its_attempts_and_keeps_its_history(start):
    rig = await start(retry={"max_attempts": 2})
    rig.ask("one", model="m+sandbox-fail-3")
    await rig.until_idle()
    assert rig.statuses() == {"one": "failed"}
    rig.sql(REQUEUE)
    await rig.until_idle()
    assert rig.history("one") == ["server", "server", "server", None]
    assert rig.result("one")["attempts"] == 4
    assert rig.result("one")["status"] == "done"


async def test_a_failed_prompt_can_be_corrected_and_queued_again(rig):
    rig.ask("one", model="unknown-x")
    await rig.until_idle()
    assert rig.statuses() == {"one": "failed"}
    rig.sql("UPDATE prompts SET model = 'm' WHERE id = 1")
    rig.sql(REQUEUE)
    await rig.until_idle()
    assert rig.statuses() == {"one": "done"}


async def test_a_cancelled_prompt_can_be_queued_again(rig):
    rig.ask("one")
    rig.sql(CANCEL)
    await rig.until_idle()
    assert rig.ledger.executions == {}
    rig.sql(REQUEUE)
    await rig.until_idle()
    assert rig.statuses() == {"one": "done"}


async def test_an_answer_that_was_paid_for_beats_a_cancel_that_came_too_late(start):
    rig = await start(sandbox={"slow_seconds": 600}, retry={"base_seconds": 3000})
    rig.ask("one", model="m+sandbox-fail-once")
    rig.ask("slow", model="m+sandbox-slow")
    await rig.collected()
    rig.sql(CANCEL)
    batch = next(iter(rig.sandbox.provider.batches.values()))
    failed = [line for line in batch.lines if line.template.custom_id == "one"]
    rig.sandbox.provider.simulation.retry(batch, failed, rig.clock())
    await rig.until_idle()
    assert rig.statuses() == {"one": "done", "slow": "done"}


async def test_a_done_prompt_deleted_while_its_batch_runs_stays_deleted(start):
    rig = await start(sandbox={"latency_seconds": 400})
    rig.ask_many(8)
    await rig.submitted()
    await rig.until(lambda: rig.statuses()["q-1"] == "done")
    rig.sql(DELETE)
    await rig.until_idle()
    assert rig.count() == {"done": 7}
    assert rig.value("SELECT count(*) FROM replies WHERE prompt_id NOT IN (SELECT id FROM prompts)") == 0


async def test_a_custom_id_can_be_used_again_after_its_row_was_deleted_and_gets_its_own_answer(start):
    rig = await start(sandbox={"latency_seconds": 400})
    rig.ask_many(8)
    await rig.submitted()
    await rig.until(lambda: rig.statuses()["q-1"] == "done")
    rig.sql(DELETE)
    rig.ask("q-1", prompt="A new question?")
    await rig.until_idle()
    assert rig.count() == {"done": 8}
    assert rig.result("q-1")["answer"].endswith("You asked: A new question?")


@pytest.mark.sqlite
async def test_rows_replaced_while_they_are_uploaded_never_send_a_wrong_file(start):
    rig = await start(through_proxy=True)
    rig.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)"
        " INSERT INTO prompts (custom_id, model, prompt) SELECT 'q-' || i, 'm', printf('%.*c', 900000, 'x') FROM n"
    )
    rig.ask("last")
    await rig.sealed()
    held = rig.proxy.hold("POST", "/files$", "before")
    sending = asyncio.create_task(submit(rig.context))
    await held.reached.wait()
    rig.sql("INSERT OR REPLACE INTO prompts (custom_id, model, prompt) VALUES ('last', 'm', 'Another question?')")
    held.open.set()
    await sending
    assert rig.told("submit.repacked")
    await rig.until_idle()
    assert rig.count() == {"done": 41}
    assert set(rig.ledger.executions.values()) == {1}
    assert rig.result("last")["answer"].endswith("You asked: Another question?")


async def test_priority_and_time_may_be_changed_while_a_prompt_waits(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 1})
    rig.ask_many(3)
    await rig.run(admit)
    rig.sql("UPDATE prompts SET priority = 9 WHERE custom_id = 'q-3'")
    rig.sql("UPDATE prompts SET not_before = '2199-01-01' WHERE custom_id = 'q-1'")
    await rig.run(admit, pack)
    order = rig.sql(
        "SELECT p.custom_id FROM prompts p JOIN prompt_states s ON s.prompt_id = p.id ORDER BY s.batch_id NULLS FIRST"
    )
    assert [row["custom_id"] for row in order] == ["q-1", "q-3", "q-2"]
    assert rig.statuses()["q-1"] == "queued"


@pytest.mark.sqlite
async def test_rows_that_come_in_between_those_of_a_page_are_not_admitted_with_it(start, monkeypatch):
    """They may be many: one transaction of theirs would hold up every other writer."""
    rig = await start()
    rig.ask("first", id=1)
    rig.ask("last", id=1000)
    seen = list[int]()
    inner = admit_stage._admit_page

    async def counted(connection, context, page):
        if not seen:
            seen.append(0)  # as another writer would have, between the look and this transaction
            for number in range(2, 400):
                await connection.exec_driver_sql(f"INSERT INTO prompts (id, model, prompt) VALUES ({number}, 'm', 'x')")
        done, bad = await inner(connection, context, page)
        seen.append(done)
        return done, bad

    monkeypatch.setattr(admit_stage, "_admit_page", counted)
    await rig.run(admit)
    assert seen[1] == 2
    await rig.until_idle()
    assert rig.count() == {"done": 400}
