"""What stands in the queue at this moment, for gauges: costs what is still to do, never the length of the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text

from orchestrator.store.tables import (
    ACTIVE,
    BATCHED,
    READY,
    UNADMITTED,
    WAITING,
    batch_states,
    lanes,
    prompt_states,
    provider_states,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Underway:
    """One batch that is not over."""

    provider: str
    completion_window: str
    status: str
    lines: int
    nbytes: int
    lines_received: int
    created_at_ms: int
    submitted_at_ms: int | None
    polled_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Levels:
    """`due_since_ms` is since when the prompt that waits longest might have been sent; None when none may."""

    queued: int
    waiting: int
    batched: int
    ended: int
    due_since_ms: int | None
    batches: list[Underway]
    paused: list[str]


async def read_levels(connection: AsyncConnection) -> Levels:
    """One snapshot. What has ended is what is left of all rows: their number alone is known without a walk."""
    unadmitted, first_unadmitted_ms = await _count(connection, UNADMITTED)
    ready, first_ready_ms = await _count(connection, READY)
    waiting, _ = await _count(connection, WAITING)
    batched, _ = await _count(connection, BATCHED, with_due=False)
    total = int((await connection.execute(select(func.count()).select_from(prompt_states))).scalar_one())
    queued = unadmitted + ready + waiting
    return Levels(
        queued=queued,
        waiting=waiting,
        batched=batched,
        ended=total - queued - batched,
        due_since_ms=min((ms for ms in (first_unadmitted_ms, first_ready_ms) if ms is not None), default=None),
        batches=await _underway(connection),
        paused=await _paused(connection),
    )


async def _count(connection: AsyncConnection, condition: str, *, with_due: bool = True) -> tuple[int, int | None]:
    """How many, and the earliest due time among them; the index that holds them answers both."""
    due = [func.min(prompt_states.c.due_at_ms)] if with_due else []
    row = (await connection.execute(select(func.count(), *due).select_from(prompt_states).where(text(condition)))).one()
    return row[0], row[1] if with_due else None


async def _underway(connection: AsyncConnection) -> list[Underway]:
    columns = batch_states.c
    received = columns.lines_done + columns.lines_failed + columns.lines_resent
    found = select(
        lanes.c.provider, lanes.c.completion_window, columns.status, columns.lines, columns.nbytes, received,
        columns.created_at_ms, columns.submitted_at_ms, columns.polled_at_ms,
    )  # fmt: skip
    found = found.join(lanes, lanes.c.id == columns.lane_id).where(text(f"batch_states.{ACTIVE}"))
    return [Underway(*row) for row in await connection.execute(found)]


async def _paused(connection: AsyncConnection) -> list[str]:
    found = select(provider_states.c.name).where(provider_states.c.pauses > 0)
    return [name for (name,) in await connection.execute(found)]
