"""Lanes: found or made at admission, served in turn, held back while the account's quota for them is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import bindparam, exists, func, insert, select, update

from orchestrator.store.dialect import take_turn
from orchestrator.store.tables import batch_states, lanes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.core.model import Batch, Lane


class Hold(msgspec.Struct, frozen=True):
    """How a lane is held back: `times` in a row (at least 1 once its quota was met), and the most bytes of one file."""

    until_ms: int
    times: int
    max_bytes: int | None


async def find_or_make_lane(connection: AsyncConnection, lane: Lane) -> int:
    columns = {
        "provider": lane.provider,
        "endpoint": lane.endpoint,
        "completion_window": lane.completion_window,
        "model": lane.model,
    }
    found = select(lanes.c.id).where(*(lanes.c[name] == value for name, value in columns.items()))
    lane_id = (await connection.execute(found)).scalar_one_or_none()
    if lane_id is None:
        await take_turn(connection)
        lane_id = (await connection.execute(found)).scalar_one_or_none()
    if lane_id is not None:
        return int(lane_id)
    return int((await connection.execute(insert(lanes).values(**columns).returning(lanes.c.id))).scalar_one())


async def note_packed(connection: AsyncConnection, lane_id: int, now_ms: int) -> None:
    await connection.execute(update(lanes).where(lanes.c.id == lane_id).values(packed_at_ms=now_ms))


_NEXT_RELEASE = select(func.min(lanes.c.held_until_ms)).where(lanes.c.held_until_ms > bindparam("now_ms"))


async def next_release_ms(connection: AsyncConnection, now_ms: int) -> int | None:
    """When the first lane that is held back may go on; None when none is held."""
    release_ms: int | None = (await connection.execute(_NEXT_RELEASE, {"now_ms": now_ms})).scalar_one()
    return release_ms


async def get_hold(connection: AsyncConnection, lane_id: int) -> Hold:
    found = select(lanes.c.held_until_ms, lanes.c.holds, lanes.c.max_bytes).where(lanes.c.id == lane_id)
    return Hold(*(await connection.execute(found)).one())


async def ran_beside(connection: AsyncConnection, batch: Batch) -> bool:
    """Whether another batch of its lane ran while this one was at the provider, and so had part of the quota."""
    other = batch_states.c
    beside = exists().where(
        other.lane_id == batch.lane_id,
        other.id != batch.id,
        other.submitted_at_ms <= batch.ended_at_ms,
        func.coalesce(other.ended_at_ms, batch.ended_at_ms) >= batch.submitted_at_ms,
        func.lower(other.remote_status).not_in(("validating", "failed")),
    )
    return bool((await connection.execute(select(beside))).scalar_one())


async def hold_lane(connection: AsyncConnection, lane_id: int, hold: Hold) -> None:
    """Pack nothing of this lane until then, and no more than `max_bytes` in one file afterwards (F7, F8)."""
    held = update(lanes).where(lanes.c.id == lane_id)
    await connection.execute(
        held.values(held_until_ms=hold.until_ms, holds=hold.times, max_bytes=hold.max_bytes),
    )


async def free_lane(connection: AsyncConnection, lane_id: int, nbytes: int) -> None:
    """A batch of this lane with a file of `nbytes` has run: its share of the quota is free, a larger file may fit."""
    mine = lanes.c.id == lane_id
    await connection.execute(update(lanes).where(mine, lanes.c.holds > 0).values(held_until_ms=0, holds=1))
    larger = 2 * nbytes
    await connection.execute(update(lanes).where(mine, lanes.c.max_bytes < larger).values(max_bytes=larger))
