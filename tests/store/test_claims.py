"""A batch belongs to one holder at a time, moves along the table, and is written by its holder only."""

import asyncio
import itertools

import pytest
from sqlalchemy.exc import IntegrityError

from orchestrator.core.model import BatchStatus
from orchestrator.core.states import BATCH_ENDS, BATCH_MOVES
from orchestrator.errors import LeaseLost
from orchestrator.store.batches import (
    ON_OPEN_PROVIDER,
    Claim,
    claim_batches,
    count_active,
    get_batch,
    has_remote,
    insert_sealed,
    move_batch,
    release_all_leases,
    release_leases,
    renew_lease,
    statuses,
    update_batch,
    update_batches,
)
from orchestrator.store.providers import update_provider

NOW_MS = 1_800_000_000_000
LEASE_MS = 120_000
SEALED = statuses(BatchStatus.SEALED)
PACKING = statuses(BatchStatus.PACKING)


async def claim(daemon, where=SEALED, owner="me", now_ms=NOW_MS):
    return next(iter(await claims(daemon, where, owner, now_ms)), None)


async def claims(daemon, where=SEALED, owner="me", now_ms=NOW_MS, most=1):
    return await daemon.write(lambda c: claim_batches(c, where, Claim(owner, now_ms, now_ms + LEASE_MS, most)))


async def sealed(daemon, *keys, now_ms=NOW_MS):
    lane_id = await daemon.admit()
    return [await daemon.write(lambda c, k=key: insert_sealed(c, k, lane_id, now_ms)) for key in keys]


async def test_a_claim_takes_the_batch_and_its_lease(user, daemon):
    await sealed(daemon, "orc-1")
    batch = await claim(daemon)
    assert (batch.key, batch.fence, batch.status) == ("orc-1", 1, BatchStatus.SEALED)
    assert user.rows("SELECT lease_owner, lease_until_ms FROM batch_states") == [
        {"lease_owner": "me", "lease_until_ms": NOW_MS + LEASE_MS}
    ]


async def test_a_claimed_batch_is_nobody_elses_until_its_lease_is_over(daemon):
    await sealed(daemon, "orc-1")
    assert await claim(daemon) is not None
    assert await claim(daemon, now_ms=NOW_MS + LEASE_MS) is None
    assert await claim(daemon, now_ms=NOW_MS + LEASE_MS + 1) is not None


async def test_several_are_claimed_together_those_first_that_have_been_due_longest(daemon):
    for key, ago_ms in (("orc-1", 1), ("orc-2", 3), ("orc-3", 2), ("orc-4", -1)):
        await sealed(daemon, key, now_ms=NOW_MS - ago_ms)
    assert [batch.key for batch in await claims(daemon, most=2)] == ["orc-2", "orc-3"]
    assert [batch.key for batch in await claims(daemon, most=2)] == ["orc-1"]
    assert await claims(daemon, most=2) == []


async def test_what_was_seen_of_several_is_written_together_or_not_at_all(user, daemon):
    await sealed(daemon, "orc-1", "orc-2")
    first, second = await claims(daemon, most=2)
    await daemon.write(lambda c: update_batches(c, [(first, {"tries": 1}), (second, {"tries": 2})]))
    assert user.values("SELECT tries FROM batch_states ORDER BY id") == [1, 2]
    await claim(daemon, now_ms=NOW_MS + LEASE_MS + 1)
    with pytest.raises(LeaseLost, match="one of 2"):
        await daemon.write(lambda c: update_batches(c, [(second, {"tries": 3}), (first, {"tries": 3})]))
    assert user.values("SELECT tries FROM batch_states ORDER BY id") == [1, 2]


async def test_leases_are_released_together_but_for_those_that_are_lost(user, daemon):
    await sealed(daemon, "orc-1", "orc-2", "orc-3")
    first, second, third = await claims(daemon, most=3)
    (again,) = await claims(daemon, now_ms=NOW_MS + LEASE_MS + 1)
    await daemon.write(lambda c: release_leases(c, [first, second, third]))
    assert user.values("SELECT lease_until_ms FROM batch_states ORDER BY id") == [NOW_MS + 2 * LEASE_MS + 1, 0, 0]
    assert again.id == first.id


