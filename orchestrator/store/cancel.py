"""Prompts that are not wanted any more. What was sent may be running: only the daemon can stop it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, or_, select, text, update

from orchestrator.core.model import BatchStatus, PromptStatus
from orchestrator.store.batches import statuses
from orchestrator.store.tables import BATCHED, batch_states, prompt_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

UNSENT = statuses(BatchStatus.PACKING, BatchStatus.SEALED)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """`at_once` ended now; `sent` are in batches at the provider, `batches` the ids of those batches."""

    at_once: int
    sent: int
    batches: frozenset[int]


async def cancel(connection: AsyncConnection, prompt_ids: Sequence[int], now_ms: int) -> Cancelled:
    """Cancel queued prompts and those in unsent batches; mark sent ones, which end when their line does not succeed.

    The unsent batches are held meanwhile: none of them is sent with a line that is being cancelled. So are the prompts:
    one that is just coming back from a batch would be neither queued for the first update nor sent for the second.
    """
    chosen = prompt_states.c.prompt_id.in_(prompt_ids)
    unsent = list((await connection.execute(select(batch_states.c.id).where(UNSENT).with_for_update())).scalars())
    mine = select(prompt_states.c.prompt_id).where(chosen).order_by(prompt_states.c.prompt_id)
    await connection.execute(mine.with_for_update())
    ready = or_(prompt_states.c.status == PromptStatus.QUEUED, prompt_states.c.batch_id.in_(unsent))
    ended = update(prompt_states).where(chosen, ready)
    values = {"status": PromptStatus.CANCELLED, "batch_id": None, "finished_at_ms": now_ms}
    at_once = (await connection.execute(ended.values(**values))).rowcount
    marked = update(prompt_states).where(chosen, prompt_states.c.status == PromptStatus.BATCHED)
    rows = list(await connection.execute(marked.values(cancelling=1).returning(prompt_states.c.batch_id)))
    return Cancelled(at_once, len(rows), frozenset(batch_id for (batch_id,) in rows))


async def request_cancels(connection: AsyncConnection, batch_ids: Sequence[int]) -> list[int]:
    """Have those of these batches cancelled at the provider in which nobody else waits; their ids.

    One that was still being packed may get lines of others yet: it loses those that are marked before it is sent.
    """
    others = exists().where(
        prompt_states.c.status == PromptStatus.BATCHED,
        prompt_states.c.batch_id == batch_states.c.id,
        prompt_states.c.cancelling == 0,
    )
    emptied = update(batch_states).where(batch_states.c.id.in_(batch_ids), ~UNSENT, ~others)
    rows = await connection.execute(emptied.values(cancel_requested=True).returning(batch_states.c.id))
    return [batch_id for (batch_id,) in rows]


async def count_in(connection: AsyncConnection, batch_ids: Sequence[int]) -> int:
    """How many prompts marked for cancelling are still in these batches."""
    marked = select(func.count()).select_from(prompt_states)
    marked = marked.where(text(BATCHED), prompt_states.c.batch_id.in_(batch_ids), prompt_states.c.cancelling == 1)
    return int((await connection.execute(marked)).scalar_one())
