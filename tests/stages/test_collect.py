"""F19, F26, F28, F30: a line counts once, whatever is in it, however often it is read, and whoever reads it."""

import asyncio
import contextlib
import dataclasses
import json

import aiohttp
import msgspec
import pytest
from rig import admit, collect, is_address, pack, poll, settle, submit

from orchestrator.errors import StoreError

SPOILED = ("u2028", "crlf", "bom", "nul", "string-body", "lone-surrogate", "model-differs", "text-parts", "huge-200000")


async def test_odd_answers_are_answers(rig):
    for behaviour in SPOILED:
        rig.ask(behaviour, model=f"m+sandbox-{behaviour}")
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": len(SPOILED) + 3}
    assert rig.ledger.creates == 1
    for name in SPOILED:
        found = rig.result(name)
        assert f"What about {name}?" in found["answer"]
        assert json.loads(found["response"])
    assert "\x00" not in rig.result("nul")["answer"]
    assert "\\u0000" in rig.result("nul")["response"]
    assert "\u2028" in rig.result("u2028")["answer"]


async def test_the_parts_of_an_answer_are_joined_and_a_refusal_is_an_answer(rig):
    rig.ask("parts", model="m+sandbox-multi-output", endpoint="/v1/responses")
    rig.ask("no", model="m+sandbox-refusal")
    rig.ask("vector", model="embedding-m", endpoint="/v1/embeddings")
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.result("parts")["answer"].endswith("You asked: What about parts?")
    assert rig.result("no")["answer"] == "I cannot help with that."
    assert rig.result("vector")["answer"] is None
    assert len(json.loads(rig.result("vector")["response"])["data"][0]["embedding"]) == 8


@pytest.mark.parametrize("poison", ["bad-json", "bad-utf8", "huge-5000"])
async def test_an_unreadable_last_line_without_a_newline_costs_its_attempts_and_its_bytes_are_kept(start, poison):
    rig = await start(collection={"max_line_bytes": 2000}, retry={"max_attempts": 2})
    rig.faults.add("no-final-newline", times=10**6)
    rig.ask("good")
    rig.ask("poison", model=f"m+sandbox-{poison}")
    await rig.until_idle()
    assert rig.statuses() == {"good": "done", "poison": "failed"}
    assert rig.history("poison") == ["unreadable", "unreadable"]
    assert rig.ledger.executions["poison"] == 2


# ---------------------------------------------------------------- applying a part twice


async def states(rig):
    kept = rig.sql("SELECT prompt_id, status, attempts, returns, replies, finished_at_ms FROM prompt_states")
    replies = rig.sql("SELECT prompt_id, seq, batch_id, fault, answer, raw FROM replies ORDER BY id")
    counts = rig.sql("SELECT lines_done, lines_failed, lines_resent, duplicates, unreadable FROM batch_states")
    return [tuple(row) for rows in (kept, replies, counts) for row in rows]


def ask_every_kind(rig):
    kinds = ("ok", "fail-once", "bad-request", "duplicate", "bad-utf8", "not-object", "unauthorized-once", "nul")
    for behaviour in kinds:
        rig.ask(behaviour, model=f"m+sandbox-{behaviour}")


@pytest.mark.parametrize("cursor", [0, 1, 4, 7])
async def test_reading_any_part_of_a_file_twice_changes_nothing(start, cursor):
    rig = await start(collection={"overlap_lines": 0})
    ask_every_kind(rig)
    await rig.collected()
    before = await states(rig)
    rig.sql(
        "UPDATE batch_states SET collect_due = true, next_try_at_ms = 0, output_cursor = CASE WHEN"
        " output_cursor < 7 THEN 7 ELSE output_cursor END, error_cursor = CASE WHEN error_cursor < 4 THEN 4 ELSE"
        " error_cursor END"
    )
    rig.sql(f"UPDATE batch_states SET reread = {cursor == 0}")
    rig.context = rig_with_overlap(rig, cursor)
    await rig.run(collect)
    after = await states(rig)
    assert after[:-1] == before[:-1]
    assert after[-1][:3] == before[-1][:3]


def rig_with_overlap(rig, cursor):
    collection = msgspec.structs.replace(rig.context.config.collection, overlap_lines=8 - cursor)
    config = msgspec.structs.replace(rig.context.config, collection=collection)
    return dataclasses.replace(rig.context, config=config)


@contextlib.contextmanager
def refusing(rig, event):
    """The database refuses such writes."""
    on_server = is_address(rig.path)
    if on_server:
        rig.sql(
            "CREATE OR REPLACE FUNCTION says_no() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'the disk says no'; END $$"
        )
    action = (
        "FOR EACH ROW EXECUTE FUNCTION says_no()" if on_server else "BEGIN SELECT RAISE(ABORT, 'the disk says no'); END"
    )
    rig.sql(f"CREATE TRIGGER out_of_order BEFORE {event} {action}")
    yield
    rig.sql(f"DROP TRIGGER out_of_order {'ON ' + event.split()[-1] if on_server else ''}")


