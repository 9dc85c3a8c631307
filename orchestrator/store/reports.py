"""Read-only questions about the whole queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select, text, true

from orchestrator.core.model import PromptStatus
from orchestrator.store.providers import list_provider_states
from orchestrator.store.recent import count_ended
from orchestrator.store.tables import ACTIVE, BATCHED, READY, UNADMITTED, WAITING, batch_states, lanes, prompt_states

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Pulse:
    """Counts that cost only what is still to do and what ended of late, never the length of the history.

    `done` and `failed` ended in the time asked for; `failing_batches` are those whose last call failed; `paused` names
    the providers that are paused.
    """

    queued: int
    batched: int
    active_batches: int
    done: int
    failed: int
    failing_batches: int
    paused: list[str]


async def take_pulse(connection: AsyncConnection, since_ms: int, until_ms: int) -> Pulse:
    queued = sum((await count_queued(connection)).values())
    counted = select(func.count(), func.count().filter(batch_states.c.tries > 0)).where(text(ACTIVE))
    active, failing = (await connection.execute(counted)).one()
    span_ms = max(1, until_ms - since_ms)
    done, failed = [
        sum(await count_ended(connection, status, since_ms, span_ms, since_ms + span_ms))
        for status in (PromptStatus.DONE, PromptStatus.FAILED)
    ]
    paused = sorted(name for name, state in (await list_provider_states(connection)).items() if state.pauses)
    return Pulse(queued, await _count(connection, BATCHED), active, done, failed, failing, paused)


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


_FIRST_OPEN = (
    (prompt_states.c.prompt_id, UNADMITTED),
    (prompt_states.c.lane_id, READY),
    (prompt_states.c.due_at_ms, WAITING),
    (prompt_states.c.batch_id, BATCHED),
    (batch_states.c.status, ACTIVE),
)
"""What the index of these rows begins with. For EXISTS, PostgreSQL walks all that has ended when much is open."""
_IS_OPEN = select(
    or_(*(select(func.min(column)).where(text(rows)).scalar_subquery().is_not(None) for column, rows in _FIRST_OPEN))
)


async def is_idle(connection: AsyncConnection) -> bool:
    """Every prompt has ended and every batch is closed."""
    return not (await connection.execute(_IS_OPEN)).scalar_one()


async def count_by_status(connection: AsyncConnection) -> dict[str, int]:
    """Prompts by status, every status named; walks the whole narrow table."""
    return await count_states(connection, true())


async def count_states(connection: AsyncConnection, which: ColumnElement[bool]) -> dict[str, int]:
    """Not by GROUP BY, for which SQLite sorts all rows in memory: 50 MB for a million."""
    counted = (func.count().filter(prompt_states.c.status == each.value) for each in PromptStatus)
    row = (await connection.execute(select(*counted).select_from(prompt_states).where(which))).one()
    return {each.value: count for each, count in zip(PromptStatus, row, strict=True)}
