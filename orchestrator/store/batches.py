"""Batches: claimed under a lease, moved along the table in `core.states`, written only by their holder.

Every write carries the fence of the claim; a holder that lost its lease raises LeaseLost and writes nothing (F40).
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import and_, bindparam, case, func, insert, literal_column, or_, select, text, update

from orchestrator.core.model import Batch, BatchStatus, Lane
from orchestrator.core.states import BATCH_ENDS, BATCH_MOVES, before
from orchestrator.errors import LeaseLost
from orchestrator.store.database import execute_many
from orchestrator.store.dialect import MOVED, among, announce, listed, storable
from orchestrator.store.tables import ACTIVE, batch_states, chores, lanes, provider_states

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import BindParameter, ColumnElement, Row, Select, Update
    from sqlalchemy.ext.asyncio import AsyncConnection

    Dues: TypeAlias = dict[ColumnElement[bool], int | None]
    """For each kind of batch when the first of it can be claimed; None when there is none."""

ACTIVE_ROWS = text(ACTIVE)
NOT_ENDED = tuple(status for status in BatchStatus if status not in BATCH_ENDS)
_BATCH_COLUMNS = [batch_states.c[field.name] for field in fields(Batch) if field.name != "lane"]
_LANE_COLUMNS = [lanes.c.provider, lanes.c.endpoint, lanes.c.completion_window, lanes.c.model]
_GET = (
    select(*_BATCH_COLUMNS, *_LANE_COLUMNS)
    .join(lanes, lanes.c.id == batch_states.c.lane_id)
    .where(batch_states.c.id == bindparam("batch"))
)
_MINE = and_(batch_states.c.id == bindparam("batch"), batch_states.c.fence == bindparam("holding"))
_RELEASE = update(batch_states).where(_MINE).values(lease_until_ms=0)


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


# Building a statement costs more than running it, so each is built once: `where` holds for a stage, what changes from
# one call to the next stands in it as a parameter.


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose lease it is, from when to when (Unix ms), and on how many batches at most."""

    owner: str
    now_ms: int
    until_ms: int
    most: int = 1


async def claim_batches(
    connection: AsyncConnection,
    where: ColumnElement[bool],
    claim: Claim,
    **given: Any,  # noqa: ANN401
) -> list[Batch]:
    """Take the leases of the batches that have been due longest among those matching `where`, in that order.

    `given` are the parameters of `where`, but for the time.
    """
    rows = await connection.execute(_due(where), {"now_ms": claim.now_ms, "most": claim.most, **given})
    batches = [_batch(row) for row in rows]
    if batches:
        claimed = listed(connection, [batch.id for batch in batches])
        await connection.execute(_CLAIM, {"claimed": claimed, "owner": claim.owner, "until_ms": claim.until_ms})
    return [replace(batch, fence=batch.fence + 1) for batch in batches]


_CLAIM = (
    update(batch_states)
    .where(among(batch_states.c.id, bindparam("claimed")))
    .values(lease_owner=bindparam("owner"), lease_until_ms=bindparam("until_ms"), fence=batch_states.c.fence + 1)
)


@functools.lru_cache(maxsize=64)
def _due(where: ColumnElement[bool]) -> Select[Any]:
    now_ms: BindParameter[int] = bindparam("now_ms")
    return (
        select(*_BATCH_COLUMNS, *_LANE_COLUMNS)
        .join(lanes, lanes.c.id == batch_states.c.lane_id)
        .where(text(f"batch_states.{ACTIVE}"), where)
        .where(batch_states.c.next_try_at_ms <= now_ms, batch_states.c.lease_until_ms < now_ms)
        .order_by(batch_states.c.next_try_at_ms)
        .limit(bindparam("most"))
        .with_for_update(of=batch_states, skip_locked=True)
    )


