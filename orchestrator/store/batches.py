"""Batches: claimed under a lease, moved along the table in `core.states`, written only by their holder.

Every write carries the fence of the claim; a holder that lost its lease raises LeaseLost and writes nothing (F40).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, func, insert, literal_column, or_, select, text, update

from orchestrator.core.model import Batch, BatchStatus, Lane
from orchestrator.core.states import BATCH_ENDS, BATCH_MOVES, before
from orchestrator.errors import LeaseLost
from orchestrator.store.dialect import MOVED, announce, storable
from orchestrator.store.tables import ACTIVE, batch_states, chores, lanes, provider_states

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Row
    from sqlalchemy.ext.asyncio import AsyncConnection

ACTIVE_ROWS = text(ACTIVE)
_BATCH_COLUMNS = [batch_states.c[field.name] for field in fields(Batch) if field.name != "lane"]
_LANE_COLUMNS = [lanes.c.provider, lanes.c.endpoint, lanes.c.completion_window, lanes.c.model]


async def insert_batch(
    connection: AsyncConnection, key: str, lane_id: int, owner: str, now_ms: int, lease_until_ms: int
) -> int:
    """A new batch in `packing`, held by its maker with fence 1; its id."""
    row = insert(batch_states).values(
        key=key, lane_id=lane_id, status=BatchStatus.PACKING, lease_owner=owner, lease_until_ms=lease_until_ms,
        fence=1, created_at_ms=now_ms, next_try_at_ms=now_ms,
    )  # fmt: skip
    result = await connection.execute(row.returning(batch_states.c.id))
    return int(result.scalar_one())


async def insert_sealed(connection: AsyncConnection, key: str, lane_id: int, now_ms: int) -> int:
    """A new batch in `sealed` that nobody holds yet (the other half of a split one); its id."""
    row = insert(batch_states).values(
        key=key, lane_id=lane_id, status=BatchStatus.SEALED, created_at_ms=now_ms, next_try_at_ms=now_ms
    )
    result = await connection.execute(row.returning(batch_states.c.id))
    return int(result.scalar_one())


async def claim_batch(
    connection: AsyncConnection, where: ColumnElement[bool], owner: str, now_ms: int, lease_until_ms: int
) -> Batch | None:
    """Take the lease of the batch that has been due longest among those matching `where`; None when none is due."""
    due = (
        select(batch_states.c.id)
        .where(ACTIVE_ROWS, where, batch_states.c.next_try_at_ms <= now_ms, batch_states.c.lease_until_ms < now_ms)
        .order_by(batch_states.c.next_try_at_ms)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(batch_states)
        .where(batch_states.c.id == due.scalar_subquery())
        .values(lease_owner=owner, lease_until_ms=lease_until_ms, fence=batch_states.c.fence + 1)
        .returning(batch_states.c.id)
    )
    batch_id = (await connection.execute(taken)).scalar_one_or_none()
    return None if batch_id is None else await get_batch(connection, batch_id)


async def next_due_ms(connection: AsyncConnection, where: ColumnElement[bool]) -> int | None:
    """When the first batch among `where` can be claimed; None when there is none."""
    due, free = batch_states.c.next_try_at_ms, batch_states.c.lease_until_ms + 1
    found = select(func.min(case((due > free, due), else_=free))).where(ACTIVE_ROWS, where)
    due_ms: int | None = (await connection.execute(found)).scalar_one()
    return due_ms


async def get_batch(connection: AsyncConnection, batch_id: int) -> Batch:
    found = select(*_BATCH_COLUMNS, *_LANE_COLUMNS).join(lanes, lanes.c.id == batch_states.c.lane_id)
    row = (await connection.execute(found.where(batch_states.c.id == batch_id))).one()
    return _batch(row)


async def has_remote(connection: AsyncConnection, provider: str, remote_id: str) -> bool:
    """Whether a batch of ours at that provider has this remote id."""
    found = select(batch_states.c.id).join(lanes, lanes.c.id == batch_states.c.lane_id)
    same = found.where(batch_states.c.remote_batch_id == remote_id, lanes.c.provider == provider)
    return (await connection.execute(same.limit(1))).first() is not None


def _batch(row: Row[Any]) -> Batch:
    named = dict(zip((column.name for column in _BATCH_COLUMNS), row, strict=False))
    status = BatchStatus(named.pop("status"))
    return Batch(**named, status=status, lane=Lane(*row[len(_BATCH_COLUMNS) :]))


def statuses(*wanted: BatchStatus) -> ColumnElement[bool]:
    """Written as literals: a partial index is not used for parameters (measurements 5.2)."""
    return or_(*(batch_states.c.status == literal_column(f"'{status}'") for status in wanted))


def on_open_provider(now_ms: int) -> ColumnElement[bool]:
    """Batches whose provider is not paused at `now_ms`."""
    paused = (
        select(lanes.c.id)
        .join(provider_states, provider_states.c.name == lanes.c.provider)
        .where(provider_states.c.resume_at_ms > now_ms)
    )
    return batch_states.c.lane_id.not_in(paused)


def of_providers(names: Iterable[str]) -> ColumnElement[bool]:
    """Batches of these providers: one that left the settings cannot be called."""
    known = select(lanes.c.id).where(lanes.c.provider.in_(list(names)))
    return batch_states.c.lane_id.in_(known)


def other_than(batch_ids: Iterable[int]) -> ColumnElement[bool]:
    """Batches our own process does not work on: when the clock jumps, leases look expired that are not (F39)."""
    return batch_states.c.id.not_in(sorted(batch_ids))


async def renew_lease(connection: AsyncConnection, batch: Batch, lease_until_ms: int) -> None:
    await update_batch(connection, batch, lease_until_ms=lease_until_ms)


async def release_lease(connection: AsyncConnection, batch: Batch) -> None:
    """Give the batch back early; silent when the lease is lost already."""
    mine = and_(batch_states.c.id == batch.id, batch_states.c.fence == batch.fence)
    await connection.execute(update(batch_states).where(mine).values(lease_until_ms=0))


async def postpone(connection: AsyncConnection, batch: Batch, next_try_at_ms: int) -> None:
    await update_batch(connection, batch, next_try_at_ms=next_try_at_ms)


async def release_all_leases(connection: AsyncConnection) -> int:
    """For the one daemon of a SQLite file, at its start: leases of a killed predecessor end at once, on how many."""
    await connection.execute(update(chores).values(lease_until_ms=0))
    held = update(batch_states).where(ACTIVE_ROWS, batch_states.c.lease_until_ms > 0).values(lease_until_ms=0)
    return int((await connection.execute(held)).rowcount)


async def update_batch(connection: AsyncConnection, batch: Batch, **values: Any) -> None:  # noqa: ANN401
    """Write columns of a batch we hold. Raises LeaseLost when somebody else does."""
    mine = and_(batch_states.c.id == batch.id, batch_states.c.fence == batch.fence)
    changed = update(batch_states).where(mine).values(**storable(connection, values))
    if (await connection.execute(changed)).rowcount != 1:
        raise LeaseLost(f"batch {batch.key}: the lease is lost")


async def move_batch(
    connection: AsyncConnection,
    batch: Batch,
    after: BatchStatus,
    by: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Move a batch we hold to `after` as stage `by`, writing `values` with it. Raises LeaseLost when it is not ours."""
    legal = before(after, by, BATCH_MOVES)
    if after in BATCH_ENDS:
        values["lease_until_ms"] = 0
    mine = and_(batch_states.c.id == batch.id, batch_states.c.fence == batch.fence, batch_states.c.status.in_(legal))
    moved = update(batch_states).where(mine).values(status=after, **storable(connection, values))
    if (await connection.execute(moved)).rowcount != 1:
        raise LeaseLost(f"batch {batch.key}: not ours to move to {after}")
    await announce(connection, MOVED)


