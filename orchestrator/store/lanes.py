"""Lanes: found or made at admission, served in turn, held back while the account's quota for them is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from orchestrator.store.tables import lanes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.core.model import Lane


async def find_or_make_lane(connection: AsyncConnection, lane: Lane) -> int:
    columns = {
        "provider": lane.provider,
        "endpoint": lane.endpoint,
        "completion_window": lane.completion_window,
        "model": lane.model,
    }
    same = [lanes.c[name] == value for name, value in columns.items()]
    found = (await connection.execute(select(lanes.c.id).where(*same))).scalar_one_or_none()
    if found is not None:
        return int(found)
    return int((await connection.execute(insert(lanes).values(**columns).returning(lanes.c.id))).scalar_one())


async def note_packed(connection: AsyncConnection, lane_id: int, now_ms: int) -> None:
    await connection.execute(update(lanes).where(lanes.c.id == lane_id).values(packed_at_ms=now_ms))


async def count_holds(connection: AsyncConnection, lane_id: int) -> int:
    """How often in a row this lane was held."""
    return int((await connection.execute(select(lanes.c.holds).where(lanes.c.id == lane_id))).scalar_one())


async def hold_lane(connection: AsyncConnection, lane_id: int, until_ms: int, max_bytes: int) -> None:
    """Pack nothing of this lane until then, and no more than `max_bytes` in one file afterwards (F7, F8)."""
    held = update(lanes).where(lanes.c.id == lane_id)
    await connection.execute(held.values(held_until_ms=until_ms, holds=lanes.c.holds + 1, max_bytes=max_bytes))


async def free_lane(connection: AsyncConnection, lane_id: int) -> None:
    """A batch of this lane has ended: its share of the quota is free again."""
    freed = update(lanes).where(lanes.c.id == lane_id, lanes.c.holds > 0)
    await connection.execute(freed.values(held_until_ms=0, holds=0))
