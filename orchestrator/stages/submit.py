"""Submit: upload a batch's file, create the batch, and find out what happened when a reply was lost.

The intent is committed before each call and the fact after it, so that whatever kills us, the next claim of the batch
knows what may already stand at the provider (F1, F2). Nothing that may have been heard is repeated before a look.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.context import Context, Tick, earliest
from orchestrator.core.model import Batch, BatchStatus
from orchestrator.core.outcomes import rejected_file
from orchestrator.core.remote import RemoteBatch, RemoteState
from orchestrator.core.retry import backoff
from orchestrator.errors import AccountBlocked, NotFound, NotSent, ProviderError, Rejected, ReplyLost, Throttled
from orchestrator.folding import left_out
from orchestrator.lease import held, keep_lease, require_lease
from orchestrator.pauses import begin_trial, pause_provider
from orchestrator.quota import hold_back, is_over_quota
from orchestrator.refusals import halve, refuse
from orchestrator.store.batches import ON_OPEN_PROVIDER, get_batch, has_remote, move_batch, statuses, update_batch
from orchestrator.store.providers import clear_pause, list_provider_states, next_resume_ms
from orchestrator.store.queue import cancel_lines, delete_batched_orphans, list_lines, measure_batch, return_lines
from orchestrator.telemetry import record as tell
from orchestrator.upload import LinesChanged, Upload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.api.client import Client

FORBIDDEN = 403
FILE_LOOKS = 2
"""Empty listings after which a file counts as not stored. A second copy costs nothing but space (F2)."""
UPLOADS_IN_VAIN = 6
"""Uploads in a row that left no file in a listing that answers, after which the file's size may be why: halve it."""
SMALL_BYTES = 1_000_000
"""A file that is too small to be halved for its size: an outage of uploads alone would leave very many of them."""
FILE_TRIES = 5
"""Times a batch is refused for a file that is not visible yet before the file is sent again (F3)."""
UNDECIDED_SECONDS = 600.0

DUE = ON_OPEN_PROVIDER & statuses(
    BatchStatus.SEALED, BatchStatus.UPLOADING, BatchStatus.UPLOADED, BatchStatus.CREATING, BatchStatus.REPLACING
)


async def submit(context: Context) -> Tick:
    """Carry one batch as far towards the provider as it goes now."""
    async with held(context, DUE) as batch:
        if isinstance(batch, Tick):
            states = await context.database.read(list_provider_states)
            return Tick(due_ms=earliest(batch.due_ms, next_resume_ms(states, context.now_ms())))
        client = context.clients[batch.lane.provider]
        await begin_trial(context, batch.lane.provider)
        current = batch
        while await _step(context, client, current):
            current = await context.database.read(partial(get_batch, batch_id=batch.id))
    return Tick(1, more=True)


async def _step(context: Context, client: Client, batch: Batch) -> bool:
    """Take the step this batch's status asks for; True when the next one can follow at once."""
    steps: dict[BatchStatus, Callable[[Context, Client, Batch], Awaitable[bool]]] = {
        BatchStatus.SEALED: _upload,
        BatchStatus.UPLOADING: _look_for_file,
        BatchStatus.UPLOADED: _create,
        BatchStatus.CREATING: _look_for_batch,
        BatchStatus.REPLACING: _replace,
    }
    step = steps.get(batch.status)
    return step is not None and await step(context, client, batch)


# ---------------------------------------------------------------- upload


async def _upload(context: Context, client: Client, batch: Batch) -> bool:
    lines, nbytes = await context.database.write(partial(_note_uploading, context=context, batch=batch))
    if not lines:
        return False
    upload, started = Upload(context, batch, nbytes), context.clock()
    try:
        file = await client.upload(batch.file_name, nbytes, upload.chunks())
    except ProviderError as error:
        if isinstance(upload.failure, LinesChanged):
            await _repack(context, batch, "lines changed under it")
            return False
        if upload.failure is not None:
            raise upload.failure from error
        return await _upload_failed(context, batch, error)
    if file.name not in (None, batch.file_name) or file.nbytes not in (None, nbytes):
        lost = ReplyLost(f"POST /files: answered with {file.id}, which is another file: asking the listing")
        return await _upload_failed(context, batch, lost)
    await _note_uploaded(context, batch, file.id)
    seconds = round(context.clock() - started, 3)
    tell("submit.uploaded", batch=batch.id, key=batch.key, file_id=file.id, bytes=nbytes, seconds=seconds)
    return True


