"""Reclaim: a queue that was restored from a backup finds what was sent since then, and pays for none of it again.

Each batch's key begins with the queue's own name, so that the provider's listing tells them; which prompts were in one
stands in its input file. Nothing else runs until several listings over time have shown nothing new, and no file is left
that may yet be read. Of one that never can be, the batch's answers are asked; what they do not tell is sent again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.context import Context, Tick, key_prefix
from orchestrator.core.model import BatchStatus
from orchestrator.errors import ProviderError
from orchestrator.sent import Sent, read_answers, read_input
from orchestrator.store.restoring import (
    Known,
    Restored,
    dissolve_unsent,
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

TORN_SECONDS, RUNNING_SECONDS = 6 * 3600.0, 24 * 3600.0
"""How long a file that is there and cannot be read is tried, and the end of a batch is waited for: it may be mended,
and the answers then tell what was asked."""
BLIND = (
    "provider {}: its listing does not show which batches were sent since the backup: to send their prompts again, "
    "stop the daemon and set queue_state.backed_up_at_ms to NULL"
)
UNKNOWN = (
    "provider {0} is not in the settings, and what was sent there since the backup cannot be found: put its table "
    "[providers.{0}] back, or, to send those prompts again, stop the daemon and set queue_state.backed_up_at_ms to NULL"
)
HELD = (
    "provider {}: what batch {} was asked since the backup cannot be read: {}: it is tried for {:.1f} hours more, then "
    "prompts that its answers do not name are sent again; see to that file, or, to send them now, stop the daemon and "
    "set queue_state.backed_up_at_ms to NULL"
)


@dataclass(frozen=True, slots=True)
class Found:
    """Batches under one key that is not known here, that which is furthest on first, and the keys of all later ones."""

    client: Client
    key: str
    remotes: list[RemoteBatch]
    listed: list[str]

    @property
    def remote(self) -> RemoteBatch:
        return self.remotes[0]

    @property
    def later(self) -> list[str]:
        return self.listed[self.listed.index(self.key) + 1 :]


@dataclass(frozen=True, slots=True)
class Unread:
    """A batch whose input file does not tell all it asks."""

    found: Found
    known: Known | None
    sent: Sent


async def reclaim(context: Context) -> Tick:
    """Look once at what every provider holds of this queue. Raises ProviderError when one cannot tell now."""
    restored = await context.database.read(read_restored)
    if restored is None or context.now_ms() < restored.look_at_ms:
        return Tick(due_ms=None if restored is None else restored.look_at_ms)
    if not restored.look_at_ms:
        restored = await _begin(context, restored)
    while await context.database.write(dissolve_unsent):
        pass
    news, unread = await _look(context, restored)
    waits = {each.found.key: seconds for each in unread if (seconds := _patience(context, each)) > 0}
    looks = 0 if news or waits else restored.looks + 1
    if looks >= context.config.submission.adopt_checks:
        return await _finish(context, restored, unread)
    look_at_ms = context.in_ms(0 if waits else context.config.submission.adopt_interval_seconds)
    await context.database.write(partial(note_look, before=restored, looks=looks, look_at_ms=look_at_ms))
    _require_read(unread, waits)
    return Tick(1, due_ms=look_at_ms)


async def _begin(context: Context, restored: Restored) -> Restored:
    backed_up_at = datetime.fromtimestamp(restored.backed_up_at_ms / 1000, UTC).isoformat(timespec="seconds")
    tell("reclaim.begun", backed_up_at=backed_up_at)
    begun = replace(restored, looks=0, look_at_ms=context.now_ms())
    await context.database.write(partial(note_look, before=restored, looks=0, look_at_ms=begun.look_at_ms))
    return begun


async def _finish(context: Context, restored: Restored, unread: list[Unread]) -> Tick:
    for each in unread:
        await _make_do(context, each)
    if await context.database.write(partial(forget_backup, before=restored)):
        tell("reclaim.done", unreadable=len(unread))
    return Tick(1)


async def _look(context: Context, restored: Restored) -> tuple[int, list[Unread]]:
    """How many batches came back or were never seen before, and those whose lines are not all known."""
    prefix = key_prefix(await context.database.read(read_name))
    since_ms = restored.backed_up_at_ms
    age_seconds = context.seconds_since(since_ms)
    news, unread = 0, list[Unread]()
    for name in await context.database.read(list_used_providers):
        if name not in context.clients:
            raise ProviderError(UNKNOWN.format(name))
        for found in await _listed(context.clients[name], prefix, since_ms, age_seconds):
            news += await _take(context, found, unread)
    return news, unread


async def _listed(client: Client, prefix: str, since_ms: int, age_seconds: float) -> list[Found]:
    """The queue's batches since the backup, the oldest first, so that a prompt ends up in the last one it was in.

    Of several under one key, which should not exist, that which is furthest on comes first.
    """
    if not client.provider.searchable_batches:
        raise ProviderError(BLIND.format(client.provider.name))
    by_key: defaultdict[str, list[RemoteBatch]] = defaultdict(list)
    for remote in reversed(await client.find_batches_of(prefix, since_ms, age_seconds)):
        key = next(value for value in sorted(remote.metadata_values) if value.startswith(prefix))
        by_key[key].append(remote)
    keys = list(by_key)
    return [
        Found(client, key, sorted(remotes, key=lambda remote: -(remote.completed or 0)), keys)
        for key, remotes in by_key.items()
    ]


async def _take(context: Context, found: Found, unread: list[Unread]) -> int:
    """Take back what is not known here, or put it with the unread; 1 when it is new."""
    known = await context.database.read(partial(find_known, key=found.key))
    if known is not None and known.status is not BatchStatus.DISCARDED:
        return await _replaced(context, known, found.remotes)
    remote = found.remote
    if remote.id in context.strangers:
        return 0
    sent = await read_input(context, found.client, remote)
    if sent.gap is not None:
        unread.append(Unread(found, known, sent))
        return _is_news(context, remote)
    if not sent.prompts:
        context.strangers.add(remote.id)
        tell("reclaim.stranger", key=found.key, remote_batch_id=remote.id, lines=remote.total)
        return 0
    await _adopt(context, found, known, sent)
    return 1


async def _adopt(context: Context, found: Found, known: Known | None, sent: Sent) -> None:
    remote = found.remote
    values = {**_as_sent(context, remote), "key": found.key, "lane_id": next(iter(sent.prompts.values()))}
    work = partial(take_back, known=known, values=values, prompt_ids=list(sent.prompts), later=found.later)
    taken = await context.database.write(work)
    if taken is not None:
        batch_id, lines = taken
        tell(
            "reclaim.adopted", batch=batch_id, key=found.key, remote_batch_id=remote.id, lines=lines,
            total=remote.total,
        )  # fmt: skip


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


# ---------------------------------------------------------------- where the input file does not tell


def _is_news(context: Context, remote: RemoteBatch) -> bool:
    """Whether it could not be read for the first time: several looks over time are to show that it never can be."""
    is_new = remote.id not in context.unread
    context.unread.setdefault(remote.id, context.steady())
    return is_new


def _patience(context: Context, each: Unread) -> float:
    """Seconds for which nothing is decided yet, since waiting may tell what the batch asks."""
    remote = each.found.remote
    longest = 0.0 if each.sent.gone else TORN_SECONDS
    longest = longest if remote.state.over else RUNNING_SECONDS
    return context.unread[remote.id] + longest - context.steady()


def _require_read(unread: list[Unread], waits: dict[str, float]) -> None:
    """Raises ProviderError for that which is waited for longest."""
    if waits:
        key, seconds = max(waits.items(), key=lambda wait: wait[1])
        each = next(each for each in unread if each.found.key == key)
        name, remote_id = each.found.client.provider.name, each.found.remote.id
        raise ProviderError(HELD.format(name, remote_id, each.sent.gap, seconds / 3600))


async def _make_do(context: Context, each: Unread) -> None:
    """Take back what is known of a batch's prompts by now, also by its answers, and tell what is not."""
    found, sent = each.found, each.sent
    await read_answers(context, found.client, found.remote, sent)
    if sent.prompts:
        await _adopt(context, found, each.known, sent)
    total = found.remote.total or None
    unknown = max(0, total - len(sent.names)) if total else None
    tell(
        "reclaim.unreadable", key=found.key, remote_batch_id=found.remote.id, reason=sent.gap, lines=total,
        unknown=unknown,
    )  # fmt: skip
