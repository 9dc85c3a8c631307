"""Prompts as they end. No index has the order of ending, so answers and failures are found by their newest replies."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from orchestrator.core.model import PromptStatus
from orchestrator.store.listing import SHOWN, Chosen, chosen_only, results_view
from orchestrator.store.tables import prompt_states, replies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

REPLIED = (PromptStatus.DONE, PromptStatus.FAILED)
ENDED = (*REPLIED, PromptStatus.CANCELLED)
OVERLAP_REPLIES = 1000
"""How far each look goes back: ids become visible out of order, and are given again when the newest was deleted."""

OVERLAP_SECONDS = 60.0
"""A transaction may take so long between stamping an end and committing it."""
SHARE = 20
"""Walking the queue for cancelled prompts, which have no reply to be found by, takes at most this part of the time."""

End = tuple[int, int]
"""When a prompt ended, in Unix milliseconds, and its id: another end of the same prompt is another pair."""

_END = (func.coalesce(prompt_states.c.finished_at_ms, 0), prompt_states.c.prompt_id)


@dataclass(frozen=True, slots=True)
class Replied:
    """Ends of prompts that are done or failed, in their order, and the newest reply there is."""

    ends: list[End]
    newest_reply: int


async def list_ended(connection: AsyncConnection) -> list[End]:
    """Every prompt that has ended, in the order of ending; walks all of them."""
    found = select(*_END).where(prompt_states.c.status.in_(ENDED)).order_by(*_END)
    return [(row[0], row[1]) for row in await connection.execute(found)]


async def list_replied(connection: AsyncConnection, after_reply: int) -> Replied:
    """Prompts that ended with one of the replies after this one, and with some before it."""
    newest = int((await connection.execute(select(func.coalesce(func.max(replies.c.id), 0)))).scalar_one())
    recent = select(replies.c.prompt_id).where(replies.c.id > min(after_reply, newest) - OVERLAP_REPLIES)
    found = select(*_END).where(prompt_states.c.status.in_(REPLIED), prompt_states.c.prompt_id.in_(recent))
    return Replied([(row[0], row[1]) for row in await connection.execute(found.order_by(*_END))], newest)


async def list_cancelled(connection: AsyncConnection, since_ms: int) -> list[End]:
    """Prompts cancelled since, in the order of ending; walks the whole queue."""
    found = select(*_END).where(
        prompt_states.c.status == PromptStatus.CANCELLED, prompt_states.c.finished_at_ms >= since_ms
    )
    return [(row[0], row[1]) for row in await connection.execute(found.order_by(*_END))]


async def read_ended(
    connection: AsyncConnection, prompt_ids: Sequence[int], chosen: Chosen
) -> list[tuple[End, Sequence[Any]]]:
    """The results of those of these prompts that are chosen and still ended, each with its end as of now."""
    found = (
        select(*_END, *SHOWN)
        .join(results_view, results_view.c.id == prompt_states.c.prompt_id)
        .where(prompt_states.c.prompt_id.in_(prompt_ids), prompt_states.c.status.in_(ENDED))
    )
    rows = await connection.execute(chosen_only(found, chosen))
    return [((row[0], row[1]), row[2:]) for row in rows]


@dataclass(slots=True)
class Watch:
    """How far the looks have come. `seen` holds the ends that the next look may find again."""

    newest_reply: int = sys.maxsize
    seen: set[End] = field(default_factory=set)
    cancelled: list[End] = field(default_factory=list)
    walked_at: float = 0.0
    walk_due_at: float = 0.0


async def begin(connection: AsyncConnection, watch: Watch) -> list[End]:
    """All that has ended so far, on one snapshot with what the looks after it start from."""
    await look(connection, watch)
    return await list_ended(connection)


async def look(connection: AsyncConnection, watch: Watch) -> list[End]:
    """Ends that are new since the last look."""
    replied = await list_replied(connection, watch.newest_reply)
    await _walk(connection, watch)
    found = {*replied.ends, *watch.cancelled}
    new = found - watch.seen
    watch.newest_reply, watch.seen = replied.newest_reply, found
    return sorted(new)


async def _walk(connection: AsyncConnection, watch: Watch) -> None:
    if time.monotonic() < watch.walk_due_at:
        return
    started, at = time.monotonic(), time.time()
    since_ms = int(((watch.walked_at or at) - OVERLAP_SECONDS) * 1000)
    watch.cancelled = await list_cancelled(connection, since_ms)
    watch.walked_at = at
    watch.walk_due_at = time.monotonic() + SHARE * (time.monotonic() - started)