async def _wanted(connection: AsyncConnection, context: Context, batch: Batch) -> tuple[int, int]:
    """Lines and bytes that are still in the batch and still wanted: a line cancelled on its way here is never sent."""
    await keep_lease(connection, context, batch)
    await delete_batched_orphans(connection, batch.id)
    await cancel_lines(connection, batch.id, context.now_ms())
    return await measure_batch(connection, batch.id)


async def _note_uploading(connection: AsyncConnection, context: Context, batch: Batch) -> tuple[int, int]:
    lines, nbytes = await _wanted(connection, context, batch)
    answered = (await get_batch(connection, batch.id)).lines_received  # through an earlier batch
    after = BatchStatus.UPLOADING if lines else BatchStatus.DISCARDED
    values = {"lines": lines + answered, "nbytes": nbytes, "empty_looks": 0} if lines else {}
    await move_batch(connection, batch, after, "submit", **values)
    return lines, nbytes


async def _upload_failed(context: Context, batch: Batch, error: ProviderError) -> bool:
    if isinstance(error, ReplyLost):
        await _delay(context, batch, str(error), _pause(context, batch, error.retry_after_seconds))
        return False
    return await _certainly_refused(context, batch, BatchStatus.SEALED, error)


async def _look_for_file(context: Context, client: Client, batch: Batch) -> bool:
    """The reply to an upload is missing: find the file by our name, or send it again (F2)."""
    try:
        found = [f for f in await client.find_files(batch.file_name) if f.nbytes in (None, batch.nbytes)]
    except NotFound:
        found = []
    except ProviderError as error:
        del context.missed[_uploading(batch)]
        return await _look_failed(context, batch, error)
    if found:
        tell("submit.adopted", batch=batch.id, key=batch.key, what="file", remote_id=found[0].id)
        await _note_uploaded(context, batch, found[0].id)
        return True
    if batch.empty_looks + 1 >= FILE_LOOKS and await _halved_for_its_size(context, batch):
        return True
    return await _looked_in_vain(context, batch, "file", FILE_LOOKS, BatchStatus.SEALED)


def _uploading(batch: Batch) -> tuple[int, int, str]:
    return batch.id, 0, batch.key


async def _halved_for_its_size(context: Context, batch: Batch) -> bool:
    """Something on the way may cut whatever is too long for it, without a word: no 413 ever comes (F35)."""
    context.missed[_uploading(batch)] += 1
    uploads = context.missed[_uploading(batch)]
    if uploads < UPLOADS_IN_VAIN or batch.nbytes <= SMALL_BYTES:
        return False
    lines = await context.database.read(partial(list_lines, batch_id=batch.id))
    if len(lines) <= 1:
        return False
    del context.missed[_uploading(batch)]
    reason = f"POST /files: {uploads} uploads in a row got no reply and left no file, though GET /files answers"
    await halve(context, batch, reason, [line.prompt_id for line in lines])
    return True


async def _note_uploaded(context: Context, batch: Batch, file_id: str) -> None:
    del context.missed[_uploading(batch)]
    await _move(
        context, batch, BatchStatus.UPLOADED,
        input_file_id=file_id, uploaded_at_ms=context.now_ms(), tries=0, empty_looks=0, last_error=None,
    )  # fmt: skip


# ---------------------------------------------------------------- create


async def _create(context: Context, client: Client, batch: Batch) -> bool:
    if batch.cancel_requested:
        await _drop_cancelled(context, batch)
        return False
    if not await context.database.write(partial(_note_creating, context=context, batch=batch)):
        return True
    started = context.clock()
    try:
        remote = await client.create_batch(
            batch.input_file_id or "", batch.lane.endpoint, batch.lane.completion_window, batch.key,
            may_send=partial(require_lease, context, batch),
        )  # fmt: skip
    except ProviderError as error:
        return await _create_failed(context, batch, error)
    if await _is_another(context, batch, remote):
        lost = ReplyLost(f"POST /batches: answered with {remote.id}, which is an earlier batch: asking the listing")
        return await _create_failed(context, batch, lost)
    await _accept(context, batch, remote)
    seconds = round(context.clock() - started, 3)
    tell("submit.submitted", batch=batch.id, key=batch.key, remote_batch_id=remote.id, seconds=seconds)
    return False


