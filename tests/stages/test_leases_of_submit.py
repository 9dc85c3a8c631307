"""A submission whose lease was lost on the way writes nothing, and its successor finds what was done."""

import asyncio
import dataclasses

import pytest
from rig import submit

from orchestrator.errors import LeaseLost
from orchestrator.lease import LEASE_SECONDS


@pytest.mark.parametrize("path", ["/files$", "/batches$"])
async def test_a_submission_that_lost_its_lease_writes_nothing_and_is_taken_over_without_paying_twice(start, path):
    rig = await start(through_proxy=True)
    rig.ask_many(3)
    await rig.sealed()
    held = rig.proxy.hold("POST", path, "after")
    sending = asyncio.create_task(submit(rig.context))
    await held.reached.wait()
    rig.sql("UPDATE batch_states SET fence = fence + 1")
    before = dict(rig.batch())
    held.open.set()
    with pytest.raises(LeaseLost):
        await sending
    assert dict(rig.batch()) == before
    rig.sql("UPDATE batch_states SET lease_until_ms = 0")
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert (rig.ledger.uploads, rig.ledger.creates) == (1, 1)


async def test_two_submitters_at_once_never_take_the_same_batch(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 1})
    rig.ask_many(12)
    await rig.sealed()
    await asyncio.gather(*(rig.run(submit) for _ in range(4)))
    assert rig.ledger.creates == rig.ledger.uploads == 12
    await rig.until_idle()


async def test_a_lease_that_ran_out_is_taken_over(rig):
    rig.ask("one")
    await rig.sealed()
    rig.sql("UPDATE batch_states SET lease_owner = 'dead', lease_until_ms = ?", int((rig.clock() + 100) * 1000))
    await rig.run(submit)
    assert rig.ledger.creates == 0
    await rig.later(submit, seconds=101)
    assert rig.ledger.creates == 1


async def test_a_process_that_was_frozen_beyond_its_lease_before_it_created_a_batch_sends_nothing(rig):
    """Others may have created it meanwhile: only a look can tell."""
    rig.ask_many(3)
    await rig.sealed()
    times = iter([0.0])
    frozen = dataclasses.replace(rig.context, steady=lambda: next(times, LEASE_SECONDS))
    await submit(frozen)
    assert rig.batch()["status"] == "creating"
    assert rig.ledger.requests.get("create", 0) == rig.ledger.creates == 0
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1
