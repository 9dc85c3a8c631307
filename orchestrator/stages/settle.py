"""Settle: close a batch that is over, once every one of its lines has an outcome.

Received = done + failed + resent. Lines that stand in neither file after the batch was polled and its files were read
once more from the start, some time later, are gone: they go back to the queue without using up an attempt (F11, F18;
doubleword-api 10, trap 5).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.context import Context, Tick
from orchestrator.core.model import Batch, BatchStatus, Fault, PromptStatus
from orchestrator.core.outcomes import Outcome, rejected_file, silence
from orchestrator.core.remote import RemoteState, state_of
from orchestrator.lease import held
from orchestrator.pauses import pause_provider
from orchestrator.quota import hold_back, is_over_quota
from orchestrator.recording import refused, settled
from orchestrator.store.batches import get_batch, move_batch, statuses, update_batch
from orchestrator.store.lanes import free_lane
from orchestrator.store.queue import list_lines, return_lines
from orchestrator.store.replies import count_members, get_members_of, list_members, record
from orchestrator.store.tables import batch_states
from orchestrator.store.timeline import count_outcomes
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.store.replies import Entry

PAGE = 1000
OWED_SECONDS = 3600.0


class Complaint(msgspec.Struct, frozen=True):
    """One of the provider's errors about a whole file, as `poll` keeps them; `line` is 1-based."""

    code: str | None
    message: str | None
    line: int | None


DUE = statuses(BatchStatus.ENDED) & batch_states.c.collect_due.is_(False)


async def settle(context: Context) -> Tick:
    """Close, or send back for another reading, the batch that ended longest ago."""
    async with held(context, DUE) as batch:
        if isinstance(batch, Tick):
            return batch
        left = await context.database.read(partial(count_members, batch_id=batch.id))
        if left and _never_ran(batch):
            await _take_back(context, batch, left)
        elif left and (not batch.rereads or batch.reread_news or _owes_lines(context, batch)):
            await _look_again(context, batch, left)
            return Tick(1, more=True)
        elif left:
            await _give_up_waiting(context, batch, left)
        await _close(context, batch)
    return Tick(1, more=True)


def _never_ran(batch: Batch) -> bool:
    """The provider rejected the whole file after taking it, and said why (F7, F22)."""
    failed = state_of(batch.remote_status or "") is RemoteState.FAILED
    ran = batch.remote_completed or batch.lines_received
    return failed and not ran and batch.remote_errors is not None


async def _take_back(context: Context, batch: Batch, left: int) -> None:
    """Find out who is to blame for a rejected file: the quota, the model, the lines it names, or the account."""
    complaints = msgspec.json.decode(batch.remote_errors or "[]", type=list[Complaint])
    over_quota = next((said for said in complaints if is_over_quota(f"{said.code} {said.message}")), None)
    if over_quota is not None:
        await _hold_lane(context, batch, over_quota)
        return
    no_model = next((said for said in complaints if said.code == "model_not_found"), None)
    # Line numbers count the file as it was sent: they fit only while no line has left it.
    named = {said.line: said for said in complaints if said.line is not None and said.line <= left == batch.lines}
    if no_model is not None and batch.lane.model:
        outcome = Outcome(Fault.INVALID, None, no_model.code, no_model.message)
        resent, failed = await _give_back(context, batch, outcome, refused)
    elif named:
        outcome = Outcome(Fault.INVALID, None, complaints[0].code, complaints[0].message)
        resent, failed = await _drop_named_lines(context, batch, named)
    else:
        outcome = rejected_file(complaints[0].code, complaints[0].message)
        resent, failed = await _blame_file(context, batch, outcome)
    reason = _said(outcome)
    tell(
        "settle.rejected", batch=batch.id, key=batch.key, lines=batch.lines, fault=outcome.fault, resent=resent,
        failed=failed, reason=reason,
    )  # fmt: skip


async def _blame_file(context: Context, batch: Batch, outcome: Outcome) -> tuple[int, int]:
    """No line is named: the account pauses its provider (F34), anything else costs each line a return."""
    if outcome.fault is not Fault.ACCOUNT:
        return await _give_back(context, batch, outcome)
    returned = await context.database.write(partial(_return_unharmed, batch=batch))
    await pause_provider(context, batch.lane.provider, _said(outcome), "line", batch.submitted_at_ms or 0)
    return returned, 0


def _said(outcome: Outcome) -> str:
    return " ".join(part for part in (outcome.error_code, outcome.error_message) if part)


async def _return_unharmed(connection: AsyncConnection, batch: Batch) -> int:
    returned = await return_lines(connection, batch.id)
    await update_batch(connection, batch, {"lines_resent": returned})
    return returned


async def _hold_lane(context: Context, batch: Batch, said: Complaint) -> None:
    outcome = rejected_file(said.code, said.message)
    seconds = await context.database.write(partial(hold_back, context=context, batch=batch, outcome=outcome))
    tell("settle.held", batch=batch.id, key=batch.key, lines=batch.lines, pause_seconds=seconds)