async def test_a_renewal_that_comes_after_the_end_leases_nothing(user, daemon):
    await sealed(daemon, "orc-1")
    batch = await claim(daemon)
    await daemon.write(lambda c: move_batch(c, batch, BatchStatus.DISCARDED, "submit"))
    with pytest.raises(LeaseLost, match="orc-1"):
        await daemon.write(lambda c: renew_lease(c, batch, NOW_MS + LEASE_MS))
    assert user.value("SELECT lease_until_ms FROM batch_states") == 0


async def test_a_batch_that_was_pruned_meanwhile_is_nobodys(daemon):
    with pytest.raises(LeaseLost, match="gone"):
        await daemon.read(lambda c: get_batch(c, 404))


async def test_a_renewed_lease_lasts_longer(daemon):
    await sealed(daemon, "orc-1")
    batch = await claim(daemon)
    await daemon.write(lambda c: renew_lease(c, batch, NOW_MS + 2 * LEASE_MS))
    assert await claim(daemon, now_ms=NOW_MS + 2 * LEASE_MS) is None


async def test_a_released_batch_can_be_claimed_at_once(daemon):
    await sealed(daemon, "orc-1")
    batch = await claim(daemon)
    await daemon.write(lambda c: release_leases(c, [batch]))
    assert (await claim(daemon)).fence == batch.fence + 1


async def test_claims_at_the_same_time_share_no_batch(daemon):
    await sealed(daemon, *(f"orc-{number}" for number in range(10)))
    claimed = await asyncio.gather(*(claim(daemon, owner=f"worker-{number}") for number in range(15)))
    keys = [batch.key for batch in claimed if batch is not None]
    assert len(keys) == len(set(keys)) == 10


async def test_what_has_been_due_longest_is_claimed_first_and_nothing_before_its_time(daemon):
    await sealed(daemon, "late", now_ms=NOW_MS + 1)
    await sealed(daemon, "second", now_ms=NOW_MS)
    await sealed(daemon, "first", now_ms=NOW_MS - 1)
    assert [(await claim(daemon)).key for _ in range(2)] == ["first", "second"]
    assert await claim(daemon) is None
    assert (await claim(daemon, now_ms=NOW_MS + 1)).key == "late"


async def test_only_what_was_asked_for_is_claimed(daemon):
    await sealed(daemon, "orc-1")
    assert await claim(daemon, PACKING) is None
    assert await claim(daemon, statuses(BatchStatus.ENDED, BatchStatus.SEALED)) is not None


async def test_a_closed_batch_is_never_claimed(user, daemon):
    await sealed(daemon, *BATCH_ENDS)
    for end in BATCH_ENDS:
        user.run("UPDATE batch_states SET status = ? WHERE key = ?", end, end)
    assert await claim(daemon, statuses(*BatchStatus)) is None


async def test_a_paused_provider_keeps_its_batches(daemon):
    await sealed(daemon, "orc-1")
    await daemon.write(lambda c: update_provider(c, "p", resume_at_ms=NOW_MS + 1))
    assert await claim(daemon, SEALED & ON_OPEN_PROVIDER) is None
    assert await claim(daemon, SEALED & ON_OPEN_PROVIDER, now_ms=NOW_MS + 1) is not None


async def test_a_holder_that_lost_its_lease_writes_nothing(user, daemon):
    await sealed(daemon, "orc-1")
    stale = await claim(daemon)
    await claim(daemon, owner="other", now_ms=NOW_MS + LEASE_MS + 1)
    before = user.rows("SELECT * FROM batch_states")
    writes = [
        lambda c: update_batch(c, stale, tries=9),
        lambda c: renew_lease(c, stale, NOW_MS * 2),
        lambda c: move_batch(c, stale, BatchStatus.UPLOADING, "submit", tries=9),
    ]
    for write in writes:
        with pytest.raises(LeaseLost, match="orc-1"):
            await daemon.write(write)
    await daemon.write(lambda c: release_leases(c, [stale]))
    assert user.rows("SELECT * FROM batch_states") == before


