"""Admit: look at each new row once, find its lane and its size on the wire, fail what cannot be sent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.context import Context, Tick
from orchestrator.core.admission import AROUND_BYTES, Placed, most_line_bytes, over_size, place
from orchestrator.core.lines import InvalidPrompt
from orchestrator.core.model import Fault, Lane, Prompt
from orchestrator.core.outcomes import Outcome
from orchestrator.recording import refused
from orchestrator.store.lanes import find_or_make_lane
from orchestrator.store.queue import (
    PAGE_LINES,
    Admitted,
    Line,
    Oversized,
    admit_prompts,
    delete_orphans,
    list_oversized,
    list_unadmitted,
    next_wake_ms,
    pages,
    read_unadmitted,
    wake_due,
)
from orchestrator.store.replies import get_members, record
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection


LOOKS_PER_TICK = 20


class Refused(NamedTuple):
    """A row that cannot be sent as it stands, and why."""

    prompt_id: int
    custom_id: str
    reason: str


async def admit(context: Context) -> Tick:
    """Wake prompts whose time has come, then admit new rows, page by page; one line tells of all of them."""
    due_ms, waiting = await context.database.look(_look)
    woken = await _wake(context, due_ms)
    admitted, rejected, seen = 0, list[tuple[str, str]](), PAGE_LINES
    for look in range(LOOKS_PER_TICK):
        if look:
            _, waiting = await context.database.look(_look)
        for start, stop in pages(waiting):
            page = [line.prompt_id for line in waiting[start:stop]]
            done, bad = await context.database.write(partial(_admit_page, context=context, page=page))
            admitted += done
            rejected += bad
        seen = len(waiting)
        if seen < PAGE_LINES:
            break
    _tell(admitted, rejected)
    _note_backlog(context, behind=seen == PAGE_LINES)
    return Tick(woken + admitted + len(rejected), more=PAGE_LINES in (woken, seen), due_ms=due_ms)


def _note_backlog(context: Context, *, behind: bool) -> None:
    since = context.steady() if context.backlog.since is None else context.backlog.since
    context.backlog.since = since if behind else None


async def _look(connection: AsyncConnection) -> tuple[int | None, list[Line]]:
    """When the next prompt that waits is due, and the rows that nobody has looked at."""
    return await next_wake_ms(connection), await list_unadmitted(connection)


async def _wake(context: Context, due_ms: int | None) -> int:
    """How many prompts became ready because their time has come."""
    now_ms = context.now_ms()
    if due_ms is None or due_ms > now_ms:
        return 0
    return await context.database.write(partial(wake_due, now_ms=now_ms))


async def _admit_page(
    connection: AsyncConnection, context: Context, page: Sequence[int]
) -> tuple[int, list[tuple[str, str]]]:
    """Judge these rows in one transaction, so that no edit comes between look and verdict.

    None that came in between them since: they may be many, and nobody waits long for a transaction.
    """
    await delete_orphans(connection, page)
    most = most_line_bytes(context.rules())
    placed, bad = _judge(context, await read_unadmitted(connection, page, most + AROUND_BYTES))
    bad += _judge_oversized(await list_oversized(connection, page, most + AROUND_BYTES), most)
    lane_ids = {
        lane: await find_or_make_lane(connection, lane) for lane in dict.fromkeys(one.lane for _, _, one in placed)
    }
    now_ms = context.now_ms()
    await admit_prompts(connection, [_admitted(prompt, due, one, lane_ids, now_ms) for prompt, due, one in placed])
    await _fail(connection, context, bad)
    return len(placed), [(row.custom_id, row.reason) for row in bad]


def _judge(context: Context, rows: list[tuple[Prompt, int]]) -> tuple[list[tuple[Prompt, int, Placed]], list[Refused]]:
    rules, defaults = context.rules(), context.defaults()
    placed, bad = list[tuple[Prompt, int, Placed]](), list[Refused]()
    for prompt, due_at_ms in rows:
        try:
            placed.append((prompt, due_at_ms, place(prompt, rules, defaults)))
        except InvalidPrompt as mistake:
            bad.append(Refused(prompt.id, prompt.custom_id, str(mistake)))
    return placed, bad


def _judge_oversized(rows: list[Oversized], most: int) -> list[Refused]:
    """Nobody takes them, and reading one of hundreds of megabytes takes its size several times over."""
    return [Refused(row.prompt_id, row.custom_id, over_size("text", row.nbytes, most, "any provider")) for row in rows]


def _admitted(prompt: Prompt, due_at_ms: int, placed: Placed, lane_ids: dict[Lane, int], now_ms: int) -> Admitted:
    return Admitted(prompt.id, lane_ids[placed.lane], placed.model, placed.line_bytes, due_at_ms > now_ms)


async def _fail(connection: AsyncConnection, context: Context, bad: list[Refused]) -> None:
    reasons = {row.prompt_id: row.reason for row in bad}
    members = await get_members(connection, list(reasons)) if reasons else []
    entries = [
        refused(
            context, member, Outcome(Fault.INVALID, error_code="invalid", error_message=reasons[member.prompt_id]), None
        )
        for member in members
    ]
    await record(connection, entries, context.now_ms())


def _tell(admitted: int, rejected: list[tuple[str, str]]) -> None:
    if admitted:
        tell("admit.admitted", prompts=admitted)
    if rejected:
        custom_id, reason = rejected[0]
        tell("admit.rejected", prompts=len(rejected), example_custom_id=custom_id, example=reason)
