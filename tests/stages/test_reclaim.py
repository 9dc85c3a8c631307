"""A restored queue finds what was sent since its backup, and pays for none of it again."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rig import admit, pack, poll, submit

from orchestrator.context import key_prefix, new_key
from orchestrator.errors import ProviderError
from orchestrator.stages import reclaim
from orchestrator.store.backup import back_up
from orchestrator.store.restoring import read_name, read_restored

pytestmark = pytest.mark.sqlite  # backups of PostgreSQL are restored in tests/e2e/test_restored_dump.py

LOOKS, APART_SECONDS = 3, 30
QUICK = {"submission": {"adopt_checks": LOOKS, "adopt_interval_seconds": APART_SECONDS}}


@pytest.fixture
async def lived(start, tmp_path):
    """Open a rig whose queue can be backed up and restored."""

    async def opened(**settings):
        rig = await start(**{**QUICK, **settings})
        name = await rig.context.database.read(read_name)
        rig.context = replace(rig.context, new_key=partial(new_key, key_prefix(name)))
        rig.backup = tmp_path / "backup.db"
        return rig

    return opened


def backed_up(rig):
    back_up(rig.path, rig.backup, rig.context.now_ms(), lambda *_: None)


async def restored(rig):
    """The daemon is stopped, and the backup put in the queue's place."""
    await rig.context.database.close()
    put_in_place(rig)
    rig.context.strangers.clear()