async def test_a_lost_lease_takes_the_whole_transaction_back(user, daemon):
    await sealed(daemon, "orc-1", "orc-2")
    mine, stale = await claim(daemon), await claim(daemon)
    user.run("UPDATE batch_states SET fence = fence + 1 WHERE key = ?", stale.key)

    async def work(connection):
        await update_batch(connection, mine, tries=5)
        await update_batch(connection, stale, tries=5)

    with pytest.raises(LeaseLost):
        await daemon.write(work)
    assert user.values("SELECT tries FROM batch_states") == [0, 0]


async def test_the_predecessors_leases_end_at_a_start_and_its_writes_still_fail_once_reclaimed(daemon):
    await sealed(daemon, "orc-1", "orc-2")
    stale = await claim(daemon)
    assert await daemon.write(release_all_leases) == 1
    again = await claim(daemon, owner="new")
    assert {stale.key, again.key} <= {"orc-1", "orc-2"}
    assert (await claim(daemon, owner="new")).key in {"orc-1", "orc-2"}
    with pytest.raises(LeaseLost):
        await daemon.write(lambda c: update_batch(c, stale, tries=1))


STAGES = sorted({move.by for move in BATCH_MOVES})
PAIRS = [(a, b) for a, b in itertools.permutations(BatchStatus, 2)]


@pytest.mark.parametrize(("before", "after"), PAIRS)
async def test_a_batch_moves_only_along_the_table_and_only_by_its_stage(user, daemon, before, after):
    (batch_id,) = await sealed(daemon, "orc-1")
    allowed = {move.by for move in BATCH_MOVES if (move.before, move.after) == (before, after)}
    for by in STAGES:
        user.run("UPDATE batch_states SET status = ?, remote_batch_id = 'r' WHERE id = ?", before, batch_id)
        batch = await daemon.read(lambda c: get_batch(c, batch_id))
        if by in allowed:
            await daemon.write(lambda c, b=batch, s=by: move_batch(c, b, after, s, tries=3))
        else:
            with pytest.raises(LeaseLost):
                await daemon.write(lambda c, b=batch, s=by: move_batch(c, b, after, s, tries=3))
        assert user.value("SELECT status FROM batch_states") == (after if by in allowed else before)


async def test_a_submitted_batch_without_a_remote_one_cannot_be_stored(user, daemon):
    await sealed(daemon, "orc-1")
    batch = await claim(daemon)
    user.run("UPDATE batch_states SET status = 'creating'")
    with pytest.raises(IntegrityError, match="submitted_has_remote_batch"):
        await daemon.write(lambda c: move_batch(c, batch, BatchStatus.SUBMITTED, "submit"))


async def test_no_two_batches_share_a_key(daemon):
    await sealed(daemon, "orc-1")
    with pytest.raises(IntegrityError, match=r"(?i)unique.*key"):
        await sealed(daemon, "orc-1")


async def test_a_remote_id_is_known_for_its_provider_alone(user, daemon):
    await sealed(daemon, "orc-1")
    user.run("UPDATE batch_states SET remote_batch_id = 'r'")
    assert await daemon.read(lambda c: has_remote(c, "p", "r"))
    assert not await daemon.read(lambda c: has_remote(c, "q", "r"))
    assert not await daemon.read(lambda c: has_remote(c, "p", "s"))


async def test_active_batches_are_counted_by_lane_and_provider(user, daemon):
    await sealed(daemon, "a", "b", "c", "d")
    user.run("UPDATE batch_states SET status = 'submitted', remote_batch_id = 'r' WHERE key = 'b'")
    user.run("UPDATE batch_states SET status = 'settled' WHERE key = 'c'")
    user.run("UPDATE batch_states SET status = 'discarded' WHERE key = 'd'")
    active = await daemon.read(count_active)
    assert (active.by_lane, active.by_provider, active.unsent) == ({1: 2}, {"p": 2}, {"p": 1})
