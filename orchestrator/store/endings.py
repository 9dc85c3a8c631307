"""Prompts as they end: those that have by the time of their end, a page at a time; later ones by their newest replies.

An end is stamped before it is committed, so that a later look by time could miss it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, func, or_, select, text, tuple_

from orchestrator.core.model import PromptStatus
from orchestrator.store.listing import SHOWN, Chosen, chosen_only, results_view
from orchestrator.store.tables import ENDED as HAS_ENDED
from orchestrator.store.tables import prompt_states, replies
from orchestrator.store.windows import FIRST_ID

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

Place = tuple[int, str, int]
"""Of an end among all of them, as the index has it: when, the status, and the id."""

_PLACE = (prompt_states.c.finished_at_ms, prompt_states.c.status, prompt_states.c.prompt_id)
BEFORE_ALL_ENDS: Place = (0, "", FIRST_ID)


@dataclass(frozen=True, slots=True)
class Replied:
    """Ends of prompts that are done or failed, in their order, and the newest reply there is."""

    ends: list[End]
    newest_reply: int


@dataclass(frozen=True, slots=True)
class Earlier:
    """What had ended when a watch began: up to this place, by no later reply."""

    last: Place
    newest_reply: int


_LAST_REPLY = and_(replies.c.prompt_id == prompt_states.c.prompt_id, replies.c.seq == prompt_states.c.replies)
_LIST_EARLIER = (
    select(*_PLACE)
    .outerjoin(replies, _LAST_REPLY)
    .where(
        text(f"prompt_states.{HAS_ENDED}"),
        tuple_(*_PLACE) > tuple_(bindparam("after_ms"), bindparam("after_status"), bindparam("after_id")),
        tuple_(*_PLACE) <= tuple_(bindparam("last_ms"), bindparam("last_status"), bindparam("last_id")),
        or_(replies.c.id.is_(None), replies.c.id <= bindparam("newest_reply")),
    )
    .order_by(*_PLACE)
    .limit(bindparam("count"))
)


async def list_earlier(connection: AsyncConnection, earlier: Earlier, after: Place, count: int) -> list[Place]:
    """The next prompts that had ended, and have not ended anew since, in the order of ending."""
    given = {
        **dict(zip(("after_ms", "after_status", "after_id"), after, strict=True)),
        **dict(zip(("last_ms", "last_status", "last_id"), earlier.last, strict=True)),
        "newest_reply": earlier.newest_reply,
        "count": count,
    }
    return [(row[0], row[1], row[2]) for row in await connection.execute(_LIST_EARLIER, given)]


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
    """How far the looks have come. `seen` holds the ends that the next look may find again, none before `since_ms`."""

    since_ms: int = 0
    newest_reply: int = sys.maxsize
    seen: set[End] = field(default_factory=set)
    cancelled: list[End] = field(default_factory=list)
    walked_at: float = 0.0
    walk_due_at: float = 0.0


async def begin(connection: AsyncConnection, watch: Watch) -> Earlier:
    """What has ended so far, on one snapshot with what the looks after it start from."""
    watch.since_ms = int((time.time() - OVERLAP_SECONDS) * 1000)
    await look(connection, watch)
    newest = select(*_PLACE).where(text(HAS_ENDED)).order_by(*(column.desc() for column in _PLACE)).limit(1)
    last = (await connection.execute(newest)).one_or_none()
    return Earlier(BEFORE_ALL_ENDS if last is None else (last[0], last[1], last[2]), watch.newest_reply)


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
