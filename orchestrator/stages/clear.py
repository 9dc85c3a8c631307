"""Clear: delete the files of closed batches at the provider, when `retention.remote_files` says so.

Only what this queue made: the provider must say so of each file before it is deleted. A batch is closed when every one
of its lines has its outcome stored, so nothing is read from its files any more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.clocks import tells_ages
from orchestrator.context import Context, Tick
from orchestrator.core.retry import backoff
from orchestrator.errors import NotFound, ProviderError, Rejected
from orchestrator.folding import left_out
from orchestrator.lease import take_on
from orchestrator.store.retention import named_by_open_batches, next_with_files, update_closed
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from orchestrator.api.client import Client
    from orchestrator.core.model import Batch
    from orchestrator.core.remote import RemoteFile

DAY_MS = 86_400_000
LOOK_SECONDS = 60.0
NOT_FOUND_TRIES = 3
"""Looks at a batch that the provider does not know, before its answers' files are left alone."""
RETRY_BASE_SECONDS, RETRY_MAX_SECONDS = 30.0, 3600.0
REPLY_PURPOSE = "batch_"
"""What the purpose of a file begins with that the provider wrote for a batch; an input file's is `batch`."""


async def clear(context: Context) -> Tick:
    """Delete the files of the batch that was made first among those closed for long enough."""
    retention = context.config.retention
    if retention.remote_files != "delete":
        return Tick()
    if not tells_ages(context):
        return Tick(due_ms=context.in_ms(LOOK_SECONDS))
    now_ms = context.now_ms()
    providers = [name for name in context.clients if context.resting.get(name, 0) <= now_ms]
    before_ms = now_ms - retention.remote_files_days * DAY_MS
    look = partial(next_with_files, providers=providers, before_ms=before_ms, now_ms=now_ms)
    batch = await context.database.read(look)
    if batch is None or not await context.database.write(partial(take_on, context=context, chore="clear")):
        return Tick(due_ms=context.in_ms(LOOK_SECONDS))
    try:
        await _clear(context, context.clients[batch.lane.provider], batch)
    except ProviderError as error:
        await _delay(context, batch, error)
    return Tick(1, more=True)


async def _clear(context: Context, client: Client, batch: Batch) -> None:
    """Raises ProviderError when something could not be done now: all of it is repeated then, which does no harm."""
    named = await _named_now(client, batch)
    ids = [file_id for file_id in (batch.output_file_id, batch.error_file_id, batch.input_file_id) if file_id]
    needed = await context.database.read(partial(named_by_open_batches, file_ids=ids))
    deleted, left = 0, list[str]()
    for file_id in dict.fromkeys(ids):
        reason = (
            "a batch that is not over needs it" if file_id in needed else await _delete(client, batch, file_id, named)
        )
        deleted += reason is None
        if reason is not None:
            left.append(f"file {file_id} was left at the provider: {reason}")
            tell("clear.kept", batch=batch.id, key=batch.key, file_id=file_id, reason=reason)
    now_ms = context.now_ms()
    done = partial(
        update_closed, batch=batch, files_deleted_at_ms=now_ms, tries=0, last_error="; ".join(left) or None,
        last_error_at_ms=now_ms if left else None,
    )  # fmt: skip
    await context.database.write(done)
    if deleted:
        tell("clear.deleted", batch=batch.id, key=batch.key, files=deleted)


async def _named_now(client: Client, batch: Batch) -> set[str]:
    """Files of this batch as the provider tells them now; none where it does not know the batch, or not as ours."""
    if batch.remote_batch_id is None:
        return set()
    try:
        remote = await client.get_batch(batch.remote_batch_id)
    except NotFound:
        if batch.tries < NOT_FOUND_TRIES:
            raise
        return set()
    if batch.key not in remote.metadata_values:
        return set()
    return {file_id for file_id in (remote.input_file_id, remote.output_file_id, remote.error_file_id) if file_id}


async def _delete(client: Client, batch: Batch, file_id: str, named: set[str]) -> str | None:
    """Delete a file that is ours; the reason where it is left, None when it is gone."""
    try:
        reason = _foreign(batch, await client.get_file(file_id), file_id, named)
        if reason is None:
            await client.delete_file(file_id)
    except NotFound:
        return None
    except Rejected as error:
        return str(error)
    return reason


def _foreign(batch: Batch, file: RemoteFile, file_id: str, named: set[str]) -> str | None:
    """Why this file may be somebody else's; None when it is ours."""
    if file_id == batch.input_file_id:
        ours = file.name == batch.file_name or (file.name is None and file_id in named)
        return None if ours else f"it is called {file.name}, not {batch.file_name}"
    if file_id not in named:
        return "the provider does not name it for this batch any more"
    if not (file.purpose or REPLY_PURPOSE).startswith(REPLY_PURPOSE):
        return f"it is a file for {file.purpose}, not a batch's answers"
    return None


async def _delay(context: Context, batch: Batch, error: ProviderError) -> None:
    """Later, and until then nothing else of this provider: what it refuses once, it refuses for the others, too."""
    asked = error.retry_after_seconds
    pause = max(asked, backoff(batch.tries, RETRY_BASE_SECONDS, RETRY_MAX_SECONDS, context.dice))
    tries, until_ms = batch.tries + 1, context.in_ms(pause)
    noted = partial(
        update_closed, batch=batch, tries=tries, next_try_at_ms=until_ms, last_error=str(error),
        last_error_at_ms=context.now_ms(),
    )  # fmt: skip
    await context.database.write(noted)
    context.resting[batch.lane.provider] = context.in_ms(max(asked, RETRY_BASE_SECONDS))
    others = left_out(context, "clear.failed", batch, tries)
    if others is not None:
        tell(
            "clear.failed", batch=batch.id, key=batch.key, provider=batch.lane.provider, reason=str(error),
            tries=tries, others=others,
        )  # fmt: skip
