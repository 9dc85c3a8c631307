"""Ended prompts that the user wants tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from orchestrator.core.model import PromptStatus
from orchestrator.core.states import PROMPT_MOVES, before
from orchestrator.store.tables import LAST_REPLY, prompt_states, prompts, replies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

PAGE_ROWS = 1000
RETRYABLE = before(PromptStatus.QUEUED, "user", PROMPT_MOVES)


@dataclass(frozen=True, slots=True)
class Selection:
    """Ended prompts for which all that is given holds; None and empty hold for every prompt."""

    statuses: tuple[PromptStatus, ...]
    tag: str | None = None
    faults: tuple[str, ...] = ()
    custom_ids: tuple[str, ...] = ()


async def list_selected(connection: AsyncConnection, selection: Selection, first_id: int) -> list[int]:
    """The next PAGE_ROWS prompts that are selected, in the order of their id."""
    found = select(prompt_states.c.prompt_id).where(
        prompt_states.c.prompt_id >= first_id, prompt_states.c.status.in_(selection.statuses)
    )
    found = found.join(prompts, prompts.c.id == prompt_states.c.prompt_id)  # a replaced row leaves its state behind
    if selection.tag is not None:
        found = found.where(prompts.c.tag == selection.tag)
    if selection.custom_ids:
        found = found.where(prompts.c.custom_id.in_(selection.custom_ids))
    if selection.faults:
        found = found.join(replies, LAST_REPLY).where(replies.c.fault.in_(selection.faults))
    rows = await connection.execute(found.order_by(prompt_states.c.prompt_id).limit(PAGE_ROWS))
    return [prompt_id for (prompt_id,) in rows]


async def requeue(connection: AsyncConnection, prompt_ids: Sequence[int], statuses: Sequence[PromptStatus]) -> int:
    """Queue those of these prompts that still have one of the statuses; how many."""
    again = update(prompt_states).where(prompt_states.c.prompt_id.in_(prompt_ids), prompt_states.c.status.in_(statuses))
    return int((await connection.execute(again.values(status=PromptStatus.QUEUED))).rowcount)


async def statuses_of(connection: AsyncConnection, custom_ids: Sequence[str]) -> dict[str, str]:
    """Status by custom_id; ids that no prompt has are left out."""
    found = select(prompts.c.custom_id, prompt_states.c.status).join(
        prompt_states, prompt_states.c.prompt_id == prompts.c.id
    )
    rows = await connection.execute(found.where(prompts.c.custom_id.in_(custom_ids)))
    return {row[0]: row[1] for row in rows}
