"""Files at the provider are deleted when they are asked to be, only those of closed batches, and only ours."""

import json
from functools import partial

import pytest
from rig import collect, pack, poll, settle, submit

from orchestrator.stages import clear
from orchestrator.store.batches import get_batch
from orchestrator.store.retention import named_by_open_batches, take_chore, update_closed

DAY_SECONDS = 86_400
AT_ONCE = {"remote_files": "delete", "remote_files_days": 0}


def gone(rig):
    """Files that were deleted at the provider, by what they are to the batch, in the order of the batches."""
    files = rig.sandbox.provider.files
    columns = ("input_file_id", "output_file_id", "error_file_id")
    named = [(column.partition("_")[0], batch[column]) for batch in rig.batches() for column in columns]
    return [what for what, file_id in named if file_id in files and files[file_id].deleted]


def deletions(rig):
    return rig.ledger.requests.get("delete-file", 0)


async def settled(rig):
    rig.ask("good")
    rig.ask("bad", model="m+sandbox-bad-request")
    await rig.until_idle()
    rig.clock.advance(1)


async def test_the_files_of_a_settled_batch_are_deleted_when_their_days_are_over(start):
    rig = await start(retention={"remote_files": "delete", "remote_files_days": 2})
    await settled(rig)
    await rig.later(clear, seconds=2 * DAY_SECONDS - 100)
    assert (gone(rig), deletions(rig)) == ([], 0)
    await rig.later(clear, seconds=100)
    assert gone(rig) == ["input", "output", "error"]
    (told,) = rig.told("clear.deleted")
    assert (told["batch"], told["files"]) == (1, 3)
    calls = rig.ledger.requests
    await rig.later(clear, seconds=DAY_SECONDS)
    assert rig.ledger.requests == calls
    assert rig.result("good")["answer"]


async def test_the_days_begin_when_a_batch_is_settled(start):
    rig = await start(retention={"remote_files": "delete", "remote_files_days": 2})
    await settled(rig)
    rig.sql("UPDATE batch_states SET created_at_ms = created_at_ms - ?", 20 * DAY_SECONDS * 1000)
    await rig.later(clear, seconds=DAY_SECONDS)
    assert gone(rig) == []


async def test_a_clock_that_has_jumped_ahead_deletes_nothing_until_it_has_stayed_there(start):
    rig = await start(retention={"remote_files": "delete", "remote_files_days": 2})
    await settled(rig)
    await rig.run(clear)
    rig.clock.jump(3 * DAY_SECONDS)
    await rig.run(clear)
    await rig.later(clear, seconds=3599)
    assert (gone(rig), len(rig.told("daemon.clock_jumped"))) == ([], 1)
    await rig.later(clear, seconds=1)
    assert gone(rig) == ["input", "output", "error"]


async def test_they_are_kept_unless_it_is_asked_for(rig):
    await settled(rig)
    calls = rig.ledger.requests
    await rig.later(clear, seconds=10_000 * DAY_SECONDS)
    assert rig.ledger.requests == calls


async def test_no_file_is_deleted_before_every_line_of_its_batch_has_its_outcome_stored(start):
    rig = await start(retention=AT_ONCE)
    rig.ask_many(2)
    for stage in (pack, submit, poll, collect):
        await rig.turn() if stage is pack else await rig.later(stage)
        await rig.later(clear, seconds=10)
        assert gone(rig) == []
        assert rig.batch()["status"] != "settled"
    await rig.run(settle)
    assert rig.value("SELECT files_deleted_at FROM batches") is None
    await rig.later(clear, seconds=1)
    assert gone(rig) == ["input", "output", "error"]
    assert rig.value("SELECT files_deleted_at FROM batches") is not None


async def test_the_file_of_a_batch_that_was_never_made_is_deleted(start):
    rig = await start(retention=AT_ONCE)
    rig.faults.add("status-429:route=create", times=1)
    rig.ask("q")
    await rig.submitted()
    rig.sql("UPDATE prompt_states SET cancelling = 1")
    rig.sql("UPDATE batch_states SET cancel_requested = true")
    await rig.later(submit, seconds=600)
    assert rig.batch()["status"] == "discarded"
    await rig.later(clear)
    assert gone(rig) == ["input"]


# ---------------------------------------------------------------- trouble


