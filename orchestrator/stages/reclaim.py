"""Reclaim: a queue that was restored from a backup finds what was sent since then, and pays for none of it again.

Each batch's key begins with the queue's own name, so that the provider's listing tells them; which prompts were in one
stands in its input file. Nothing else runs until several listings over time have shown nothing new.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.context import Context, Tick, key_prefix
from orchestrator.core.lines import InvalidPrompt, Splitter, encode_body
from orchestrator.core.model import BatchStatus
from orchestrator.core.restoring import Request, parse_request, same_question
from orchestrator.errors import NotFound, ProviderError, ReplyLost
from orchestrator.store.restoring import (
    Candidate,
    Known,
    Restored,
    dissolve_unsent,
    find_candidates,
    find_known,
    forget_backup,
    list_used_providers,
    note_look,
    read_name,
    read_restored,
    take_back,
    update_known,
)
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from orchestrator.api.client import Client
    from orchestrator.core.remote import RemoteBatch

PAGE_LINES = 500
BLIND = (
    "provider {}: its listing does not show which batches were sent since the backup: to send their prompts again, "
    "stop the daemon and set queue_state.backed_up_at_ms to NULL"
)
UNKNOWN = (
    "provider {0} is not in the settings, and what was sent there since the backup cannot be found: put its table "
    "[providers.{0}] back, or, to send those prompts again, stop the daemon and set queue_state.backed_up_at_ms to NULL"
)


async def reclaim(context: Context) -> Tick:
    """Look once at what every provider holds of this queue. Raises ProviderError when one cannot tell now."""
    restored = await context.database.read(read_restored)
    if restored is None or context.now_ms() < restored.look_at_ms:
        return Tick(due_ms=None if restored is None else restored.look_at_ms)
    if not restored.look_at_ms:
        backed_up_at = datetime.fromtimestamp(restored.backed_up_at_ms / 1000, UTC).isoformat(timespec="seconds")
        tell("reclaim.begun", backed_up_at=backed_up_at)
    while await context.database.write(dissolve_unsent):
        pass
    news, unreadable = await _look(context, restored)
    looks = 0 if news else restored.looks + 1
    if looks >= context.config.submission.adopt_checks:
        if not await context.database.write(partial(forget_backup, before=restored)):
            return Tick(1)
        for key, remote_id in unreadable:
            tell("reclaim.unreadable", key=key, remote_batch_id=remote_id)
        tell("reclaim.done", unreadable=len(unreadable))
        return Tick(1)
    look_at_ms = context.in_ms(context.config.submission.adopt_interval_seconds)
    await context.database.write(partial(note_look, before=restored, looks=looks, look_at_ms=look_at_ms))
    return Tick(1, due_ms=look_at_ms)


async def _look(context: Context, restored: Restored) -> tuple[int, list[tuple[str, str]]]:
    """How many batches came back, and key and id of those whose lines cannot be known."""
    prefix = key_prefix(await context.database.read(read_name))
    age_seconds = context.seconds_since(restored.backed_up_at_ms)
    news, unreadable = 0, list[tuple[str, str]]()
    for name in await context.database.read(list_used_providers):
        if name not in context.clients:
            raise ProviderError(UNKNOWN.format(name))
        client = context.clients[name]
        for key, remotes in await _by_key(client, prefix, age_seconds):
            try:
                news += await _take(context, client, key, remotes)
            except NotFound:
                unreadable.append((key, remotes[0].id))
    return news, unreadable


async def _by_key(client: Client, prefix: str, age_seconds: float) -> list[tuple[str, list[RemoteBatch]]]:
    """The queue's batches since the backup, the oldest first, so that a prompt ends up in the last one it was in.

    Of several under one key, which should not exist, that which is furthest on comes first.
    """
    if not client.provider.searchable_batches:
        raise ProviderError(BLIND.format(client.provider.name))
    found: defaultdict[str, list[RemoteBatch]] = defaultdict(list)
    for remote in reversed(await client.find_batches_of(prefix, age_seconds)):
        key = next(value for value in sorted(remote.metadata_values) if value.startswith(prefix))
        found[key].append(remote)
    return [(key, sorted(remotes, key=lambda remote: -(remote.completed or 0))) for key, remotes in found.items()]


async def _take(context: Context, client: Client, key: str, remotes: list[RemoteBatch]) -> int:
    """Take back what is not known here; 1 when something was. Raises NotFound when its file is gone."""
    known = await context.database.read(partial(find_known, key=key))
    if known is not None and known.status is not BatchStatus.DISCARDED:
        return await _replaced(context, known, remotes)
    remote = remotes[0]
    if remote.id in context.strangers:
        return 0
    asked = await _prompts_in(context, client, remote)
    if not asked:
        context.strangers.add(remote.id)
        tell("reclaim.stranger", key=key, remote_batch_id=remote.id, lines=remote.total)
        return 0
    values = {**_as_sent(context, remote), "key": key, "lane_id": next(iter(asked.values()))}
    work = partial(take_back, known=known, values=values, prompt_ids=list(asked))
    taken = await context.database.write(work)
    if taken is None:
        return 1
    batch_id, lines = taken
    tell("reclaim.adopted", batch=batch_id, key=key, remote_batch_id=remote.id, lines=lines, total=remote.total)
    return 1


async def _replaced(context: Context, known: Known, remotes: list[RemoteBatch]) -> int:
    """A batch that was deleted at the provider after the backup was made, and created again from the same file."""
    ids = [remote.id for remote in remotes]
    waits = known.status in (BatchStatus.SUBMITTED, BatchStatus.REPLACING)
    if not waits or known.remote_batch_id in ids:
        return 0
    abandoned = f"{known.abandoned_remote_ids} {known.remote_batch_id}".strip()
    anew = {"abandoned_remote_ids": abandoned, "output_cursor": 0, "error_cursor": 0}
    values = {**_as_sent(context, remotes[0]), **anew, "output_first": None, "error_first": None}
    await context.database.write(partial(update_known, known=known, **values))
    return 1


def _as_sent(context: Context, remote: RemoteBatch) -> dict[str, Any]:
    """The columns of a batch that was just created there, as far as the provider tells them now."""
    sent_at_ms = remote.created_at_ms or context.now_ms()
    return {
        "input_file_id": remote.input_file_id,
        "remote_batch_id": remote.id,
        "remote_status": remote.status,
        "output_file_id": remote.output_file_id,
        "error_file_id": remote.error_file_id,
        "remote_total": remote.total,
        "remote_expires_at_ms": remote.expires_at_ms,
        "created_at_ms": sent_at_ms,
        "uploaded_at_ms": sent_at_ms,
        "submitted_at_ms": sent_at_ms,
        "next_try_at_ms": context.now_ms(),
    }


# ---------------------------------------------------------------- its input file


async def _prompts_in(context: Context, client: Client, remote: RemoteBatch) -> dict[int, int]:
    """Prompts of ours that the batch asks, each with its lane. Raises ReplyLost when its file does not come whole."""
    if remote.input_file_id is None:
        raise NotFound(f"batch {remote.id} names no input file")
    splitter = Splitter(context.config.collection.max_line_bytes)
    found, page, lines = dict[int, int](), list[Request](), 0
    async with client.content(remote.input_file_id, 0) as content:
        async for data in content.chunks():
            for line in splitter.feed(data):
                lines += 1
                request = parse_request(line) if isinstance(line, bytes) else None
                page += [request] if request else []
            if len(page) >= PAGE_LINES:
                found |= await _matching(context, client, page)
                page.clear()
    tail = splitter.tail()
    request = parse_request(tail) if isinstance(tail, bytes) else None
    lines += request is not None
    if remote.total is not None and lines < remote.total:
        raise ReplyLost(f"batch {remote.id}: its input file came with {lines} of {remote.total} lines")
    return found | await _matching(context, client, [*page, *([request] if request else [])])


async def _matching(context: Context, client: Client, page: list[Request]) -> dict[int, int]:
    custom_ids = [request.custom_id for request in page]
    look = partial(find_candidates, provider=client.provider.name, custom_ids=custom_ids)
    candidates = await context.database.read(look)
    pairs = [(request, candidates.get(request.custom_id)) for request in page]
    return {there.prompt.id: there.lane_id for request, there in pairs if there and _same(request, there)}


def _same(request: Request, there: Candidate) -> bool:
    """A custom_id may have been given to another question since."""
    try:
        body, _ = encode_body(there.prompt, there.endpoint, None)
    except InvalidPrompt:
        return False
    return same_question(request, body)