async def _note_creating(connection: AsyncConnection, context: Context, batch: Batch) -> bool:
    """False when a line was answered elsewhere, cancelled or replaced since the upload: another file is sent then."""
    _, nbytes = await _wanted(connection, context, batch)
    if nbytes != batch.nbytes:
        anew = {"key": context.new_key(), "tries": 0, "input_file_id": None}
        await move_batch(connection, batch, BatchStatus.SEALED, "submit", **anew)
        return False
    await move_batch(connection, batch, BatchStatus.CREATING, "submit", empty_looks=0)
    return True


async def _is_another(context: Context, batch: Batch, remote: RemoteBatch) -> bool:
    """Something on the way may repeat an earlier answer; one that carries our key is ours whatever its id."""
    if batch.key in remote.metadata_values:
        return False
    known = await context.database.read(partial(has_remote, provider=batch.lane.provider, remote_id=remote.id))
    return known or remote.id in batch.abandoned_remote_ids.split()


async def _drop_cancelled(context: Context, batch: Batch) -> None:
    """All of it was cancelled before the batch was made: nothing was paid."""

    async def work(connection: AsyncConnection) -> int:
        count = await cancel_lines(connection, batch.id, context.now_ms())
        await return_lines(connection, batch.id)
        await move_batch(connection, batch, BatchStatus.DISCARDED, "submit")
        return count

    lines = await context.database.write(work)
    tell("submit.cancelled", batch=batch.id, key=batch.key, lines=lines)


async def _create_failed(context: Context, batch: Batch, error: ProviderError) -> bool:
    if isinstance(error, ReplyLost):
        pause = max(context.config.submission.adopt_interval_seconds, error.retry_after_seconds)
        await _delay(context, batch, str(error), pause)
        return False
    if isinstance(error, Rejected | Throttled) and is_over_quota(str(error)):
        await _hold_lane(context, batch, error)
        return False
    if _is_about_file(error) and batch.tries + 1 >= FILE_TRIES:
        await _move(context, batch, BatchStatus.SEALED, key=context.new_key(), tries=0, input_file_id=None)
        return True
    return await _certainly_refused(context, batch, BatchStatus.UPLOADED, error)


async def _hold_lane(context: Context, batch: Batch, error: ProviderError) -> None:
    """Some providers tell at once, not by a batch that fails later (provider limits: Azure, LiteLLM)."""
    now_ms = context.now_ms()
    asked = replace(batch, submitted_at_ms=now_ms, ended_at_ms=now_ms)
    outcome = rejected_file(str(error.status), str(error))

    async def work(connection: AsyncConnection) -> int:
        seconds = await hold_back(connection, context, asked, outcome)
        await move_batch(connection, batch, BatchStatus.DISCARDED, "submit")
        return seconds

    seconds = await context.database.write(work)
    tell("submit.held", batch=batch.id, key=batch.key, lines=batch.lines, pause_seconds=seconds, reason=str(error))


def _is_about_file(error: ProviderError) -> bool:
    """It is not there, or is another account's: the key may have changed since the upload (doubleword-api 2.1)."""
    return isinstance(error, NotFound) or (isinstance(error, AccountBlocked) and error.status == FORBIDDEN)


async def _look_for_batch(context: Context, client: Client, batch: Batch) -> bool:
    """The reply to a creation is missing: adopt what the listing shows, or, after several looks, create again (F1)."""
    if not client.provider.searchable_batches:
        return await _undecided(context, batch, "creation got no reply and cannot be looked up")
    try:
        found = await client.find_batches(batch.key, context.seconds_since(batch.created_at_ms))
    except ProviderError as error:
        return await _look_failed(context, batch, error)
    ours = [remote for remote in found if remote.id not in batch.abandoned_remote_ids.split()]
    if ours:
        await _adopt(context, client, batch, ours)
        return False
    return await _looked_in_vain(context, batch, "batch", context.config.submission.adopt_checks, BatchStatus.UPLOADED)


