"""Prompts on their way in: admitting rows, choosing what goes into a batch, reading what is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    text,
    update,
)

from orchestrator.core.model import Lane, Prompt
from orchestrator.core.packing import Waiting
from orchestrator.store.database import execute_many
from orchestrator.store.dialect import among, listed, locked, readable_time, utf8
from orchestrator.store.tables import (
    BATCHED,
    READY,
    UNADMITTED,
    WAITING,
    lanes,
    prompt_states,
    prompts,
    replies,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

PAGE_LINES = 1000
PAGE_BYTES = 1 << 20


class Line(msgspec.Struct, frozen=True, gc=False):
    """Key and size of one line, without its bytes."""

    prompt_id: int
    nbytes: int


class Oversized(msgspec.Struct, frozen=True, gc=False):
    """A row with more text than is read; `nbytes` of it."""

    prompt_id: int
    custom_id: str
    nbytes: int


class Admitted(msgspec.Struct, frozen=True, gc=False):
    prompt_id: int
    lane_id: int
    model: str
    line_bytes: int
    waiting: bool


_PROMPT_COLUMNS = (
    prompts.c.id,
    prompts.c.custom_id,
    *(
        utf8(prompts.c[name]).label(name)
        for name in ("prompt", "system", "body", "model", "endpoint", "completion_window", "provider")
    ),
    readable_time(prompts.c.not_before),
)
SENT_COLUMNS = (
    prompts.c.id,
    prompts.c.custom_id,
    *(utf8(prompts.c[name]).label(name) for name in ("prompt", "system", "body")),
    utf8(prompt_states.c.model).label("model"),
)
"""What becomes the line of an admitted prompt, whose model is known."""


def pages(lines: Sequence[Line]) -> list[tuple[int, int]]:
    """Cut lines into runs of at most PAGE_LINES lines and, beyond a single line, PAGE_BYTES: (start, stop) indexes."""
    found, start, nbytes = [], 0, 0
    for index, line in enumerate(lines):
        if index > start and (index - start >= PAGE_LINES or nbytes + line.nbytes > PAGE_BYTES):
            found.append((start, index))
            start, nbytes = index, 0
        nbytes += line.nbytes
    return [*found, (start, len(lines))] if lines else []


# ---------------------------------------------------------------- admit


_NEXT_WAKE = select(func.min(prompt_states.c.due_at_ms)).where(text(WAITING))


async def next_wake_ms(connection: AsyncConnection) -> int | None:
    """When the first waiting prompt becomes due; None when none waits."""
    wake_ms: int | None = (await connection.execute(_NEXT_WAKE)).scalar_one()
    return wake_ms


async def wake_due(connection: AsyncConnection, now_ms: int) -> int:
    """Prompts whose time has come, and that nobody is editing, become ready; how many."""
    due = select(prompt_states.c.prompt_id).where(text(WAITING), prompt_states.c.due_at_ms <= now_ms).limit(PAGE_LINES)
    free = due.with_for_update(skip_locked=True)
    woken = update(prompt_states).where(prompt_states.c.prompt_id.in_(free)).values(waiting=0)
    return int((await connection.execute(woken)).rowcount)


_LIST_UNADMITTED = (
    select(prompt_states.c.prompt_id, prompt_states.c.line_bytes)
    .where(text(UNADMITTED))
    .order_by(prompt_states.c.prompt_id)
    .limit(PAGE_LINES)
    .with_for_update(skip_locked=True)
)
_IN_RANGE = prompt_states.c.prompt_id.between(bindparam("first_id"), bindparam("last_id"))
_ON_PAGE = among(prompt_states.c.prompt_id, bindparam("page"))
_FITS = prompt_states.c.line_bytes <= bindparam("most")
_UNADMITTED_IDS = select(prompt_states.c.prompt_id).where(text(UNADMITTED), _ON_PAGE, _FITS)
_READ_UNADMITTED = (
    select(*_PROMPT_COLUMNS, prompt_states.c.due_at_ms)
    .join(prompt_states, prompt_states.c.prompt_id == prompts.c.id)
    .where(text(UNADMITTED), _ON_PAGE, _FITS)
    .order_by(prompt_states.c.prompt_id)
)
_LIST_OVERSIZED = (
    select(prompts.c.id, prompts.c.custom_id, prompt_states.c.line_bytes)
    .join(prompt_states, prompt_states.c.prompt_id == prompts.c.id)
    .where(text(UNADMITTED), _ON_PAGE, ~_FITS)
    .with_for_update(of=prompt_states, skip_locked=True)
)
_ORPHANED = ~exists().where(prompts.c.id == prompt_states.c.prompt_id)
_DELETE_ORPHANS = (
    delete(prompt_states).where(text(UNADMITTED), _ON_PAGE, _ORPHANED).returning(prompt_states.c.prompt_id)
)


async def list_unadmitted(connection: AsyncConnection) -> list[Line]:
    """The next rows nobody has looked at, with the size of what the user wrote."""
    return [Line(*row) for row in (await connection.execute(_LIST_UNADMITTED)).all()]


async def read_unadmitted(
    connection: AsyncConnection, prompt_ids: Sequence[int], most_bytes: int
) -> list[tuple[Prompt, int]]:
    """Those of these rows with at most so much text, and when they are due (ms); held, so that none is edited."""
    page = {"page": listed(connection, prompt_ids), "most": most_bytes}
    mine = await locked(connection, _UNADMITTED_IDS, prompt_states, page)
    rows = (await connection.execute(_READ_UNADMITTED, page)).all()
    return [(Prompt(*row[:-1]), row[-1]) for row in rows if mine is None or row[0] in mine]


async def list_oversized(connection: AsyncConnection, prompt_ids: Sequence[int], most_bytes: int) -> list[Oversized]:
    """The others of them, whose text is not read; held as well."""
    page = {"page": listed(connection, prompt_ids), "most": most_bytes}
    return [Oversized(*row) for row in await connection.execute(_LIST_OVERSIZED, page)]


async def delete_orphans(connection: AsyncConnection, prompt_ids: Sequence[int]) -> int:
    """Of these states those whose row is gone without its trigger (`INSERT OR REPLACE`), with replies; how many."""
    page = {"page": listed(connection, prompt_ids)}
    return await delete_replies_of(connection, (await connection.execute(_DELETE_ORPHANS, page)).scalars().all())


_DELETE_REPLIES = delete(replies).where(among(replies.c.prompt_id, bindparam("gone")))


async def delete_replies_of(connection: AsyncConnection, prompt_ids: Sequence[int]) -> int:
    """Delete what came back for prompts that are gone; of how many."""
    if prompt_ids:
        await connection.execute(_DELETE_REPLIES, {"gone": listed(connection, prompt_ids)})
    return len(prompt_ids)


_ADMIT = (
    update(prompt_states)
    .where(text(UNADMITTED), prompt_states.c.prompt_id == bindparam("of"))
    .values(
        lane_id=bindparam("lane"), model=bindparam("named"), line_bytes=bindparam("size"), waiting=bindparam("later")
    )
)


async def admit_prompts(connection: AsyncConnection, admitted: Sequence[Admitted]) -> None:
    rows = [
        {
            "of": one.prompt_id,
            "lane": one.lane_id,
            "named": one.model,
            "size": one.line_bytes,
            "later": int(one.waiting),
        }
        for one in admitted
    ]
    await execute_many(connection, _ADMIT, rows)


# ---------------------------------------------------------------- pack


@dataclass(frozen=True, slots=True)
class ReadyLane:
    """`max_bytes` is what fits the account's quota for this lane, None until it was exceeded (F7).

    over_quota: it was exceeded before, so that one batch after the other finds out whether there is room again.
    """

    id: int
    lane: Lane
    waiting: Waiting
    max_bytes: int | None
    over_quota: bool


_OF_LANE = and_(text(READY), prompt_states.c.lane_id == lanes.c.id)
_HEAD = (
    select(prompt_states.c.line_bytes, prompt_states.c.due_at_ms)
    .where(_OF_LANE)
    .order_by(prompt_states.c.priority.desc(), prompt_states.c.prompt_id)
    .limit(bindparam("count_to"))
    .correlate(lanes)
    .subquery()
)


def _summed(what: ColumnElement[Any]) -> ColumnElement[Any]:
    return select(what).select_from(_HEAD).scalar_subquery()


_LIST_READY_LANES = (
    select(
        lanes.c.id,
        lanes.c.max_bytes,
        lanes.c.holds,
        _summed(func.count()),
        _summed(func.sum(_HEAD.c.line_bytes)),
        _summed(func.min(_HEAD.c.due_at_ms)),
        lanes.c.provider,
        lanes.c.endpoint,
        lanes.c.completion_window,
        lanes.c.model,
    )
    .where(lanes.c.held_until_ms <= bindparam("now_ms"), exists().where(_OF_LANE))
    .order_by(lanes.c.packed_at_ms, lanes.c.id)
)


async def list_ready_lanes(connection: AsyncConnection, count_to: int, now_ms: int) -> list[ReadyLane]:
    """Lanes in which something is ready, the one packed longest ago first; lines are counted up to `count_to`.

    The cost grows with the number of lanes and with `count_to`, never with the length of the queue.
    """
    rows = await connection.execute(_LIST_READY_LANES, {"count_to": count_to, "now_ms": now_ms})
    return [_ready_lane(row) for row in rows]


def _ready_lane(row: Sequence[Any]) -> ReadyLane:
    lane_id, max_bytes, holds, lines, nbytes, oldest_ms, *lane = row
    return ReadyLane(lane_id, Lane(*lane), Waiting(lines, nbytes or 0, oldest_ms or 0), max_bytes, holds > 0)


_LIST_READY = (
    select(prompt_states.c.prompt_id, prompt_states.c.line_bytes)
    .where(text(READY), prompt_states.c.lane_id == bindparam("of_lane"))
    .order_by(prompt_states.c.priority.desc(), prompt_states.c.prompt_id)
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True)
)


async def list_ready(connection: AsyncConnection, lane_id: int, count: int) -> list[Line]:
    """The first ready lines of a lane: higher priority first, then older."""
    rows = (await connection.execute(_LIST_READY, {"of_lane": lane_id, "count": count})).all()
    return [Line(*row) for row in rows]


_TAKE = (
    update(prompt_states)
    .where(prompt_states.c.status == "queued", among(prompt_states.c.prompt_id, bindparam("taken")))
    .values(status="batched", batch_id=bindparam("into"))
)


async def take_into_batch(connection: AsyncConnection, batch_id: int, lines: Sequence[Line]) -> int:
    """Move prompts that `list_ready` holds into a batch, by one statement; how many were still there.

    All that makes them ready is not asked again: PostgreSQL would walk all that are, until it has analyzed the table.
    """
    taken = listed(connection, [line.prompt_id for line in lines])
    return int((await connection.execute(_TAKE, {"taken": taken, "into": batch_id})).rowcount)


async def admit_again(connection: AsyncConnection, lane_id: int) -> int:
    """Send up to PAGE_LINES ready prompts of a lane back to admission (its provider left the settings); how many."""
    some = select(prompt_states.c.prompt_id).where(text(READY), prompt_states.c.lane_id == lane_id).limit(PAGE_LINES)
    free = some.with_for_update(skip_locked=True)
    sent = update(prompt_states).where(prompt_states.c.prompt_id.in_(free)).values(lane_id=None)
    return int((await connection.execute(sent)).rowcount)


# ---------------------------------------------------------------- what a batch holds


def _in_batch(batch_id: int | BindParameter[int]) -> tuple[ColumnElement[bool], ...]:
    return (text(BATCHED), prompt_states.c.batch_id == batch_id)  # type: ignore[return-value]


_LIST_LINES = (
    select(prompt_states.c.prompt_id, prompt_states.c.line_bytes)
    .where(*_in_batch(bindparam("of_batch")))
    .order_by(prompt_states.c.prompt_id)
)
_LIST_NEXT_LINES = _LIST_LINES.where(prompt_states.c.prompt_id >= bindparam("first_id")).limit(PAGE_LINES)
_MEASURE = select(func.count(), func.coalesce(func.sum(prompt_states.c.line_bytes), 0)).where(
    *_in_batch(bindparam("of_batch"))
)
_READ_BATCHED = (
    select(*SENT_COLUMNS)
    .join(prompt_states, prompt_states.c.prompt_id == prompts.c.id)
    .where(*_in_batch(bindparam("of_batch")), _IN_RANGE)
    .order_by(prompt_states.c.prompt_id)
)


async def list_lines(connection: AsyncConnection, batch_id: int) -> list[Line]:
    """Every line still in the batch, in the order of its file: by prompt id. Takes 10 MB for 50,000."""
    return [Line(*row) for row in await connection.execute(_LIST_LINES, {"of_batch": batch_id})]


async def list_next_lines(connection: AsyncConnection, batch_id: int, first_id: int) -> list[Line]:
    """The first PAGE_LINES of them, from prompt `first_id` on."""
    rows = (await connection.execute(_LIST_NEXT_LINES, {"of_batch": batch_id, "first_id": first_id})).all()
    return [Line(*row) for row in rows]


async def measure_batch(connection: AsyncConnection, batch_id: int) -> tuple[int, int]:
    """How many lines are still in the batch, and their bytes."""
    lines, nbytes = (await connection.execute(_MEASURE, {"of_batch": batch_id})).one()
    return lines, int(nbytes)


async def read_batched(connection: AsyncConnection, batch_id: int, first_id: int, last_id: int) -> list[Prompt]:
    """What is sent of the rows of that range which are in the batch; the model is the one each was admitted with."""
    found = {"of_batch": batch_id, "first_id": first_id, "last_id": last_id}
    return [Prompt(*row) for row in (await connection.execute(_READ_BATCHED, found)).all()]


async def list_batched_of_models(connection: AsyncConnection, batch_id: int, models: Sequence[str]) -> list[int]:
    """Ids of the batch's prompts that ask for one of these models."""
    found = select(prompt_states.c.prompt_id).where(*_in_batch(batch_id), prompt_states.c.model.in_(list(models)))
    return [prompt_id for (prompt_id,) in await connection.execute(found.order_by(prompt_states.c.prompt_id))]