async def next_dues_ms(
    connection: AsyncConnection,
    wheres: Sequence[ColumnElement[bool]],
    **given: Any,  # noqa: ANN401
) -> Dues:
    """When the first batch of each kind can be claimed."""
    found = (await connection.execute(_next_dues(tuple(wheres)), given)).one()
    return dict(zip(wheres, found, strict=True))


@functools.lru_cache(maxsize=64)
def _next_dues(wheres: tuple[ColumnElement[bool], ...]) -> Select[Any]:
    return select(*(_next_due(where).scalar_subquery() for where in wheres))


def _next_due(where: ColumnElement[bool]) -> Select[Any]:
    due, free = batch_states.c.next_try_at_ms, batch_states.c.lease_until_ms + 1
    return select(func.min(case((due > free, due), else_=free))).where(ACTIVE_ROWS, where)


async def get_batch(connection: AsyncConnection, batch_id: int) -> Batch:
    """Raises LeaseLost when it is gone: whoever held it was frozen until another daemon had ended and pruned it."""
    row = (await connection.execute(_GET, {"batch": batch_id})).one_or_none()
    if row is None:
        raise LeaseLost(f"batch {batch_id} is gone")
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


ON_OPEN_PROVIDER = batch_states.c.lane_id.not_in(
    select(lanes.c.id)
    .join(provider_states, provider_states.c.name == lanes.c.provider)
    .where(provider_states.c.resume_at_ms > bindparam("now_ms"))
)
"""Batches whose provider is not paused at `now_ms`."""
OF_PROVIDERS = batch_states.c.lane_id.in_(
    select(lanes.c.id).where(lanes.c.provider.in_(bindparam("providers", expanding=True)))
)
"""Batches of `providers`: one that left the settings cannot be called."""
OTHER_THAN = batch_states.c.id.not_in(bindparam("others", expanding=True))
"""Batches our own process does not work on: when the clock jumps, leases look expired that are not (F39)."""


async def renew_lease(connection: AsyncConnection, batch: Batch, lease_until_ms: int) -> None:
    """Raises LeaseLost when somebody else holds the batch, or nobody can any more: it has ended."""
    if not await _write(connection, batch, {"lease_until_ms": lease_until_ms}, {}, NOT_ENDED):
        raise LeaseLost(f"batch {batch.key}: the lease is lost")


async def release_leases(connection: AsyncConnection, batches: Sequence[Batch]) -> None:
    """Give the batches back early; silent where the lease is lost already."""
    await execute_many(connection, _RELEASE, [{"batch": batch.id, "holding": batch.fence} for batch in batches])


async def postpone(connection: AsyncConnection, batch: Batch, next_try_at_ms: int) -> None:
    await update_batch(connection, batch, next_try_at_ms=next_try_at_ms)


async def release_all_leases(connection: AsyncConnection) -> int:
    """For a daemon that is alone with the queue: leases of a killed predecessor end at once, on how many."""
    await connection.execute(update(chores).values(lease_until_ms=0))
    held = update(batch_states).where(ACTIVE_ROWS, batch_states.c.lease_until_ms > 0).values(lease_until_ms=0)
    return int((await connection.execute(held)).rowcount)


async def update_batches(connection: AsyncConnection, seen: Sequence[tuple[Batch, dict[str, Any]]]) -> None:
    """Write the same columns of several batches we hold. Raises LeaseLost when somebody else holds one of them."""
    if not seen:
        return
    rows = [_row(connection, batch, values) for batch, values in seen]
    if await execute_many(connection, _writing(tuple(seen[0][1]), (), None), rows) != len(rows):
        raise LeaseLost(f"one of {len(rows)} batches: the lease is lost")


async def update_batch(
    connection: AsyncConnection,
    batch: Batch,
    added: Mapping[str, int] | None = None,
    **values: Any,  # noqa: ANN401
) -> None:
    """Write columns of a batch we hold, and add to others. Raises LeaseLost when somebody else does."""
    if not await _write(connection, batch, values, added or {}):
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
    if not await _write(connection, batch, {"status": after, **values}, {}, legal):
        raise LeaseLost(f"batch {batch.key}: not ours to move to {after}")
    await announce(connection, MOVED)


