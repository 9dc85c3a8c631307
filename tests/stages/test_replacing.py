"""F14: a batch that never leaves `validating` is deleted and created anew from the same file; nothing is paid twice."""

import json

import pytest
from rig import poll, submit

STUCK = {"stuck_validating_seconds": 1800}


async def stuck(start, **more):
    rig = await start(submission=STUCK, **more)
    rig.faults.add("stuck-validating", times=1)
    rig.ask_many(3)
    await rig.submitted()
    return rig


def paid_once(rig):
    assert rig.count() == {"done": 3}
    assert rig.ledger.executions == {"q-1": 1, "q-2": 1, "q-3": 1}
    first, second = rig.ledger.batches
    assert first.deleted
    assert not second.deleted
    assert first.input_file_id == second.input_file_id
    assert {rig.result(name)["attempts"] for name in rig.results()} == {1}


async def test_a_batch_stuck_in_validating_is_replaced_after_its_time(start):
    rig = await stuck(start)
    await rig.until(lambda: rig.told("poll.stuck"))
    assert rig.clock() - rig.batch()["submitted_at_ms"] / 1000 > 1800
    await rig.until_idle()
    paid_once(rig)
    assert rig.ledger.uploads == 1


async def test_a_batch_that_starts_to_run_just_then_is_left_to_run(start):
    rig = await start(submission=STUCK, sandbox={"validate_seconds": 1830, "latency_seconds": 100})
    rig.ask_many(3)
    await rig.submitted()
    rig.clock.advance(1820)
    await rig.run(poll)
    assert rig.batch()["status"] == "replacing"
    rig.clock.advance(20)
    await rig.run(submit)
    assert rig.batch()["status"] == "submitted"
    await rig.until_idle()
    assert rig.ledger.creates == 1
    assert set(rig.ledger.executions.values()) == {1}


@pytest.mark.parametrize(
    "fault",
    [
        "lost-reply:route=delete-batch",
        "status-500:route=delete-batch",
        "status-404:route=delete-batch",
        "reset-before:route=delete-batch",
        "status-429:route=delete-batch",
        "status-503:route=retrieve",
        "lost-reply:route=create",
    ],
)
async def test_trouble_while_replacing_makes_no_third_batch(start, fault):
    rig = await stuck(start)
    await rig.until(lambda: rig.batch()["remote_status"] == "validating")
    rig.clock.advance(1801)
    await rig.run(poll)
    assert rig.batch()["status"] == "replacing"
    rig.faults.add(fault, times=1)
    await rig.until_idle()
    assert [b.deleted for b in rig.ledger.batches] == [True, False] or fault == "status-404:route=delete-batch"
    assert rig.count() == {"done": 3}
    assert set(rig.ledger.executions.values()) == {1}
    assert rig.ledger.creates == 2


async def test_one_404_on_the_old_batch_is_no_proof_that_it_is_gone(start):
    rig = await stuck(start)
    await rig.until(lambda: rig.batch()["remote_status"] == "validating")
    rig.clock.advance(1801)
    await rig.run(poll)
    rig.faults.add("batch-gone", times=1)
    await rig.run(submit)
    assert rig.batch()["status"] == "replacing"
    assert rig.ledger.creates == 1
    await rig.until_idle()
    paid_once(rig)


@pytest.mark.parametrize("times", [3, 11, 40])
async def test_many_404s_are_no_proof_either_while_the_old_batch_is_listed(start, times):
    rig = await stuck(start)
    await rig.until(lambda: rig.batch()["remote_status"] == "validating")
    rig.clock.advance(1801)
    await rig.run(poll)
    gone = rig.faults.add("batch-gone", times=times)
    for _ in range(60):
        await rig.run(submit)
        rig.clock.advance(61)
        assert rig.ledger.creates == 1 or gone.fired == times
    await rig.until_idle()
    paid_once(rig)


async def test_where_the_listing_cannot_show_our_key_404s_alone_never_replace_a_batch(start):
    rig = await stuck(start, provider={"searchable_batches": False})
    await rig.until(lambda: rig.batch()["remote_status"] == "validating")
    rig.clock.advance(1801)
    await rig.run(poll)
    rig.faults.add("batch-gone", times=12)
    for _ in range(12):
        await rig.run(submit)
        rig.clock.advance(700)
        assert rig.ledger.creates == 1
        assert rig.batch()["status"] == "replacing"
    assert rig.told("submit.undecided")
    await rig.until_idle()
    paid_once(rig)


async def test_the_deleted_batch_is_never_adopted_again(start):
    rig = await stuck(start)
    rig.faults.add("create-lost-reply", times=1)
    await rig.until(lambda: rig.batch()["abandoned_remote_ids"] != "" and rig.batch()["status"] == "submitted")
    assert rig.batch()["remote_batch_id"] == rig.ledger.batches[1].id
    await rig.until_idle()
    paid_once(rig)


async def test_a_listing_that_still_shows_the_deleted_batch_does_not_bring_it_back(start):
    rig = await stuck(start, through_proxy=True, sandbox={"latency_seconds": 1000})
    old = rig.batch()
    shown = {"id": old["remote_batch_id"], "status": "validating", "metadata": {"orchestrator_key": old["key"]}}

    def lagging(status, headers, body):
        listed = json.loads(body)
        listed["data"] = [*listed["data"], shown]
        return status, headers, json.dumps(listed).encode()

    rig.proxy.rewrite("GET", "/batches$", lagging)
    rig.faults.add("create-lost-reply", times=1)
    await rig.until(lambda: rig.batch()["abandoned_remote_ids"] != "" and rig.batch()["status"] == "submitted")
    assert not rig.told("submit.surplus_cancelled")
    assert rig.batch()["remote_batch_id"] == rig.ledger.batches[1].id
    await rig.until_idle()
    paid_once(rig)


async def test_where_batches_cannot_be_deleted_none_is_replaced(start):
    rig = await start(submission=STUCK, provider={"deletable_batches": False})
    rig.faults.add("stuck-validating", times=1)
    rig.ask_many(3)
    await rig.submitted()
    for _ in range(5):
        await rig.later(seconds=3600)
    assert rig.ledger.creates == 1
    assert rig.batch()["status"] == "submitted"
