"""An outage is one story in the log, however many batches it meets, and the heartbeat says how many."""

import dataclasses
from functools import partial

import msgspec
import pytest
from rig import admit, pack, poll, submit

from orchestrator.folding import SPEAKER_SECONDS, left_out
from orchestrator.store.batches import get_batch
from orchestrator.store.reports import take_pulse

BATCHES = 6


@pytest.fixture
async def many(start):
    """A rig with so many batches under way, and a log that tells nothing yet."""
    rig = await start(packing={"linger_seconds": 0, "max_lines": 1}, sandbox={"latency_seconds": 50_000})
    rig.ask_many(BATCHES)
    await rig.run(admit, pack, submit)
    await rig.later(poll, seconds=100)
    return rig


def told(rig, event="poll.failed"):
    return [(facts["batch"], facts["tries"], facts.get("others")) for facts in rig.told(event)]


async def failing(rig):
    pulse = await rig.context.database.read(partial(take_pulse, since_ms=0, until_ms=1))
    return pulse.failing_batches


async def test_in_an_outage_one_batch_speaks_for_all_of_its_provider(many):
    many.faults.add("status-503:route=retrieve")
    for _ in range(5):
        await many.later(poll, seconds=100)
        assert await failing(many) == BATCHES
    (speaker, *_), *_ = lines = told(many)
    assert [line[:2] for line in lines] == [(speaker, 1), (speaker, 2), (speaker, 4)]
    # Of those due at the same moment, a database may name the speaker first or last.
    alone, once, twice = (others for _, _, others in lines)
    assert alone == 0
    assert BATCHES - 1 <= once <= 2 * (BATCHES - 1) <= once + twice <= 3 * (BATCHES - 1)
    assert {facts["provider"] for facts in many.told("poll.failed")} == {"doubleword"}
    many.faults.clear()
    await many.later(poll, seconds=100)
    assert await failing(many) == 0


async def test_a_batch_speaks_for_others_no_longer_than_ten_minutes_after_its_line(many):
    first, second = [await many.context.database.read(partial(get_batch, batch_id=number)) for number in (1, 2)]
    assert left_out(many.context, "poll.failed", first, 1) == 0
    assert left_out(many.context, "poll.failed", second, 1) is None
    many.clock.advance(SPEAKER_SECONDS - 1)
    assert left_out(many.context, "poll.failed", second, 2) is None
    many.clock.advance(1)
    assert left_out(many.context, "poll.failed", second, 4) == 2
    assert left_out(many.context, "poll.failed", first, 2) is None


async def test_another_provider_speaks_for_itself(many):
    first, second = [await many.context.database.read(partial(get_batch, batch_id=number)) for number in (1, 2)]
    elsewhere = dataclasses.replace(second, lane=msgspec.structs.replace(second.lane, provider="other"))
    assert [left_out(many.context, "poll.failed", batch, 1) for batch in (first, second, elsewhere)] == [0, None, 0]


async def test_a_clock_that_was_set_back_silences_nobody(many):
    first, second = [await many.context.database.read(partial(get_batch, batch_id=number)) for number in (1, 2)]
    assert left_out(many.context, "poll.failed", first, 1) == 0
    many.clock.advance(-1)
    assert left_out(many.context, "poll.failed", second, 1) == 0


async def test_another_stage_speaks_for_itself(many):
    many.faults.add("status-503:route=retrieve")
    many.faults.add("status-503:route=upload")
    await many.later(poll, seconds=100)
    many.ask("late")
    await many.run(admit, pack, submit)
    assert (len(told(many)), len(told(many, "submit.delayed"))) == (1, 1)


async def test_prompts_that_failed_for_good_are_a_warning_of_their_batch(start):
    rig = await start()
    rig.ask("good")
    rig.ask("bad", model="m+sandbox-bad-request")
    rig.ask("once", model="m+sandbox-fail-once")
    await rig.until_idle()
    (warned,) = rig.told("settle.gave_up")
    assert (warned["batch"], warned["failed"], warned["faults"]) == (1, 1, {"invalid": 1, "server": 1})
