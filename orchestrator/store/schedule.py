"""What waits for a time, brought forward when the clock by which that time was set turns out to have been ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, func, select, text, update

from orchestrator.store.dialect import take_turn
from orchestrator.store.tables import ACTIVE, batch_states, lanes, provider_states

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_TIMES = (batch_states.c.next_try_at_ms, lanes.c.held_until_ms, provider_states.c.resume_at_ms)
_STAMPS = (batch_states.c.created_at_ms, batch_states.c.polled_at_ms, batch_states.c.last_error_at_ms)


async def read_latest_ms(connection: AsyncConnection) -> int:
    """The latest time that a batch which is not over or a pause says to have seen; 0 when there is none."""
    latest = [select(func.max(stamp)).where(text(ACTIVE)) for stamp in _STAMPS]
    latest.append(select(func.max(provider_states.c.paused_at_ms)))
    return max([(await connection.execute(each)).scalar_one() or 0 for each in latest])


async def bring_forward(connection: AsyncConnection, back_ms: int, now_ms: int) -> None:
    """Make everything due as much earlier as the clock was set back. Too early costs a look, too late holds up all."""
    await take_turn(connection)
    for time in _TIMES:
        earlier = case((time - back_ms > now_ms, time - back_ms), else_=now_ms)
        await connection.execute(update(time.table).where(time > now_ms).values({time.name: earlier}))
