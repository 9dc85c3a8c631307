"""F39: a clock that is wrong, or jumps, costs no prompt and no money."""

import asyncio

import pytest
from rig import collect, poll, submit

HOUR_SECONDS = 3600.0


@pytest.mark.parametrize("hours", [-50, -5, 0, 5, 50])
async def test_a_batch_whose_creation_got_no_reply_is_adopted_although_the_clock_is_wrong(start, hours):
    rig = await start(behind_seconds=hours * HOUR_SECONDS)
    rig.faults.add("create-lost-reply", times=1)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1


async def test_a_batch_is_adopted_although_the_clock_was_set_back_meanwhile(rig):
    rig.faults.add("create-lost-reply", times=1)
    rig.ask_many(3)
    await rig.submitted()
    rig.clock.jump(-12 * HOUR_SECONDS)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1


async def test_a_healthy_batch_is_not_cancelled_because_the_clock_is_days_ahead(start):
    rig = await start(behind_seconds=100 * HOUR_SECONDS)
    rig.ask_many(3)
    await rig.submitted()
    await rig.later(poll, seconds=60)
    await rig.until_idle()
    assert not rig.told("poll.overdue")
    assert rig.count() == {"done": 3}


@pytest.mark.parametrize(
    ("stage", "before", "call"),
    [(submit, "sealed", ("POST", "/batches$")), (collect, "ended", ("GET", "/content$"))],
)
async def test_work_in_hand_is_not_taken_over_by_our_own_process_when_the_clock_jumps(start, stage, before, call):
    rig = await start(through_proxy=True)
    rig.ask_many(3)
    await getattr(rig, before)()
    held = rig.proxy.hold(*call, "before")
    working = asyncio.create_task(stage(rig.context))
    await held.reached.wait()
    for _ in range(6):
        rig.clock.jump(2 * HOUR_SECONDS)
        await rig.run(stage)
    held.open.set()
    assert (await working).moved == 1
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1
    assert set(rig.ledger.executions.values()) == {1}