async def _write(
    connection: AsyncConnection,
    batch: Batch,
    values: dict[str, Any],
    added: Mapping[str, int],
    legal: tuple[str, ...] | None = None,
) -> bool:
    """Whether the batch was still ours, and in one of the states `legal` where they are given."""
    row = _row(connection, batch, values) | {f"more_{name}": count for name, count in added.items()}
    written = _writing(tuple(values), tuple(added), legal)
    return bool((await connection.execute(written, row)).rowcount == 1)


def _row(connection: AsyncConnection, batch: Batch, values: dict[str, Any]) -> dict[str, Any]:
    (stored,) = storable(connection, [values])
    return {"batch": batch.id, "holding": batch.fence, **{f"new_{name}": value for name, value in stored.items()}}


@functools.lru_cache(maxsize=128)
def _writing(names: tuple[str, ...], added: tuple[str, ...], legal: tuple[str, ...] | None) -> Update:
    values: dict[str, ColumnElement[Any]] = {name: bindparam(f"new_{name}") for name in names}
    values |= {name: batch_states.c[name] + bindparam(f"more_{name}") for name in added}
    mine = update(batch_states).where(_MINE).values(values)
    return mine if legal is None else mine.where(batch_states.c.status.in_(legal))


async def count_answered_elsewhere(connection: AsyncConnection, batch_ids: Sequence[int]) -> None:
    """Count a line as done for each of these batches, whoever holds it: an earlier batch answered its prompt (F19).

    Where the line comes later all the same, it is a duplicate.
    """
    for batch_id, lines in Counter(batch_ids).items():
        one_more = update(batch_states).values(lines_done=batch_states.c.lines_done + lines)
        await connection.execute(one_more.where(batch_states.c.id == batch_id))


@dataclass(frozen=True, slots=True)
class ActiveBatches:
    """Batches that are not over, by lane id and by provider.

    unsent: those the provider has not accepted yet. unproven, by lane: those it may still reject whole (F7).
    packers, by lane: who is filling a batch of it.
    """

    by_lane: Counter[int] = field(default_factory=Counter)
    by_provider: Counter[str] = field(default_factory=Counter)
    unsent: Counter[str] = field(default_factory=Counter)
    unproven: Counter[int] = field(default_factory=Counter)
    packers: defaultdict[int, set[str]] = field(default_factory=partial(defaultdict, set))


_UNSENT = (BatchStatus.PACKING, BatchStatus.SEALED, BatchStatus.UPLOADING, BatchStatus.UPLOADED, BatchStatus.CREATING)


_VALIDATING = func.coalesce(func.lower(batch_states.c.remote_status), literal_column("'validating'")) == literal_column(
    "'validating'"
)
_PACKER = case((statuses(BatchStatus.PACKING), batch_states.c.lease_owner))
_KINDS = (batch_states.c.lane_id, lanes.c.provider, batch_states.c.status, _VALIDATING, _PACKER)
_COUNT_ACTIVE = (
    select(*_KINDS, func.count())
    .join(lanes, lanes.c.id == batch_states.c.lane_id)
    .where(text(f"batch_states.{ACTIVE}"))
    .group_by(*_KINDS)
)


async def count_active(connection: AsyncConnection) -> ActiveBatches:
    active = ActiveBatches()
    for lane_id, provider, status, unproven, owner, count in await connection.execute(_COUNT_ACTIVE):
        if owner is not None:
            active.packers[lane_id].add(owner)
        active.by_lane[lane_id] += count
        active.by_provider[provider] += count
        active.unsent[provider] += count if status in _UNSENT else 0
        active.unproven[lane_id] += count if unproven else 0
    return active