def _silence_means(batch: Batch, left: int) -> tuple[Fault, str]:
    state = state_of(batch.remote_status or "")
    if state is RemoteState.EXPIRED:
        return Fault.EXPIRED, "the batch expired before this line was answered"
    if state in (RemoteState.CANCELLED, RemoteState.CANCELLING):
        return Fault.CANCELLED_REMOTELY, "the batch was cancelled at the provider before this line was answered"
    if left <= batch.unreadable:
        return Fault.UNREADABLE, "the output holds unreadable lines and none for this prompt"
    return Fault.MISSING, "the batch ended with no line for this prompt in either file"


def _owes_lines(context: Context, batch: Batch) -> bool:
    """More answers are counted than its output has brought, which may lag: they are paid for (F4, F30).

    Or failed lines are, and the file that says why has no name yet.
    """
    since_ms = context.now_ms() - (batch.ended_at_ms or 0)
    answers = (batch.remote_completed or 0) > batch.output_cursor
    failures = batch.error_file_id is None and (batch.remote_failed or 0) > 0
    return (answers or failures) and since_ms < OWED_SECONDS * 1000


async def _look_again(context: Context, batch: Batch, missing: int) -> None:
    """Poll it once more, later, and then read both files from the start: one reply that said "over" may have erred."""
    tell("settle.rereading", batch=batch.id, key=batch.key, missing=missing)
    pause = context.config.collection.quiet_seconds * 2.0 ** min(batch.rereads, 10)
    await context.database.write(
        partial(
            move_batch, batch=batch, after=BatchStatus.SUBMITTED, by="settle", reread=True, reread_news=0,
            rereads=batch.rereads + 1, collect_due=False, next_try_at_ms=context.in_ms(pause),
        )
    )  # fmt: skip


async def _give_up_waiting(context: Context, batch: Batch, left: int) -> None:
    fault, message = _silence_means(batch, left)
    resent, failed = await _give_back(context, batch, silence(fault, message))
    tell(
        "settle.missing", batch=batch.id, key=batch.key, lines=resent + failed, fault=fault.value, resent=resent,
        failed=failed,
    )  # fmt: skip


async def _give_back(
    context: Context, batch: Batch, outcome: Outcome, judged: Callable[..., Entry] = settled
) -> tuple[int, int]:
    """End every line that is left with `outcome`, page by page; how many were resent and how many failed."""
    resent = failed = 0
    while True:
        back, ended = await context.database.write(
            partial(_give_back_page, context=context, batch=batch, outcome=outcome, judged=judged)
        )
        resent, failed = resent + back, failed + ended
        if not back + ended:
            return resent, failed


async def _give_back_page(
    connection: AsyncConnection, context: Context, batch: Batch, outcome: Outcome, judged: Callable[..., Entry]
) -> tuple[int, int]:
    members = await list_members(connection, batch.id, PAGE)
    entries = [judged(context, member, outcome, batch.id) for member in members]
    await record(connection, entries, context.now_ms())
    resent = sum(entry.status is PromptStatus.QUEUED for entry in entries)
    failed = len(entries) - resent
    await update_batch(connection, batch, {"lines_resent": resent, "lines_failed": failed})
    return resent, failed


async def _drop_named_lines(context: Context, batch: Batch, named: dict[int, Complaint]) -> tuple[int, int]:
    """Lines that the provider's errors name are to blame; all others go back at once and unharmed (F22)."""

    async def work(connection: AsyncConnection) -> tuple[int, int]:
        lines = await list_lines(connection, batch.id)
        reasons = {
            lines[number - 1].prompt_id: Outcome(Fault.INVALID, None, said.code, said.message)
            for number, said in named.items()
            if len(lines) == batch.lines
        }
        members = await get_members_of(connection, batch.id, list(reasons))
        entries = [refused(context, member, reasons[member.prompt_id], batch.id) for member in members]
        await record(connection, entries, context.now_ms())
        await update_batch(connection, batch, {"lines_failed": len(entries)})
        return await _return_unharmed(connection, batch), len(entries)

    return await context.database.write(work)


async def _close(context: Context, batch: Batch) -> None:
    now_ms = context.now_ms()
    if not _never_ran(batch):
        await context.database.write(partial(free_lane, lane_id=batch.lane_id, nbytes=batch.nbytes))
    closed, outcomes = await context.database.write(partial(_closed, batch=batch, now_ms=now_ms))
    faults = {name: count for name, count in outcomes.items() if name not in {"done", "waiting"}}
    if closed.lines_failed:
        tell("settle.gave_up", batch=batch.id, key=batch.key, failed=closed.lines_failed, faults=faults or None)
    tell(
        "settle.settled", batch=batch.id, key=batch.key, remote_status=closed.remote_status, lines=closed.lines,
        done=closed.lines_done, failed=closed.lines_failed, resent=closed.lines_resent,
        faults=faults or None, seconds=round((now_ms - (closed.submitted_at_ms or now_ms)) / 1000, 3),
    )  # fmt: skip


async def _closed(connection: AsyncConnection, batch: Batch, now_ms: int) -> tuple[Batch, dict[str, int]]:
    """The batch as it ended, and how often each outcome; read at once, since another daemon may prune it later."""
    values: dict[str, Any] = {"settled_at_ms": now_ms, "last_error": None}
    await move_batch(connection, batch, BatchStatus.SETTLED, "settle", **values)
    return await get_batch(connection, batch.id), await count_outcomes(connection, batch.id)
