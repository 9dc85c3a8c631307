"""Read-only questions about the whole queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, or_, select, text

from orchestrator.core.model import PromptStatus
from orchestrator.store.tables import ACTIVE, BATCHED, READY, UNADMITTED, WAITING, batch_states, lanes, prompt_states

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Pulse:
    """Counts that cost only what is still to do, never the length of the history."""

    queued: int
    batched: int
    active_batches: int


async def take_pulse(connection: AsyncConnection) -> Pulse:
    queued = sum((await count_queued(connection)).values())
    active = select(func.count()).select_from(batch_states).where(text(ACTIVE))
    return Pulse(queued, await _count(connection, BATCHED), int((await connection.execute(active)).scalar_one()))


async def count_queued(connection: AsyncConnection) -> dict[str, int]:
    """Queued prompts: `new` (not looked at yet), `ready` to be packed, and `waiting` for their time."""
    return {
        "new": await _count(connection, UNADMITTED),
        "ready": await _count(connection, READY),
        "waiting": await _count(connection, WAITING),
    }


async def _count(connection: AsyncConnection, condition: str) -> int:
    counted = select(func.count()).select_from(prompt_states).where(text(condition))
    return int((await connection.execute(counted)).scalar_one())


async def list_busy_providers(connection: AsyncConnection) -> list[str]:
    """Providers that batches which are not over belong to."""
    busy = select(lanes.c.provider).join(batch_states, batch_states.c.lane_id == lanes.c.id)
    found = busy.where(text(f"batch_states.{ACTIVE}")).distinct().order_by(lanes.c.provider)
    return [name for (name,) in await connection.execute(found)]


async def is_idle(connection: AsyncConnection) -> bool:
    """Every prompt has ended and every batch is closed."""
    open_prompts = [exists().select_from(prompt_states).where(text(c)) for c in (UNADMITTED, READY, WAITING, BATCHED)]
    open_batches = exists().select_from(batch_states).where(text(ACTIVE))
    return not (await connection.execute(select(or_(*open_prompts, open_batches)))).scalar_one()


async def count_by_status(connection: AsyncConnection) -> dict[str, int]:
    """Prompts by status, every status named; walks the whole narrow table."""
    counted = select(prompt_states.c.status, func.count()).group_by(prompt_states.c.status)
    found: dict[str, int] = {row[0]: row[1] for row in await connection.execute(counted)}
    return {status.value: found.get(status.value, 0) for status in PromptStatus}
