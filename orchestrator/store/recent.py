"""What happened of late, found by its time in an index: it costs what happened, never the length of the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, null, select, text

from orchestrator.core.model import BatchStatus
from orchestrator.store.dialect import utf8
from orchestrator.store.tables import BATCHED, batch_states, lanes, prompt_states, prompts, replies

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

FAULTS_LOOKED_AT = 10_000
ORDER = ("packed", "submitted", "ended", "settled")
MESSAGE_CHARACTERS, CONTENT_CHARACTERS = 300, 200

_STEPS = text(
    """
    WITH RECURSIVE steps(start) AS (
        SELECT CAST(:since AS BIGINT) UNION ALL
        SELECT start + CAST(:step AS BIGINT) FROM steps WHERE start + CAST(:step AS BIGINT) < CAST(:until AS BIGINT)
    )
    SELECT (
        SELECT count(*) FROM prompt_states
        WHERE status = :status AND finished_at_ms >= start AND finished_at_ms < start + CAST(:step AS BIGINT)
    ) FROM steps ORDER BY start
    """
)


@dataclass(frozen=True, slots=True)
class FaultGroup:
    """Attempts that failed for the same reason since `since_ms`, and the newest of them as an example.

    `content` is the beginning of that prompt's text, None unless it was asked for.
    """

    fault: str
    status_code: int | None
    error_code: str | None
    attempts: int
    last_at_ms: int
    message: str | None
    custom_id: str | None
    batch_id: int | None
    content: str | None


@dataclass(frozen=True, slots=True)
class Faults:
    """The groups, the most frequent first; `since_ms` is the time from which on every attempt is counted."""

    since_ms: int
    groups: list[FaultGroup]


@dataclass(frozen=True, slots=True)
class Step:
    """One step in the life of a batch that was not dissolved: `packed`, `submitted`, `ended` or `settled`."""

    at_ms: int
    step: str
    batch_id: int
    provider: str
    remote_status: str | None
    lines: int
    done: int
    failed: int
    resent: int


async def count_ended(
    connection: AsyncConnection, status: str, since_ms: int, step_ms: int, until_ms: int
) -> list[int]:
    """How many prompts ended with this status in each step of time."""
    given = {"status": status, "since": since_ms, "step": step_ms, "until": until_ms}
    return [count for (count,) in await connection.execute(_STEPS, given)]


async def count_in_batches(connection: AsyncConnection) -> dict[int, int]:
    """Prompts that wait in each batch for their outcome."""
    waiting = select(prompt_states.c.batch_id, func.count()).where(text(BATCHED)).group_by(prompt_states.c.batch_id)
    return {batch_id: count for batch_id, count in await connection.execute(waiting)}  # noqa: C416 - rows, not pairs


async def count_sent(connection: AsyncConnection, since_ms: int) -> tuple[int, int]:
    """Lines of the batches packed, and of those submitted, since then; what was dissolved unsent is left out."""

    def lines_since(moment: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.coalesce(func.sum(batch_states.c.lines).filter(moment >= since_ms), 0)

    counted = select(lines_since(batch_states.c.created_at_ms), lines_since(batch_states.c.submitted_at_ms))
    packed, submitted = (await connection.execute(counted.where(batch_states.c.status != BatchStatus.DISCARDED))).one()
    return int(packed), int(submitted)


async def count_faults(connection: AsyncConnection, since_ms: int) -> int:
    """Attempts that failed since then."""
    counted = select(func.count()).where(replies.c.fault.is_not(None), replies.c.received_at_ms >= since_ms)
    return int((await connection.execute(counted)).scalar_one())


async def group_faults(connection: AsyncConnection, since_ms: int, limit: int, *, with_content: bool) -> Faults:
    """Failed attempts since then by reason, at most the newest FAULTS_LOOKED_AT of them."""
    newest = (
        select(replies.c.id, replies.c.received_at_ms, replies.c.fault, replies.c.status_code, replies.c.error_code)
        .where(replies.c.fault.is_not(None), replies.c.received_at_ms >= since_ms)
        .order_by(replies.c.received_at_ms.desc())
        .limit(FAULTS_LOOKED_AT)
        .subquery()
    )
    looked_at, oldest = (
        await connection.execute(select(func.count(), func.min(newest.c.received_at_ms)).select_from(newest))
    ).one()
    reason = (newest.c.fault, newest.c.status_code, newest.c.error_code)
    grouped = (
        select(func.count().label("attempts"), func.max(newest.c.id).label("example"))
        .group_by(*reason)
        .order_by(func.count().desc(), func.max(newest.c.id).desc())
        .limit(limit)
        .subquery()
    )
    return Faults(
        since_ms if looked_at < FAULTS_LOOKED_AT else oldest,
        [
            FaultGroup(*[*facts, None if content is None else content.decode(errors="replace")])
            for *facts, content in await connection.execute(_examples(grouped, with_content=with_content))
        ],
    )


def _examples(grouped: Any, *, with_content: bool) -> Any:  # noqa: ANN401 - Core's own types say no more
    r = replies.c
    content = utf8(func.substr(func.coalesce(prompts.c.prompt, prompts.c.body), 1, CONTENT_CHARACTERS))
    shown = (r.fault, r.status_code, r.error_code, grouped.c.attempts, r.received_at_ms)
    message = func.substr(r.error_message, 1, MESSAGE_CHARACTERS)
    return (
        select(*shown, message, prompts.c.custom_id, r.batch_id, content if with_content else null())
        .join(grouped, grouped.c.example == r.id)
        .outerjoin(prompts, prompts.c.id == r.prompt_id)
        .order_by(grouped.c.attempts.desc(), r.id.desc())
    )


async def list_steps(connection: AsyncConnection, limit: int) -> list[Step]:
    """The last steps that batches took, the newest first."""
    b = batch_states.c
    moments = dict(zip(ORDER, (b.created_at_ms, b.submitted_at_ms, b.ended_at_ms, b.settled_at_ms), strict=True))
    found: list[Step] = []
    for step, moment in moments.items():
        shown = (b.id, lanes.c.provider, b.remote_status, b.lines, b.lines_done, b.lines_failed, b.lines_resent)
        newest = (
            select(moment, *shown)
            .join(lanes, lanes.c.id == b.lane_id)
            .where(moment.is_not(None), b.status.not_in((BatchStatus.PACKING, BatchStatus.DISCARDED)))
            .order_by(moment.desc(), b.id.desc())
            .limit(limit)
        )
        found += [Step(at, step, *rest) for at, *rest in await connection.execute(newest)]
    return sorted(found, key=lambda each: (-each.at_ms, -each.batch_id, -ORDER.index(each.step)))[:limit]