def put_in_place(rig):
    for suffix in ("-wal", "-shm"):
        Path(f"{rig.path}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(rig.backup, rig.path)


async def reclaimed(rig):
    """As the daemon does it, before anything else."""
    await rig.run(admit)
    for _ in range(50):
        await rig.run(reclaim)
        if await rig.context.database.read(read_restored) is None:
            return
        rig.clock.advance(APART_SECONDS)
    raise AssertionError("it never ends")


def paid_once(rig):
    assert rig.ledger.successes == dict.fromkeys(rig.statuses(), 1)
    assert rig.count() == {"done": len(rig.statuses())}


async def uploaded(rig):
    rig.faults.add("status-429:route=create", times=1)
    await rig.submitted()


async def in_creation(rig):
    rig.faults.add("reset-before:route=create", times=1)
    await rig.submitted()


STEPS = {
    "queued": lambda rig: rig.run(admit),
    "new": lambda rig: rig.run(),
    "sealed": lambda rig: rig.sealed(),
    "uploaded": uploaded,
    "creating": in_creation,
    "submitted": lambda rig: rig.submitted(),
    "ended": lambda rig: rig.ended(),
    "collected": lambda rig: rig.collected(),
}


@pytest.mark.parametrize("now", ["sent", "answered"])
@pytest.mark.parametrize("step", STEPS)
async def test_whatever_stood_where_when_the_backup_was_made_is_paid_once(lived, step, now):
    rig = await lived()
    rig.ask_many(3)
    await STEPS[step](rig)
    backed_up(rig)
    if now == "answered":
        await rig.until_idle()
    else:
        for _ in range(LOOKS + 2):
            await rig.later(admit, pack, submit, seconds=900)
    assert rig.ledger.creates == 1
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


@pytest.mark.parametrize("dialect", ["doubleword", "openai"])
async def test_batches_open_at_the_backup_and_batches_sent_since_come_back(lived, dialect):
    rig = await lived(sandbox={"dialect": dialect}, profile=dialect, packing={"linger_seconds": 0, "max_lines": 2})
    rig.ask_many(5)
    await rig.submitted()
    rig.ask("waits")
    backed_up(rig)
    for number in range(4):
        rig.ask(f"late-{number}")
    await rig.submitted()
    rig.clock.advance(5)
    creates = rig.ledger.creates
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == creates
    assert {rig.ledger.successes[custom_id] for custom_id in rig.statuses()} == {1}
    assert rig.count() == {"done": 6}
    strangers = rig.told("reclaim.stranger")
    assert 1 <= len(strangers) <= 2, "each is told of once"


async def test_a_prompt_that_failed_and_was_sent_again_since_is_not_sent_a_third_time(lived):
    rig = await lived()
    rig.ask("steady")
    rig.ask("fails", model="m+sandbox-fail-2")
    await rig.submitted()
    backed_up(rig)
    await rig.until_idle()
    assert (rig.ledger.creates, rig.ledger.executions["fails"]) == (3, 3)
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert (rig.ledger.creates, rig.ledger.executions["fails"]) == (3, 3)
    paid_once(rig)


async def test_a_batch_that_was_replaced_since_is_found_under_its_key(lived):
    rig = await lived()
    rig.faults.add("stuck-validating", times=1)
    rig.ask_many(2)
    await rig.submitted()
    backed_up(rig)
    await rig.later(poll, submit, seconds=1801)
    assert rig.ledger.creates == 2
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 2
    paid_once(rig)


async def test_an_answer_never_goes_to_another_question_of_the_same_custom_id(lived):
    rig = await lived()
    rig.ask("q", "The old question")
    rig.ask("same")
    await rig.run(admit)
    backed_up(rig)
    rig.sql("DELETE FROM prompts WHERE custom_id = 'q'")
    rig.ask("q", "The new question")
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert "The old question" in rig.result("q")["answer"]
    assert rig.ledger.executions == {"q": 2, "same": 1}


async def test_a_file_that_is_gone_is_told_and_its_prompts_are_sent_again(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    await rig.until_idle()
    provider = rig.sandbox.provider
    provider.delete_file(provider.files[rig.batch()["input_file_id"]], rig.clock())
    await restored(rig)
    await reclaimed(rig)
    (told,) = rig.told("reclaim.unreadable")
    assert told["log_level"] == "error"
    await rig.until_idle()
    assert rig.count() == {"done": 2}


async def test_until_the_provider_can_tell_nothing_is_decided(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await rig.run(admit)
    for fault in ("status-500:route=list-batches", "status-401:route=list-batches", "reset-mid-body:nbytes=100"):
        rig.faults.add(fault)
        with pytest.raises(ProviderError):
            await reclaim(rig.context)
        assert (await rig.context.database.read(read_restored)).looks == 0
        rig.faults.clear()
    await reclaimed(rig)
    await rig.until_idle()
    paid_once(rig)


async def test_a_provider_that_left_the_settings_is_not_taken_to_have_been_sent_nothing(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await rig.run(admit)
    client = rig.context.clients.pop("doubleword")
    for _ in range(LOOKS + 1):
        with pytest.raises(ProviderError, match=r"put its table \[providers\.doubleword\] back"):
            await reclaim(rig.context)
        rig.clock.advance(APART_SECONDS)
    rig.context.clients["doubleword"] = client
    await reclaimed(rig)
    await rig.until_idle()
    paid_once(rig)


async def test_a_batch_that_the_listing_shows_late_is_found(lived):
    rig = await lived()
    rig.faults.add(f"replica-lag:route=create:seconds={APART_SECONDS * 2 - 5}")
    rig.ask_many(2)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_a_file_that_comes_short_is_not_taken_for_the_whole(lived):
    rig = await lived(through_proxy=True)
    rig.ask_many(4)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await rig.run(admit)

    def cut(status, headers, body):
        return status, headers, body[: body.index(b"\n") + 1]

    rig.proxy.rewrite("GET", "/content$", cut)
    with pytest.raises(ProviderError, match="1 of 4 lines"):
        await reclaim(rig.context)
    rig.proxy.rewrites.clear()
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


@pytest.mark.parametrize("fault", [(), ("bad-list",)])
async def test_batches_of_other_queues_are_left_alone(lived, fault):
    """Also where the listing shows all there are, whatever is searched for."""
    rig = await lived()
    for name in fault:
        rig.faults.add(name)
    rig.context = replace(rig.context, new_key=partial(new_key, key_prefix("another")))
    rig.ask("q")
    await rig.run(admit)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    assert rig.statuses() == {"q": "queued"}
    assert not rig.told("reclaim.stranger")


async def test_a_listing_that_cannot_show_it_holds_the_queue_and_says_what_to_do(lived):
    rig = await lived(provider={"searchable_batches": False})
    rig.ask("q")
    await rig.submitted()
    backed_up(rig)
    await restored(rig)
    with pytest.raises(ProviderError, match=r"set queue_state\.backed_up_at_ms to NULL"):
        await reclaim(rig.context)


async def test_a_queue_that_is_no_backup_asks_nobody(lived):
    rig = await lived()
    rig.ask("q")
    await rig.submitted()
    calls = rig.ledger.requests
    assert await reclaim(rig.context) is not None
    assert rig.ledger.requests == calls


async def test_the_log_tells_how_it_went(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    rig.ask("late")
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    (begun,), (adopted,), (done,) = (rig.told(f"reclaim.{name}") for name in ("begun", "adopted", "done"))
    assert begun["log_level"] == "warning"
    assert (adopted["lines"], adopted["total"], done["unreadable"]) == (2, 3, 0)
