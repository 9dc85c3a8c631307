"""F39: a clock that is wrong, or jumps, costs no prompt and no money."""

import asyncio

import pytest
from rig import collect, poll, submit

from orchestrator.clocks import followed, heed_past
from orchestrator.pauses import pause_provider
from orchestrator.store.lanes import Hold, hold_lane

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


async def scheduled(rig):
    """A batch whose poll is due, a pause and a hold, in seconds from now."""
    lane, provider = rig.value("SELECT held_until_ms FROM lanes"), rig.provider()["resume_at_ms"]
    return [round(at_ms / 1000 - rig.clock()) for at_ms in (rig.batch()["next_try_at_ms"], provider, lane)]


@pytest.fixture
async def waiting(start):
    rig = await start(sandbox={"latency_seconds": 50_000})
    rig.ask("one")
    await rig.submitted()
    await rig.later(poll, seconds=60)
    await rig.context.database.write(lambda c: hold_lane(c, 1, Hold(rig.context.in_ms(300), 1, None)))
    await pause_provider(rig.context, "doubleword", "no credit", "call")
    return rig


@pytest.mark.parametrize("is_started_anew", [False, True], ids=["running", "started anew"])
async def test_what_was_scheduled_by_a_clock_that_was_set_back_waits_no_longer_for_it(waiting, is_started_anew):
    rig = waiting
    before, ahead = await scheduled(rig), rig.clock() - rig.clock.steady()
    rig.clock.jump(-5 * HOUR_SECONDS)
    await (heed_past(rig.context) if is_started_anew else followed(rig.context, ahead))
    assert await scheduled(rig) == before
    (told,) = rig.told("daemon.clock_set_back")
    assert told["seconds"] == 5 * HOUR_SECONDS


@pytest.mark.parametrize("seconds", [-50, 0, 50_000])
async def test_what_is_scheduled_stays_while_the_clock_is_not_set_back(waiting, seconds):
    rig = waiting
    ahead = rig.clock() - rig.clock.steady()
    rig.clock.advance(10)
    rig.clock.jump(seconds)
    before = await scheduled(rig)
    assert await followed(rig.context, ahead) == ahead + seconds
    await heed_past(rig.context)
    assert await scheduled(rig) == before
    assert not rig.told("daemon.clock_set_back")