async def test_rows_states_and_cursor_are_written_together_or_not_at_all(rig):
    ask_every_kind(rig)
    await rig.ended()
    before = await states(rig)
    for event in ("UPDATE OF output_cursor ON batch_states", "UPDATE OF status ON prompt_states", "INSERT ON replies"):
        with refusing(rig, event):
            with pytest.raises(Exception, match="the disk says no"):
                await rig.run(collect)
            assert await states(rig) == before
            assert rig.batch()["output_cursor"] == 0
        rig.clock.advance(10)
    await rig.until_idle()
    assert rig.count() == {"done": 5, "failed": 3}


async def test_a_duplicate_line_makes_no_second_result(rig):
    rig.ask("double", model="m+sandbox-duplicate")
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.history("double") == [None]
    assert rig.count() == {"done": 4}
    assert rig.batch()["duplicates"] == 1


# ---------------------------------------------------------------- late and upgraded


async def server_retries(rig, batch):
    url = f"{rig.sandbox.url}/batches/{batch['remote_batch_id']}/retry"
    async with aiohttp.ClientSession() as session, session.post(url, headers={"Authorization": "Bearer x"}) as reply:
        assert reply.status == 200


async def test_a_success_after_a_server_side_retry_of_a_failed_line_is_kept(start):
    rig = await start(sandbox={"slow_seconds": 600})
    rig.ask("upgraded", model="m+sandbox-bad-request-once")
    rig.ask("slow", model="m+sandbox-slow")
    batch = await rig.collected()
    assert rig.statuses() == {"upgraded": "failed", "slow": "batched"}
    await server_retries(rig, batch)
    await rig.until_idle()
    assert rig.statuses() == {"upgraded": "done", "slow": "done"}
    assert rig.history("upgraded") == ["invalid", None]
    assert rig.told("collect.late_success")
    assert rig.ledger.creates == 1


async def test_a_success_of_the_text_before_an_edit_is_no_answer_of_the_text_after_it(start):
    rig = await start(sandbox={"slow_seconds": 600}, retry={"base_seconds": 3000})
    rig.ask("corrected", "The old question?", model="m+sandbox-bad-request-once")
    rig.ask("slow", model="m+sandbox-slow")
    batch = await rig.collected()
    rig.sql("UPDATE prompts SET prompt = 'The new question?' WHERE custom_id = 'corrected'")
    await server_retries(rig, batch)
    await rig.until(lambda: rig.statuses()["slow"] == "done")
    assert rig.statuses()["corrected"] == "failed"
    rig.sql("UPDATE prompt_states SET status = 'queued' WHERE status = 'failed'")
    await rig.until_idle()
    assert rig.result("corrected")["answer"].endswith("The new question?")
    assert rig.history("corrected") == ["invalid", None]


async def test_a_success_after_a_server_side_retry_spares_the_resend_that_is_waiting(start):
    rig = await start(sandbox={"slow_seconds": 600}, retry={"base_seconds": 3000})
    rig.ask("upgraded", model="m+sandbox-fail-once")
    rig.ask("slow", model="m+sandbox-slow")
    batch = await rig.collected()
    assert rig.statuses()["upgraded"] == "queued"
    await server_retries(rig, batch)
    await rig.until_idle()
    assert rig.count() == {"done": 2}
    assert rig.ledger.creates == 1
    assert rig.ledger.successes["upgraded"] == 1


async def test_a_late_success_of_a_prompt_already_resent_counts_once_and_the_second_is_a_duplicate(start):
    rig = await start(sandbox={"slow_seconds": 600}, retry={"base_seconds": 0})
    rig.ask("both", model="m+sandbox-fail-once")
    rig.ask("slow", model="m+sandbox-slow")
    batch = await rig.collected()
    await server_retries(rig, batch)
    await rig.until_idle()
    assert rig.count() == {"done": 2}
    assert rig.history("both").count(None) == 1


async def test_a_late_success_that_comes_while_the_next_batch_is_uploaded_is_not_paid_again(start):
    rig = await start(sandbox={"slow_seconds": 3000}, retry={"base_seconds": 0})
    rig.ask("both", model="m+sandbox-fail-once")
    rig.ask("slow", model="m+sandbox-slow")
    batch = await rig.collected()
    rig.ask("with-it")
    rig.faults.add("status-429:route=create", times=1, retry_after=600)
    await rig.run(admit, pack, submit)
    assert rig.batches()[1]["status"] == "uploaded"
    await server_retries(rig, batch)
    await rig.until_idle()
    assert rig.ledger.successes == {"both": 1, "slow": 1, "with-it": 1}
    assert rig.batches()[1]["lines"] == rig.batches()[1]["lines_done"]