async def _undecided(context: Context, batch: Batch, reason: str) -> bool:
    """Nothing that can be asked tells whether another batch would be paid for twice: a person has to look."""
    tell("submit.undecided", batch=batch.id, key=batch.key)
    await _delay(context, batch, reason, UNDECIDED_SECONDS)
    return False


async def _adopt(context: Context, client: Client, batch: Batch, found: list[RemoteBatch]) -> None:
    """Take the batch that is furthest on; a surplus one, which should not exist, is cancelled while it still runs."""
    chosen, *surplus = sorted(found, key=_worth)
    for remote in surplus:
        tell("submit.surplus_cancelled", batch=batch.id, key=batch.key, remote_batch_id=remote.id)
        if not remote.state.over:
            require_lease(context, batch)
            with contextlib.suppress(ProviderError):  # said above; the one we need must not wait for it
                await client.cancel_batch(remote.id)
    await _accept(context, batch, chosen)
    tell("submit.adopted", batch=batch.id, key=batch.key, what="batch", remote_id=chosen.id)


def _worth(remote: RemoteBatch) -> tuple[bool, int, int]:
    """The least is worth most: one that did not fail, with the most answers, made first."""
    return remote.state is RemoteState.FAILED, -(remote.completed or 0), remote.created_at_ms or 0


async def _accept(context: Context, batch: Batch, remote: RemoteBatch) -> None:
    await _move(
        context, batch, BatchStatus.SUBMITTED,
        remote_batch_id=remote.id, remote_status=remote.status, output_file_id=remote.output_file_id,
        error_file_id=remote.error_file_id, remote_total=remote.total, remote_expires_at_ms=remote.expires_at_ms,
        submitted_at_ms=context.now_ms(), next_try_at_ms=context.next_poll_ms(), tries=0, empty_looks=0,
        last_error=None,
    )  # fmt: skip
    await _resume(context, batch.lane.provider)


async def _resume(context: Context, provider: str) -> None:
    """A batch was taken: a pause that a refused call began is over; one begun by lines waits for an answered line."""
    if await context.database.write(partial(clear_pause, name=provider, paused_by="call")):
        tell("provider.resumed", provider=provider)


# ---------------------------------------------------------------- replace


async def _replace(context: Context, client: Client, batch: Batch) -> bool:
    """Delete a batch that never left validating, then create it anew from the same file (trap 25)."""
    remote_id = batch.remote_batch_id or ""
    try:
        remote = await client.get_batch(remote_id)
        if remote.state is not RemoteState.VALIDATING:
            await _move(context, batch, BatchStatus.SUBMITTED, tries=0, empty_looks=0)
            return False
        require_lease(context, batch)
        await client.delete_batch(remote_id)
    except NotFound:
        if not await _is_gone(context, client, batch):
            return False
    except ProviderError as error:
        return await _look_failed(context, batch, error)
    abandoned = f"{batch.abandoned_remote_ids} {remote_id}".strip()
    await _move(
        context, batch, BatchStatus.UPLOADED,
        abandoned_remote_ids=abandoned, remote_batch_id=None, remote_status=None, tries=0, empty_looks=0,
    )  # fmt: skip
    tell("submit.replaced", batch=batch.id, key=batch.key, remote_batch_id=remote_id)
    return True


async def _is_gone(context: Context, client: Client, batch: Batch) -> bool:
    """A 404 proves no absence (trap 3): it takes as many as before a creation is repeated, and a listing without it."""
    needed, remote_id = context.config.submission.adopt_checks, batch.remote_batch_id
    if batch.empty_looks + 1 < needed:
        await _looked_in_vain(context, batch, "deleted batch", needed, BatchStatus.REPLACING)
        return False
    if not client.provider.searchable_batches:
        return await _undecided(context, batch, f"GET /batches/{remote_id}: 404, and it cannot be looked up")
    try:
        listed = await client.find_batches(batch.key, context.seconds_since(batch.created_at_ms))
    except ProviderError as error:
        return await _look_failed(context, batch, error)
    if remote_id not in {remote.id for remote in listed}:
        return True
    reason = f"GET /batches/{remote_id}: 404, and yet it is listed"
    await _delay(context, batch, reason, _pause(context, batch, 0))
    return False


