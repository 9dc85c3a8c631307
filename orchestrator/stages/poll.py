"""Poll: look at each submitted batch every 30 to 60 s. A poll that fails changes nothing (F31).

Where many are due, the provider's listing tells which of them show nothing new, a hundred in one call. It may lag, and
is believed in nothing else: every other batch is asked for by itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.context import Context, Tick, shared_name
from orchestrator.core.model import Batch, BatchStatus
from orchestrator.core.polling import (
    Patience,
    Step,
    is_long_over,
    most_completed,
    next_step,
    next_step_when_answered,
    shows_nothing_new,
)
from orchestrator.errors import NotFound, ProviderError, ReplyLost, StoreError
from orchestrator.folding import left_out
from orchestrator.lease import held_together
from orchestrator.store.batches import move_batch, postpone, statuses, update_batch, update_batches
from orchestrator.store.replies import with_members
from orchestrator.store.tables import batch_states
from orchestrator.telemetry import further_tenth
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.api.client import Client
    from orchestrator.core.remote import RemoteBatch

DUE = statuses(BatchStatus.SUBMITTED) & batch_states.c.collect_due.is_(False)
TOGETHER, TOGETHER_SECONDS = 200, 5.0
"""Batches under one claim, and for how long: a claim and its end cost far more than what is read and written of one."""
AT_ONCE = 4
"""Calls to providers at a time."""
LISTED_PER_CALL = 10
"""Batches of a listing that cost as much as one call: so many are read of it for each batch that is due."""
GONE_LOOKS = 12
ASKED_ANYWAY = 0.1
"""Part of the batches that are asked for although the listing shows nothing new, lest it lag for ever."""


@dataclass(slots=True)
class Round:
    """Polls under one claim: what listings show, by our ids; which batches have a line without outcome; until when.

    Of the latter, whether such a line is wanted. And what was learned of batches that go on, as columns; how many do
    not; which crashed.
    """

    listed: dict[int, RemoteBatch]
    unanswered: dict[int, bool]
    next_poll_ms: int
    until: float
    unchanged: list[tuple[Batch, dict[str, Any]]] = field(default_factory=list)
    moved: int = 0
    crashed: list[tuple[Batch, Exception]] = field(default_factory=list)


async def poll(context: Context) -> Tick:
    """Look at the batches whose polls are due longest, and note together what did not change."""
    async with held_together(context, DUE, TOGETHER) as batches:
        if isinstance(batches, Tick):
            return Tick(due_ms=_gathering(context, batches.due_ms))
        found = await _begun(context, batches)
        waiting = iter(batches)
        await asyncio.gather(*(_poll_some(context, waiting, found) for _ in range(AT_ONCE)))
        await context.database.write(partial(update_batches, seen=found.unchanged))
        await _postpone(context, found)
    if found.crashed:
        raise found.crashed[-1][1]
    return Tick(found.moved, more=True)


def _gathering(context: Context, due_ms: int | None) -> int | None:
    """Polls that are due within a few seconds are made together."""
    return None if due_ms is None else max(due_ms, context.in_ms(context.gathering_seconds()))


async def _begun(context: Context, batches: list[Batch]) -> Round:
    listed = dict[int, "RemoteBatch"]()
    by_provider = sorted(batches, key=_provider_of)
    for provider, of_one in groupby(by_provider, _provider_of):
        listed |= await _listed(context, context.clients[provider], list(of_one))
    unanswered = await context.database.read(partial(with_members, batch_ids=[batch.id for batch in batches]))
    return Round(listed, unanswered, context.next_poll_ms(), context.steady() + TOGETHER_SECONDS)


def _provider_of(batch: Batch) -> str:
    return batch.lane.provider


async def _listed(context: Context, client: Client, batches: Sequence[Batch]) -> dict[int, RemoteBatch]:
    """What the listing shows of these, as far as it is worth reading; an error is told by the calls that follow."""
    if len(batches) < LISTED_PER_CALL or not client.provider.searchable_batches:
        return {}
    wanted = {batch.remote_batch_id: batch.id for batch in batches}
    found, looked, until = dict[int, "RemoteBatch"](), 0, context.steady() + TOGETHER_SECONDS
    try:
        async for remote in client.newest_batches(shared_name(batches[0].key)):
            looked += 1
            if remote.id in wanted:
                found[wanted[remote.id]] = remote
            if len(found) == len(wanted) or looked >= LISTED_PER_CALL * len(batches) or context.steady() > until:
                break
    except ProviderError:
        return {}
    return found


async def _poll_some(context: Context, waiting: Iterator[Batch], found: Round) -> None:
    """Where calls take long, the rest is left for the next claim: a stop, and what was learned, must not wait."""
    for batch in waiting:
        try:
            await _poll(context, batch, found)
        except Exception as crash:  # noqa: BLE001 - the others must not wait for it
            found.crashed.append((batch, crash))
            if isinstance(crash, StoreError):
                return
        if context.steady() > found.until:
            return


async def _postpone(context: Context, found: Round) -> None:
    """A poll that crashes is made with the others again, not at once."""
    for batch, crash in found.crashed:
        if not isinstance(crash, StoreError):
            await context.database.write(partial(postpone, batch=batch, next_try_at_ms=context.next_poll_ms()))


async def _poll(context: Context, batch: Batch, found: Round) -> None:
    if not found.unanswered.get(batch.id):
        batch = replace(batch, cancel_requested=True)  # for nobody: what it runs yet is paid for all the same
    client, listed = context.clients[batch.lane.provider], found.listed.get(batch.id)
    if listed is not None and _goes_on(context, batch, listed, found):
        found.unchanged.append((batch, {**_news(context, batch, listed), "next_try_at_ms": found.next_poll_ms}))
        return
    try:
        remote = await client.get_batch(batch.remote_batch_id or "")
    except ProviderError as error:
        await _poll_failed(context, batch, error)
    else:
        del context.missed[_looks_for(batch)]
        if remote.id != batch.remote_batch_id and batch.key not in remote.metadata_values:
            lost = ReplyLost(f"GET /batches/{batch.remote_batch_id}: answered with {remote.id}, which is another batch")
            await _poll_failed(context, batch, lost)
            return
        await _polled(context, client, batch, remote, found)


def _goes_on(context: Context, batch: Batch, listed: RemoteBatch, found: Round) -> bool:
    """Whether a listing is enough to leave the batch as it is."""
    nothing_new = shows_nothing_new(batch, listed) and _step(context, batch, listed, found) is Step.WAIT
    return nothing_new and context.dice() >= ASKED_ANYWAY


def _step(context: Context, batch: Batch, remote: RemoteBatch, found: Round) -> Step:
    settings, provider = context.config, context.clients[batch.lane.provider].provider
    patience = Patience(
        settings.submission.stuck_validating_seconds,
        settings.polling.overdue_seconds,
        provider.partial_output,
        provider.deletable_batches,
    )
    judged = next_step if batch.id in found.unanswered else next_step_when_answered
    return judged(batch, remote, patience, context.now_ms())


async def _polled(context: Context, client: Client, batch: Batch, remote: RemoteBatch, found: Round) -> None:
    step = _step(context, batch, remote, found)
    _tell_change(batch, remote, step)
    news = _news(context, batch, remote)
    if step is not Step.END and not remote.state.over and batch.ended_at_ms is not None:
        news |= {"ended_at_ms": None, "reread": False, "rereads": 0}  # it had not ended at all
    if step is Step.WAIT:
        found.unchanged.append((batch, {**news, "next_try_at_ms": context.next_poll_ms()}))
        _tell_unnamed(batch, remote)
    else:
        await _take(context, client, batch, remote, step, news)
        found.moved += 1


def _news(context: Context, batch: Batch, remote: RemoteBatch) -> dict[str, Any]:
    """What this poll learned, as columns. A file id once known is kept when a reply leaves it out (F4)."""
    errors = [{"code": e.code, "message": e.message, "line": e.line} for e in remote.errors]
    return {
        "remote_status": remote.status,
        "remote_total": remote.total,
        "remote_completed": most_completed(batch, remote),
        "remote_failed": remote.failed,
        "remote_errors": msgspec.json.encode(errors).decode() if errors else None,
        "remote_expires_at_ms": remote.expires_at_ms,
        "output_file_id": remote.output_file_id or batch.output_file_id,
        "error_file_id": remote.error_file_id or batch.error_file_id,
        "polled_at_ms": context.now_ms(),
        "ended_at_ms": batch.ended_at_ms or (context.now_ms() if remote.state.over else None),
        "tries": 0,
    }


async def _take(
    context: Context, client: Client, batch: Batch, remote: RemoteBatch, step: Step, news: dict[str, Any]
) -> None:
    write = context.database.write
    if step is Step.END:
        news["ended_at_ms"] = news["ended_at_ms"] or context.now_ms()
        values = {**news, "collect_due": True, "next_try_at_ms": context.now_ms()}
        await write(partial(move_batch, batch=batch, after=BatchStatus.ENDED, by="poll", **values))
        _tell_end(batch, remote)
    elif step is Step.COLLECT:
        values = {**news, "collect_due": True, "next_try_at_ms": context.now_ms()}
        await write(partial(update_batch, batch=batch, **values))
    elif step is Step.REPLACE:
        values = {**news, "empty_looks": 0, "next_try_at_ms": context.now_ms()}
        await write(partial(move_batch, batch=batch, after=BatchStatus.REPLACING, by="poll", **values))
        minutes = round((context.now_ms() - (batch.submitted_at_ms or 0)) / 60_000)
        tell("poll.stuck", batch=batch.id, key=batch.key, minutes=minutes)
    else:
        await write(partial(update_batch, batch=batch, **news, next_try_at_ms=context.next_poll_ms()))
        await _cancel(context, client, batch)


async def _cancel(context: Context, client: Client, batch: Batch) -> None:
    """Stop it there, for being overdue or unwanted; the next polls harvest what it answered (F12, F14)."""
    facts = {"batch": batch.id, "key": batch.key, "remote_batch_id": batch.remote_batch_id}
    if batch.cancel_requested:
        tell("poll.cancelling", **facts)
    else:
        tell("poll.overdue", **facts)
    try:
        await client.cancel_batch(batch.remote_batch_id or "")
    except ProviderError as error:
        await _poll_failed(context, batch, error)


async def _poll_failed(context: Context, batch: Batch, error: ProviderError) -> None:
    """Only the time of the next look changes; a 404 is held too, since it proves nothing (F32)."""
    if await _is_gone(context, batch, error):
        await _end_without(context, batch, str(error))
        return
    tries = batch.tries + 1
    next_ms = max(context.next_poll_ms(), context.in_ms(error.retry_after_seconds))
    await context.database.write(
        partial(
            update_batch, batch=batch, tries=tries, next_try_at_ms=next_ms, last_error=str(error),
            last_error_at_ms=context.now_ms(),
        )
    )  # fmt: skip
    hint = " (held: it may be another key's, or purged)" if isinstance(error, NotFound) else ""
    others = left_out(context, "poll.failed", batch, tries)
    if others is not None:
        tell(
            "poll.failed", batch=batch.id, key=batch.key, provider=batch.lane.provider, reason=f"{error}{hint}",
            tries=tries, others=others,
        )  # fmt: skip


def _looks_for(batch: Batch) -> tuple[int, int, str]:
    return batch.id, 0, "batch"


async def _is_gone(context: Context, batch: Batch, error: ProviderError) -> bool:
    """Of a batch that nobody wants or whose window is long over: so many 404s in a row, and a listing without it."""
    missed, client = context.missed, context.clients[batch.lane.provider]
    if not isinstance(error, NotFound):
        del missed[_looks_for(batch)]
        return False
    missed[_looks_for(batch)] += 1
    is_over = is_long_over(batch, context.config.polling.overdue_seconds, context.now_ms())
    if missed[_looks_for(batch)] < GONE_LOOKS or not (batch.cancel_requested or is_over):
        return False
    if not client.provider.searchable_batches:
        return batch.cancel_requested
    try:
        listed = await client.find_batches(batch.key, context.seconds_since(batch.created_at_ms))
    except ProviderError:
        return False
    return batch.remote_batch_id not in {remote.id for remote in listed}


async def _end_without(context: Context, batch: Batch, reason: str) -> None:
    """What was learned of its files is read yet; lines in none of them go back, or end where they are not wanted."""
    now_ms = context.now_ms()
    values: dict[str, Any] = {"collect_due": True, "next_try_at_ms": now_ms, "tries": 0}
    values["ended_at_ms"] = batch.ended_at_ms or now_ms
    await context.database.write(partial(move_batch, batch=batch, after=BatchStatus.ENDED, by="poll", **values))
    tell("poll.gone", batch=batch.id, key=batch.key, remote_batch_id=batch.remote_batch_id, reason=reason)


def _tell_unnamed(batch: Batch, remote: RemoteBatch) -> None:
    if remote.state.over and batch.ended_at_ms is None:
        tell("poll.output_unnamed", batch=batch.id, key=batch.key, completed=remote.completed)


def _tell_change(batch: Batch, remote: RemoteBatch, step: Step) -> None:
    """Of what is read next, `collect.received` tells."""
    before = (batch.remote_completed or 0) + (batch.remote_failed or 0)
    ended = (remote.completed or 0) + (remote.failed or 0)
    progress = step is not Step.COLLECT and further_tenth(before, ended, batch.lines)
    if (progress or remote.status != batch.remote_status) and not remote.state.over:
        tell(
            "poll.changed", batch=batch.id, key=batch.key, remote_status=remote.status, total=remote.total,
            completed=remote.completed, failed=remote.failed, received=batch.lines_received,
        )  # fmt: skip


def _tell_end(batch: Batch, remote: RemoteBatch) -> None:
    tell(
        "poll.ended", batch=batch.id, key=batch.key, remote_status=remote.status, total=remote.total,
        completed=remote.completed, failed=remote.failed,
    )  # fmt: skip