async def test_a_batch_whose_only_line_was_answered_while_it_was_uploaded_is_not_made(start):
    rig = await start(sandbox={"slow_seconds": 3000}, retry={"base_seconds": 0})
    rig.ask("both", model="m+sandbox-fail-once")
    rig.ask("slow", model="m+sandbox-slow")
    batch = await rig.collected()
    rig.faults.add("status-400:route=create", times=1)
    rig.faults.add("status-429:route=create", times=1, retry_after=600)
    await rig.run(admit, pack, submit)
    await server_retries(rig, batch)
    await rig.until_idle()
    assert rig.ledger.successes == {"both": 1, "slow": 1}
    assert [each["status"] for each in rig.batches()] == ["settled", "discarded"]


@pytest.mark.parametrize("stages", [(admit, pack), (admit, pack, submit)], ids=["sealed", "sent"])
async def test_a_late_success_that_comes_before_the_answer_of_the_next_batch_is_counted_there(start, stages):
    rig = await start(sandbox={"slow_seconds": 600}, retry={"base_seconds": 0})
    rig.ask("both", model="m+sandbox-fail-once")
    rig.ask("slow", model="m+sandbox-slow")
    batch = await rig.collected()
    rig.ask("with-it")
    await rig.run(*stages)
    rig.sql("UPDATE batch_states SET next_try_at_ms = next_try_at_ms + 300000 WHERE id = 2")
    await server_retries(rig, batch)
    await rig.until(lambda: rig.told("collect.late_success"))
    assert rig.batches()[1]["lines_done"] > 0
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert sum(each["lines_done"] for each in rig.batches()) == 3


async def test_a_line_for_a_prompt_that_was_never_in_this_batch_is_only_counted(start):
    rig = await start(through_proxy=True)
    rig.ask("mine")
    rig.ask("waiting", not_before="2099-01-01 00:00:00")
    answer = b'{"status_code":200,"body":{"choices":[{"message":{"content":"no"}}]}}'
    foreign = b'{"id":"x","custom_id":"%b","response":' + answer + b"}\n"

    def more(status, headers, body):
        return status, headers, foreign % b"waiting" + foreign % b"nobody" + body if body else body

    rig.proxy.rewrite("GET", "/content$", more)
    await rig.until(lambda: rig.batch()["status"] == "settled")
    assert rig.statuses() == {"mine": "done", "waiting": "queued"}
    assert rig.history("waiting") == []


async def test_a_line_of_60_mb_goes_through(start):
    rig = await start()
    rig.ask("giant", model=f"m+sandbox-huge-{60 << 20}")
    rig.ask_many(2)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.value("SELECT length(answer) FROM results WHERE custom_id = 'giant'") >= 60 << 20


# ---------------------------------------------------------------- the lease


async def test_a_holder_that_lost_its_lease_writes_nothing(start):
    rig = await start(through_proxy=True)
    rig.ask_many(3)
    await rig.ended()
    held = rig.proxy.hold("GET", "/content$", "after")
    before = await states(rig)
    reading = asyncio.create_task(collect(rig.context))
    await held.reached.wait()
    rig.sql("UPDATE batch_states SET fence = fence + 1, lease_owner = 'another'")
    held.open.set()
    with pytest.raises(StoreError):
        await reading
    assert await states(rig) == before
    assert rig.batch()["lease_owner"] == "another"
    rig.sql("UPDATE batch_states SET lease_until_ms = 0")
    await rig.until_idle()
    assert rig.count() == {"done": 3}


@pytest.mark.parametrize("stage", [poll, collect, settle])
async def test_a_batch_that_another_holds_is_left_alone(rig, stage):
    rig.ask("one")
    await rig.submitted()
    rig.sql("UPDATE batch_states SET lease_until_ms = ?", int((rig.clock() + 500) * 1000))
    before = dict(rig.batch())
    await rig.later(stage, seconds=400)
    assert dict(rig.batch()) == before
    await rig.until_idle()


async def test_progress_is_told_at_each_further_tenth_of_a_batch_however_often_it_is_read(start):
    rig = await start(sandbox={"latency_seconds": 100.0}, polling={"min_seconds": 2, "max_seconds": 2})
    rig.ask_many(40)
    await rig.submitted()
    for _ in range(60):
        await rig.later(poll, collect, seconds=3)
    received = [told["received"] for told in rig.told("collect.received")]
    assert received[-1] == 40
    assert 8 <= len(received) <= 10
    assert [count * 10 // 40 for count in received] == sorted({count * 10 // 40 for count in received})