# ---------------------------------------------------------------- when a call fails


async def _certainly_refused(context: Context, batch: Batch, back_to: BatchStatus, error: ProviderError) -> bool:
    """The server did not act: step back from the intent, then wait, pause the provider or mend the batch."""
    if isinstance(error, Rejected):
        return await refuse(context, batch, error)
    tries = batch.tries + 1
    if isinstance(error, AccountBlocked):
        await _move(context, batch, back_to, tries=tries, last_error=str(error), last_error_at_ms=context.now_ms())
        await pause_provider(context, batch.lane.provider, str(error), "call")
        return False
    pause = _pause(context, batch, error.retry_after_seconds)
    assert isinstance(error, NotSent | Throttled | NotFound)  # noqa: S101 - the tree in errors.py has no other leaf
    await _move(
        context, batch, back_to,
        tries=tries, next_try_at_ms=context.in_ms(pause), last_error=str(error), last_error_at_ms=context.now_ms(),
    )  # fmt: skip
    _tell_delay(context, batch, str(error), tries, pause)
    return False


async def _look_failed(context: Context, batch: Batch, error: ProviderError) -> bool:
    """A listing that fails proves nothing: look again later."""
    await _delay(context, batch, str(error), _pause(context, batch, error.retry_after_seconds))
    return False


async def _looked_in_vain(context: Context, batch: Batch, what: str, needed: int, back_to: BatchStatus) -> bool:
    looks = batch.empty_looks + 1
    if looks >= needed:
        tell("submit.sent_again", batch=batch.id, key=batch.key, what=what, looks=looks)
        await _move(context, batch, back_to, empty_looks=0)
        return True
    tell("submit.not_found_yet", batch=batch.id, key=batch.key, what=what, looks=looks, needed=needed)
    pause = context.in_ms(context.config.submission.adopt_interval_seconds)
    await context.database.write(partial(update_batch, batch=batch, empty_looks=looks, next_try_at_ms=pause))
    return False


def _pause(context: Context, batch: Batch, asked_seconds: float) -> float:
    """Longer with each failure in a row, at least what the server asked for."""
    retry = context.config.retry
    return max(asked_seconds, backoff(batch.tries, retry.base_seconds, retry.max_seconds, context.dice))


async def _delay(context: Context, batch: Batch, reason: str, pause_seconds: float) -> None:
    tries = batch.tries + 1
    await context.database.write(
        partial(
            update_batch, batch=batch, tries=tries, next_try_at_ms=context.in_ms(pause_seconds),
            last_error=reason, last_error_at_ms=context.now_ms(),
        )
    )  # fmt: skip
    _tell_delay(context, batch, reason, tries, pause_seconds)


def _tell_delay(context: Context, batch: Batch, reason: str, tries: int, pause_seconds: float) -> None:
    others = left_out(context, "submit.delayed", batch, tries)
    if others is not None:
        tell(
            "submit.delayed", batch=batch.id, key=batch.key, provider=batch.lane.provider, reason=reason,
            tries=tries, others=others, pause_seconds=round(pause_seconds, 1),
        )  # fmt: skip


async def _move(context: Context, batch: Batch, after: BatchStatus, **values: Any) -> None:  # noqa: ANN401
    await context.database.write(partial(move_batch, batch=batch, after=after, by="submit", **values))


async def _repack(context: Context, batch: Batch, why: str) -> None:
    async def dissolve(connection: AsyncConnection) -> int:
        count = await return_lines(connection, batch.id, readmit=True)
        await move_batch(connection, batch, BatchStatus.DISCARDED, "submit")
        return count

    lines = await context.database.write(dissolve)
    tell("submit.repacked", batch=batch.id, key=batch.key, lines=lines, why=why)