async def models_in(connection: AsyncConnection, batch_id: int) -> list[str]:
    found = select(prompt_states.c.model).where(*_in_batch(batch_id)).distinct()
    return [model for (model,) in await connection.execute(found)]


async def model_of(connection: AsyncConnection, prompt_id: int) -> str | None:
    found = select(prompt_states.c.model).where(prompt_states.c.prompt_id == prompt_id)
    return (await connection.execute(found)).scalar_one_or_none()


async def move_lines(connection: AsyncConnection, batch_id: int, from_id: int, to_batch_id: int) -> int:
    """Give the lines from prompt `from_id` on to another batch (a split); how many."""
    later = update(prompt_states).where(*_in_batch(batch_id), prompt_states.c.prompt_id >= from_id)
    return int((await connection.execute(later.values(batch_id=to_batch_id))).rowcount)


async def return_lines(connection: AsyncConnection, batch_id: int, *, readmit: bool = False) -> int:
    """Put every line of a batch back into the queue unharmed, ready at once; how many."""
    values: dict[str, Any] = {"status": "queued", "batch_id": None, "waiting": 0}
    if readmit:
        values["lane_id"] = None
    back = update(prompt_states).where(*_in_batch(batch_id)).values(**values)
    return int((await connection.execute(back)).rowcount)


async def cancel_lines(connection: AsyncConnection, batch_id: int, now_ms: int) -> int:
    """End those lines of a batch that was never created which are marked so as cancelled; how many."""
    ended = update(prompt_states).where(*_in_batch(batch_id), prompt_states.c.cancelling == 1)
    values = {"status": "cancelled", "batch_id": None, "finished_at_ms": now_ms}
    return int((await connection.execute(ended.values(**values))).rowcount)


async def delete_batched_orphans(connection: AsyncConnection, batch_id: int) -> int:
    """States in this batch whose row was replaced under them (`INSERT OR REPLACE`), with replies; how many."""
    gone = delete(prompt_states).where(*_in_batch(batch_id), _ORPHANED).returning(prompt_states.c.prompt_id)
    return await delete_replies_of(connection, (await connection.execute(gone)).scalars().all())
