"""Settle: close a batch that is over, once every one of its lines has an outcome.

Received = done + failed + resent. Lines that stand in neither file after the files were read once more from the start,
some time later, are gone: they go back to the queue without using up an attempt (F11, F18; doubleword-api 10, trap 5).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.context import IDLE, Context, Tick
from orchestrator.core.model import Batch, BatchStatus, Fault, PromptStatus
from orchestrator.core.outcomes import Outcome, silence
from orchestrator.core.remote import RemoteState, state_of
from orchestrator.core.retry import backoff
from orchestrator.lease import held
from orchestrator.recording import refused, settled
from orchestrator.store.batches import get_batch, move_batch, statuses, update_batch
from orchestrator.store.lanes import count_holds, free_lane, hold_lane
from orchestrator.store.queue import list_lines, return_lines
from orchestrator.store.replies import count_members, get_members, list_members, record
from orchestrator.store.tables import batch_states
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

PAGE = 1000
HOLD_SECONDS, HOLD_MAX_SECONDS = 300.0, 4800.0
_HELD_BACK = ("token_limit_exceeded", "enqueued_token")

DUE = statuses(BatchStatus.ENDED) & batch_states.c.collect_due.is_(False)


async def settle(context: Context) -> Tick:
    """Close, or send back for another reading, the batch that ended longest ago."""
    async with held(context, DUE) as batch:
        if batch is None:
            return IDLE
        left = await context.database.read(partial(count_members, batch_id=batch.id))
        if left and _over_quota(batch, left):
            await _hold_lane(context, batch)
        elif left and _never_ran(batch, left):
            await _drop_named_lines(context, batch)
            await _give_back(context, batch, Fault.MISSING, "the provider rejected the file before running it")
        elif left and (not batch.rereads or batch.reread_news):
            await _read_again(context, batch, left)
            return Tick(1, more=True)
        elif left:
            await _give_back(context, batch, *_silence_means(batch, left))
        await _close(context, batch)
    return Tick(1, more=True)


def _never_ran(batch: Batch, left: int) -> bool:
    """The provider rejected the whole file after taking it, and said why (F7, F22)."""
    failed = state_of(batch.remote_status or "") is RemoteState.FAILED
    return failed and left == batch.lines and not batch.remote_completed and batch.remote_errors is not None


def _over_quota(batch: Batch, left: int) -> bool:
    """Refused for the tokens already waiting there: the batch's fault, not its lines' (F7)."""
    return _never_ran(batch, left) and any(word in (batch.remote_errors or "") for word in _HELD_BACK)


async def _hold_lane(context: Context, batch: Batch) -> None:
    """Put every line back unharmed, and send smaller files, later or when a batch of this lane ends (F7, F8)."""

    async def work(connection: AsyncConnection) -> float:
        earlier = await count_holds(connection, batch.lane_id)
        seconds = backoff(earlier, HOLD_SECONDS, HOLD_MAX_SECONDS, context.dice)
        await hold_lane(connection, batch.lane_id, context.in_ms(seconds), max(1, batch.nbytes // 2))
        returned = await return_lines(connection, batch.id)
        await update_batch(connection, batch, lines_resent=batch_states.c.lines_resent + returned)
        return seconds

    seconds = await context.database.write(work)
    tell("settle.held", batch=batch.id, key=batch.key, lines=batch.lines, pause_seconds=round(seconds))


def _silence_means(batch: Batch, left: int) -> tuple[Fault, str]:
    state = state_of(batch.remote_status or "")
    if state is RemoteState.EXPIRED:
        return Fault.EXPIRED, "the batch expired before this line was answered"
    if state in (RemoteState.CANCELLED, RemoteState.CANCELLING):
        return Fault.CANCELLED_REMOTELY, "the batch was cancelled at the provider before this line was answered"
    if left <= batch.unreadable:
        return Fault.UNREADABLE, "the output holds unreadable lines and none for this prompt"
    return Fault.MISSING, "the batch ended with no line for this prompt in either file"


async def _read_again(context: Context, batch: Batch, missing: int) -> None:
    tell("settle.rereading", batch=batch.id, key=batch.key, missing=missing)
    later = context.in_ms(context.config.collection.quiet_seconds)
    await context.database.write(
        partial(
            update_batch, batch=batch, reread=True, reread_news=0, rereads=batch.rereads + 1, collect_due=True,
            next_try_at_ms=later,
        )
    )  # fmt: skip


async def _give_back(context: Context, batch: Batch, fault: Fault, message: str) -> None:
    """End every line that is left with `fault`, page by page."""
    outcome, resent, failed = silence(fault, message), 0, 0
    while True:
        back, ended = await context.database.write(
            partial(_give_back_page, context=context, batch=batch, outcome=outcome)
        )
        resent, failed = resent + back, failed + ended
        if not back + ended:
            break
    if resent + failed:
        tell(
            "settle.missing", batch=batch.id, key=batch.key, lines=resent + failed, fault=fault.value, resent=resent,
            failed=failed,
        )  # fmt: skip


async def _give_back_page(
    connection: AsyncConnection, context: Context, batch: Batch, outcome: Outcome
) -> tuple[int, int]:
    members = await list_members(connection, batch.id, PAGE)
    entries = [settled(context, member, outcome, batch.id) for member in members]
    await record(connection, entries, context.now_ms())
    resent = sum(entry.status is PromptStatus.QUEUED for entry in entries)
    failed = len(entries) - resent
    columns = batch_states.c
    await update_batch(
        connection, batch, lines_resent=columns.lines_resent + resent, lines_failed=columns.lines_failed + failed
    )
    return resent, failed


async def _drop_named_lines(context: Context, batch: Batch) -> None:
    """Lines that the provider's errors name are to blame; all others go back (F22)."""
    complaints: list[dict[str, Any]] = msgspec.json.decode(batch.remote_errors or "[]")
    named = {e["line"]: e for e in complaints if e.get("line")}
    lines = await context.database.read(partial(list_lines, batch_id=batch.id))
    reasons = {
        lines[number - 1].prompt_id: Outcome(Fault.INVALID, None, said.get("code"), said.get("message"))
        for number, said in named.items()
        if number <= len(lines)
    }

    async def work(connection: AsyncConnection) -> None:
        members = await get_members(connection, list(reasons))
        entries = [refused(context, member, reasons[member.prompt_id], batch.id) for member in members]
        await record(connection, entries, context.now_ms())
        await update_batch(connection, batch, lines_failed=batch_states.c.lines_failed + len(entries))

    if reasons:
        await context.database.write(work)


async def _close(context: Context, batch: Batch) -> None:
    now_ms = context.now_ms()
    if batch.lines_done:
        await context.database.write(partial(free_lane, lane_id=batch.lane_id))
    values: dict[str, Any] = {"settled_at_ms": now_ms, "last_error": None}
    await context.database.write(partial(move_batch, batch=batch, after=BatchStatus.SETTLED, by="settle", **values))
    closed = await context.database.read(partial(get_batch, batch_id=batch.id))
    tell(
        "settle.settled", batch=batch.id, key=batch.key, remote_status=closed.remote_status, lines=closed.lines,
        done=closed.lines_done, failed=closed.lines_failed, resent=closed.lines_resent,
        seconds=round((now_ms - (closed.submitted_at_ms or now_ms)) / 1000, 3),
    )  # fmt: skip