async def test_a_file_that_is_gone_already_counts_as_deleted(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    files = rig.sandbox.provider
    files.delete_file(files.files[rig.batch()["output_file_id"]], rig.clock())
    await rig.run(clear)
    assert gone(rig) == ["input", "output", "error"]
    assert not rig.told("clear.kept")
    assert rig.batch()["files_deleted_at_ms"] is not None


async def test_a_file_that_is_named_twice_is_deleted_once(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.sql("UPDATE batch_states SET error_file_id = output_file_id")
    await rig.run(clear)
    assert rig.told("clear.deleted")[0]["files"] == deletions(rig) == 2


async def test_a_deletion_whose_reply_is_lost_is_repeated_without_harm(start):
    rig = await start(retention=AT_ONCE)
    rig.faults.add("lost-reply:route=delete-file", times=2)
    await settled(rig)
    await rig.run(clear)
    assert rig.batch()["files_deleted_at_ms"] is None
    for _ in range(2):
        await rig.later(clear, seconds=120)
    assert gone(rig) == ["input", "output", "error"]
    assert rig.batch()["last_error"] is None
    assert not rig.told("clear.kept")


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_while_it_fails_one_call_is_made_for_all_batches_and_later_fewer(start, status):
    rig = await start(retention=AT_ONCE, packing={"linger_seconds": 0, "max_lines": 1})
    rig.ask_many(5)
    await rig.until_idle()
    rig.faults.add(f"status-{status}:route=delete-file")
    await rig.later(clear, seconds=1)
    assert deletions(rig) == 1
    await rig.later(clear, seconds=10)
    assert deletions(rig) == 1
    for _ in range(60):
        await rig.later(clear, seconds=60)
    assert 20 <= deletions(rig) <= 61
    assert rig.told("clear.failed")
    rig.faults.clear()
    for _ in range(70):
        await rig.later(clear, seconds=60)
    assert len(gone(rig)) == 15


async def test_a_batch_whose_files_cannot_be_deleted_is_tried_less_and_less_often(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.faults.add("status-500:route=delete-file")
    for _ in range(60):
        await rig.later(clear, seconds=60)
    assert 5 <= deletions(rig) <= 12


async def test_the_pause_that_the_provider_asks_for_is_kept(start):
    rig = await start(retention=AT_ONCE)
    rig.faults.add("status-429:route=delete-file:retry_after=500", times=1)
    await settled(rig)
    await rig.run(clear)
    await rig.later(clear, seconds=499)
    assert deletions(rig) == 1
    await rig.later(clear, seconds=2)
    assert gone(rig) == ["input", "output", "error"]


async def test_what_the_provider_will_not_delete_is_told_and_left(start):
    rig = await start(retention=AT_ONCE)
    rig.faults.add("status-405:route=delete-file")
    await settled(rig)
    await rig.run(clear)
    assert len(rig.told("clear.kept")) == deletions(rig) == 3
    assert not rig.told("clear.deleted")
    (shown,) = rig.sql("SELECT files_deleted_at, output_file_id, last_error, last_error_at FROM batches")
    assert f"file {shown['output_file_id']} was left at the provider: DELETE" in shown["last_error"]
    assert shown["last_error_at"] == shown["files_deleted_at"]
    await rig.later(clear, seconds=DAY_SECONDS)
    assert deletions(rig) == 3


async def test_a_batch_the_provider_denies_is_asked_for_again_before_its_answers_are_left_alone(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.faults.add("batch-gone", times=2)
    await rig.run(clear)
    assert gone(rig) == []
    for _ in range(3):
        await rig.later(clear, seconds=600)
    assert gone(rig) == ["input", "output", "error"]


async def test_a_batch_that_is_gone_leaves_its_answers_alone(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.faults.add("batch-gone")
    for _ in range(10):
        await rig.later(clear, seconds=3600)
    assert gone(rig) == ["input"]
    assert {told["file_id"] for told in rig.told("clear.kept")} == {
        rig.batch()["output_file_id"],
        rig.batch()["error_file_id"],
    }


async def test_only_one_daemon_does_it_at_a_time(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    now_ms, until_ms = rig.context.now_ms(), rig.context.in_ms(60)
    lease = partial(take_chore, name="clear", owner="another", now_ms=now_ms, until_ms=until_ms)
    assert await rig.context.database.write(lease)
    await rig.run(clear)
    assert gone(rig) == []
    await rig.later(clear, seconds=61)
    assert gone(rig) == ["input", "output", "error"]


# ---------------------------------------------------------------- what is not ours


async def another_file(rig):
    """The id of a file that the account holds and another program uploaded."""
    client = rig.context.clients["doubleword"]
    line = b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}\n'

    async def lines():
        yield line

    return (await client.upload("precious.jsonl", len(line), lines())).id


def is_there(rig, file_id):
    return not rig.sandbox.provider.files[file_id].deleted


@pytest.mark.parametrize("column", ["input_file_id", "output_file_id", "error_file_id"])
async def test_a_file_that_the_provider_does_not_show_to_be_ours_is_left(start, column):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    precious = await another_file(rig)
    rig.sql(f"UPDATE batch_states SET {column} = ?", precious)
    await rig.run(clear)
    assert is_there(rig, precious)
    (told,) = rig.told("clear.kept")
    assert told["file_id"] == precious
    assert len(gone(rig)) == 2


@pytest.mark.parametrize("known", [True, False])
async def test_an_input_file_without_a_name_is_ours_where_the_provider_names_it_for_our_batch(start, known):
    rig = await start(retention=AT_ONCE, through_proxy=True)

    def nameless(status, headers, body):
        return status, headers, json.dumps(json.loads(body) | {"filename": None}).encode()

    await settled(rig)
    rig.proxy.rewrite("GET", "/files/[^/]+$", nameless)
    if not known:
        rig.sandbox.provider.batches[rig.batch()["remote_batch_id"]].metadata.clear()
    await rig.run(clear)
    assert gone(rig) == (["input", "output", "error"] if known else [])


@pytest.mark.parametrize("name", ["output_file_id", "error_file_id"])
async def test_a_file_of_another_kind_that_a_provider_names_as_answers_is_left(start, name):
    rig = await start(retention=AT_ONCE, through_proxy=True)
    precious = await another_file(rig)

    def lie(status, headers, body):
        return status, headers, json.dumps(json.loads(body) | {name: precious}).encode()

    await settled(rig)
    rig.sql(f"UPDATE batch_states SET {name} = ?", precious)
    rig.proxy.rewrite("GET", "/batches/[^/]+$", lie)
    await rig.run(clear)
    assert is_there(rig, precious)
    (told,) = rig.told("clear.kept")
    assert "a file for batch" in told["reason"]


async def test_a_batch_that_is_not_known_as_ours_leaves_its_answers_alone(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.sandbox.provider.batches[rig.batch()["remote_batch_id"]].metadata.clear()
    await rig.run(clear)
    assert gone(rig) == ["input"]


async def test_a_file_that_an_open_batch_needs_is_left(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.ask("other")
    other = await rig.submitted()
    rig.sql("UPDATE batch_states SET output_file_id = ? WHERE id = 1", other["input_file_id"])
    rig.sandbox.provider.files[other["input_file_id"]].filename = f"{rig.batches()[0]['key']}.jsonl"
    rig.sql("UPDATE batch_states SET input_file_id = ? WHERE id = 1", other["input_file_id"])
    await rig.run(clear)
    assert is_there(rig, other["input_file_id"])
    assert rig.told("clear.kept")[0]["reason"] == "a batch that is not over needs it"


async def test_every_file_that_an_open_batch_names_is_needed(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.ask("open")
    open_batch = await rig.submitted()
    named = "UPDATE batch_states SET input_file_id = ?, output_file_id = ?, error_file_id = ? WHERE id = ?"
    rig.sql(named, "f-1", "f-2", "f-3", open_batch["id"])
    rig.sql(named, "f-4", "f-5", "f-6", 1)
    look = partial(named_by_open_batches, file_ids=[f"f-{number}" for number in range(9)])
    assert await rig.context.database.read(look) == {"f-1", "f-2", "f-3"}


async def test_nothing_is_noted_of_a_batch_that_is_not_over_or_is_done_with(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    rig.ask("open")
    await rig.submitted()
    rig.sql("UPDATE batch_states SET files_deleted_at_ms = 1 WHERE id = 1")
    for number in (1, 2):
        batch = await rig.context.database.read(partial(get_batch, batch_id=number))
        await rig.context.database.write(partial(update_closed, batch=batch, last_error="!"))
    assert [batch["last_error"] for batch in rig.batches()] == [None, None]


async def test_batches_of_a_provider_that_left_the_settings_wait(start):
    rig = await start(retention=AT_ONCE)
    await settled(rig)
    client = rig.context.clients.pop("doubleword")
    await rig.run(clear)
    assert gone(rig) == []
    rig.context.clients["doubleword"] = client
    await rig.run(clear)
    assert gone(rig) == ["input", "output", "error"]