@dataclass(frozen=True, slots=True)
class ActiveBatches:
    """Batches that are not over, by lane id and by provider.

    unsent: those the provider has not accepted yet. unproven, by lane: those it may still reject whole (F7).
    packers, by lane: who is filling a batch of it.
    """

    by_lane: Counter[int]
    by_provider: Counter[str]
    unsent: Counter[str]
    unproven: Counter[int]
    packers: defaultdict[int, set[str]]


_UNSENT = (BatchStatus.PACKING, BatchStatus.SEALED, BatchStatus.UPLOADING, BatchStatus.UPLOADED, BatchStatus.CREATING)


async def count_active(connection: AsyncConnection) -> ActiveBatches:
    word: ColumnElement[str] = literal_column("'validating'")
    validating = func.coalesce(func.lower(batch_states.c.remote_status), word) == word
    packer = case((statuses(BatchStatus.PACKING), batch_states.c.lease_owner))
    kinds = (batch_states.c.lane_id, lanes.c.provider, batch_states.c.status, validating, packer)
    counted = (
        select(*kinds, func.count())
        .join(lanes, lanes.c.id == batch_states.c.lane_id)
        .where(text(f"batch_states.{ACTIVE}"))
        .group_by(*kinds)
    )
    active = ActiveBatches(Counter(), Counter(), Counter(), Counter(), defaultdict(set))
    for lane_id, provider, status, unproven, owner, count in await connection.execute(counted):
        if owner is not None:
            active.packers[lane_id].add(owner)
        active.by_lane[lane_id] += count
        active.by_provider[provider] += count
        active.unsent[provider] += count if status in _UNSENT else 0
        active.unproven[lane_id] += count if unproven else 0
    return active
