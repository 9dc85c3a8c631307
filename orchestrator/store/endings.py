"""Prompts as they end: those that have by the time of their end, a page at a time; later ones by their newest replies.

An end is stamped before it is committed, so that a later look by time could miss it.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, or_, select, text, tuple_

from orchestrator.core.model import PromptStatus
from orchestrator.store.dialect import commits_in_order
from orchestrator.store.listing import SHOWN, Chosen, chosen_only, results_view
from orchestrator.store.tables import ENDED as HAS_ENDED
from orchestrator.store.tables import LAST_REPLY, prompt_states, replies
from orchestrator.store.windows import FIRST_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

REPLIED = (PromptStatus.DONE, PromptStatus.FAILED)
ENDED = (*REPLIED, PromptStatus.CANCELLED)
OVERLAP_REPLIES = 1000
"""How far each look goes back: SQLite gives ids again when the newest were deleted."""
LOOK_REPLIES = 20_000
"""Looked at by one look; and how far back a watch looks, as it begins, for replies that are not committed yet."""

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
class Gap:
    """Ids of replies, both included, that were not there when later ones were: of a transaction still under way."""

    first: int
    last: int
    noticed_at: float


@dataclass(frozen=True, slots=True)
class Earlier:
    """What had ended when a watch began: up to this place, by no later reply."""

    last: Place
    newest_reply: int


_LIST_EARLIER = (
    select(*_PLACE)
    .outerjoin(replies, LAST_REPLY)
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


_WITHIN = replies.c.id.between(bindparam("first"), bindparam("last"))
_LIST_IDS = select(replies.c.id).where(_WITHIN).order_by(replies.c.id).limit(LOOK_REPLIES)
_LIST_REPLIED = (
    select(*_END)
    .select_from(replies)
    .join(prompt_states, LAST_REPLY)
    .where(_WITHIN, prompt_states.c.status.in_(REPLIED))
)
_NEWEST = select(func.coalesce(func.max(replies.c.id), 0))


async def list_ids(connection: AsyncConnection, first: int, last: int) -> list[int]:
    """The first LOOK_REPLIES replies from `first` to `last`, in order."""
    return [*(await connection.execute(_LIST_IDS, {"first": first, "last": last})).scalars()]


async def list_replied(connection: AsyncConnection, first: int, last: int) -> list[End]:
    """Ends of prompts whose last reply is one of these."""
    rows = await connection.execute(_LIST_REPLIED, {"first": first, "last": last})
    return [(row[0], row[1]) for row in rows]


def gaps_in(ids: Iterable[int], first: int, noticed_at: float) -> list[Gap]:
    """What is missing from `first` to the last of these ids."""
    found = []
    for reply_id in ids:
        if reply_id > first:
            found.append(Gap(first, reply_id - 1, noticed_at))
        first = reply_id + 1
    return found


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
    """How far the looks have come. `seen` holds the ends that the next look may find again, none before `since_ms`.

    Replies become visible out of order: transactions that give ids at the same time are committed one after the other.
    """

    since_ms: int = 0
    newest_reply: int = 0
    gaps: list[Gap] = field(default_factory=list)
    seen: set[End] = field(default_factory=set)
    cancelled: list[End] = field(default_factory=list)
    walked_at: float = 0.0
    walk_due_at: float = 0.0


async def begin(connection: AsyncConnection, watch: Watch) -> Earlier:
    """What has ended so far, on one snapshot with what the looks after it start from."""
    watch.since_ms = int((time.time() - OVERLAP_SECONDS) * 1000)
    watch.newest_reply = await _newest_of_all_before(connection)
    await _walk(connection, watch)
    overlap = await list_replied(connection, watch.newest_reply - OVERLAP_REPLIES + 1, watch.newest_reply)
    watch.seen = {*overlap, *watch.cancelled}
    newest = select(*_PLACE).where(text(HAS_ENDED)).order_by(*(column.desc() for column in _PLACE)).limit(1)
    last = (await connection.execute(newest)).one_or_none()
    return Earlier(BEFORE_ALL_ENDS if last is None else (last[0], last[1], last[2]), watch.newest_reply)


async def _newest_of_all_before(connection: AsyncConnection) -> int:
    """The newest reply before which none is missing; what comes after it is for the looks."""
    newest = await _newest(connection)
    ids = await list_ids(connection, newest - LOOK_REPLIES + 1, newest)
    gaps = _gaps(connection, ids, ids[0], 0.0) if ids else []
    return gaps[0].first - 1 if gaps else newest


async def look(connection: AsyncConnection, watch: Watch) -> list[End]:
    """Ends that are new since the last look, as far as one look goes."""
    found = {*await _look_back(connection, watch), *await _go_on(connection, watch)}
    await _walk(connection, watch)
    found.update(watch.cancelled)
    new = found - watch.seen
    watch.seen = found
    return sorted(new)


async def _look_back(connection: AsyncConnection, watch: Watch) -> list[End]:
    """Ends at places that the looks had come by; what is still missing there is given up after OVERLAP_SECONDS."""
    ends, left = list[End](), list[Gap]()
    for gaps in _neighbours(watch.gaps):
        first, last = gaps[0].first, gaps[-1].last
        ends += await list_replied(connection, first, last)
        ids = await list_ids(connection, first, last)
        left += [each for gap in gaps for each in _left_of(gap, ids)]
    watch.gaps = [gap for gap in left if time.monotonic() - gap.noticed_at < OVERLAP_SECONDS]
    return ends


def _neighbours(gaps: Iterable[Gap]) -> list[list[Gap]]:
    """Gaps that are looked at together, so that many small ones cost no more than a few: deleted rows leave such."""
    found = list[list[Gap]]()
    for gap in gaps:
        if found and gap.first - found[-1][-1].last < OVERLAP_REPLIES:
            found[-1].append(gap)
        else:
            found.append([gap])
    return found


def _left_of(gap: Gap, ids: Sequence[int]) -> list[Gap]:
    filled = ids[bisect_left(ids, gap.first) : bisect_right(ids, gap.last)]
    return gaps_in([*filled, gap.last + 1], gap.first, gap.noticed_at)


async def _go_on(connection: AsyncConnection, watch: Watch) -> list[End]:
    newest = min(watch.newest_reply, await _newest(connection))
    ids = await list_ids(connection, newest + 1, sys.maxsize)
    watch.gaps += _gaps(connection, ids, newest + 1, time.monotonic())
    watch.newest_reply = ids[-1] if ids else newest
    return await list_replied(connection, newest - OVERLAP_REPLIES + 1, watch.newest_reply)


async def _newest(connection: AsyncConnection) -> int:
    return int((await connection.execute(_NEWEST)).scalar_one())


def _gaps(connection: AsyncConnection, ids: Sequence[int], first: int, noticed_at: float) -> list[Gap]:
    return [] if commits_in_order(connection) else gaps_in(ids, first, noticed_at)


async def _walk(connection: AsyncConnection, watch: Watch) -> None:
    if time.monotonic() < watch.walk_due_at:
        return
    started, at = time.monotonic(), time.time()
    since_ms = int(((watch.walked_at or at) - OVERLAP_SECONDS) * 1000)
    watch.cancelled = await list_cancelled(connection, since_ms)
    watch.walked_at = at
    watch.walk_due_at = time.monotonic() + SHARE * (time.monotonic() - started)
