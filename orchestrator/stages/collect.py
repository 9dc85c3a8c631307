"""Collect: read what is new in a batch's output and error files and store it, line by line, while the batch runs.

The cursor is written in the same transaction as the rows, so that a crash repeats at most one chunk, and repeating
changes nothing. Resuming overlaps a little, since a provider may insert late lines before the cursor (doubleword-api
1.6); whatever still slips through is found by the full re-read at the batch's end.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from orchestrator.context import Context, Tick
from orchestrator.core.lines import Overlong, Reply, Splitter, parse_reply
from orchestrator.core.model import Batch, BatchStatus, Fault, PromptStatus
from orchestrator.core.outcomes import Outcome, judge
from orchestrator.core.retry import backoff
from orchestrator.errors import NotFound, ProviderError, ReplyLost
from orchestrator.folding import left_out
from orchestrator.lease import held
from orchestrator.pauses import pause_provider
from orchestrator.recording import late_success, settled
from orchestrator.store.batches import count_answered_elsewhere, statuses, update_batch
from orchestrator.store.providers import clear_pause
from orchestrator.store.replies import (
    Entry,
    Member,
    count_members,
    find_members,
    keep_unreadable,
    once_in_batch,
    record,
    refused_though_others_were_answered,
)
from orchestrator.store.tables import batch_states
from orchestrator.telemetry import further_tenth
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.api.client import Client, Content

CHUNK_LINES = 1000
CHUNK_BYTES = 2 << 20
RETRY_BASE_SECONDS = 5.0
FILE_GONE_TRIES = 6
"""Times in a row, over minutes, that a finished batch's file must be missing before its lines count as lost (F33)."""


class Torn(ReplyLost):
    """A download that ended well and yet within a line."""


DUE = statuses(BatchStatus.SUBMITTED, BatchStatus.ENDED) & batch_states.c.collect_due.is_(True)


@dataclass(slots=True)
class Cursor:
    """Where we stand in one remote file: complete lines consumed, and the digest of its first line."""

    file: Literal["output", "error"]
    file_id: str
    lines: int
    first: str | None


@dataclass(slots=True)
class Tally:
    """What one pass over a file brought."""

    lines: int = 0
    done: int = 0
    failed: int = 0
    resent: int = 0
    duplicates: int = 0
    strays: int = 0
    unreadable: int = 0
    late: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    account_reason: str | None = None

    @property
    def news(self) -> int:
        return self.done + self.failed + self.resent + self.late

    def add(self, other: Tally) -> None:
        for name in ("lines", "done", "failed", "resent", "duplicates", "strays", "unreadable", "late"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults += other.faults
        self.account_reason = other.account_reason or self.account_reason


class Judged(NamedTuple):
    """A line by its number in the file: whose it is, and what it means."""

    position: int
    custom_id: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Left:
    """A line for a prompt that is no longer in this batch; `is_new` when it was not read before."""

    member: Member
    outcome: Outcome
    is_new: bool


async def collect(context: Context) -> Tick:
    """Read both files of the batch that is due longest, from where the last pass stopped."""
    async with held(context, DUE) as batch:
        if isinstance(batch, Tick):
            return batch
        client = context.clients[batch.lane.provider]
        news = 0
        for cursor in _cursors(batch):
            tally = Tally()
            failure = await _read_file(context, client, batch, cursor, tally)
            news += tally.news
            await _told(context, batch, cursor, tally)
            if failure is None:
                del context.missed[_rereading(batch, cursor)]
            elif not await _gave_up(context, batch, cursor, failure):
                return Tick(1, more=True)
        await _note_read(context, batch, news)
    return Tick(1, more=True)


def _cursors(batch: Batch) -> list[Cursor]:
    found = []
    if batch.output_file_id:
        found.append(Cursor("output", batch.output_file_id, batch.output_cursor, batch.output_first))
    if batch.error_file_id:
        found.append(Cursor("error", batch.error_file_id, batch.error_cursor, batch.error_first))
    return found


# ---------------------------------------------------------------- one file


async def _read_file(
    context: Context, client: Client, batch: Batch, cursor: Cursor, tally: Tally
) -> ProviderError | None:
    """Read a file to its end, storing as it goes; what stopped it early, if anything did."""
    # Less with each failure in a row: a connection that breaks within the overlap each time would get no further.
    overlap = context.config.collection.overlap_lines >> batch.tries
    read = context.reread.get(_rereading(batch, cursor), 0) if batch.reread else cursor.lines
    wanted_from = max(0, read - overlap)
    skip = wanted_from if client.provider.resume_parameter else 0
    try:
        async with client.content(cursor.file_id, skip) as content:
            reader = _Reader(context, batch, cursor, tally, skip, wanted_from)
            return await reader.read(content)
    except ProviderError as error:
        return error


def _rereading(batch: Batch, cursor: Cursor) -> tuple[int, int, str]:
    """Which full reading of which file: another daemon may have done the last one."""
    return batch.id, batch.rereads, cursor.file


class _Reader:
    """One download: counts complete lines, passes over those already read, stores the others in chunks."""

    def __init__(
        self, context: Context, batch: Batch, cursor: Cursor, tally: Tally, skip: int, wanted_from: int
    ) -> None:
        self._context = context
        self._batch = batch
        self._cursor = cursor
        self._position = skip
        self._tally = tally
        self._wanted_from = wanted_from
        self._chunk = list[Judged]()
        self._held = 0

    async def read(self, content: Content) -> ProviderError | None:
        """Store every complete line, also those before a break; an incomplete last line is dropped (F29).

        A finished batch's file that ends within a new line broke on its way, however well the download ended. If it
        does so again and again, also when it is read anew, then that is how the line stands there.
        """
        splitter = Splitter(self._context.config.collection.max_line_bytes)
        try:
            async for data in content.chunks():
                for is_enough in map(self._take, splitter.feed(data)):
                    if is_enough:
                        await self._store()
        except ProviderError as error:
            await self._store()
            return error
        tail = splitter.tail()
        whole = isinstance(tail, bytes) and isinstance(parse_reply(tail), Reply)
        last_look = _is_last_look(self._context, self._batch, self._cursor)
        stands_so = self._position + 1 == self._cursor.lines or (self._batch.reread and last_look)
        if whole or (tail and stands_so):
            self._take(tail)
        await self._store()
        torn = tail and not whole and not stands_so and self._batch.status is BatchStatus.ENDED
        return Torn(f"{self._cursor.file} file: the download ends within a line") if torn else None

    def _take(self, line: bytes | Overlong) -> bool:
        """Judge a line at once, outside the transaction; True when so much is held that it is to be stored."""
        if not self._tally.lines:
            self._note_first(line)
        self._tally.lines += 1
        self._position += 1
        if self._position > self._wanted_from:
            self._chunk.append(_judged(self._position, line))
            self._held += len(line) if isinstance(line, bytes) else len(line.head)
        return len(self._chunk) >= CHUNK_LINES or self._held >= CHUNK_BYTES

    def _note_first(self, line: bytes | Overlong) -> None:
        """A resumed download that begins with the file's first line was not resumed at all: skip here instead."""
        digest = hashlib.sha256(line if isinstance(line, bytes) else line.head).hexdigest()
        if self._position == 0:
            self._cursor.first = self._cursor.first or digest
        elif digest == self._cursor.first:
            self._position = 0
            tell("collect.skip_ignored", batch=self._batch.id, key=self._batch.key, file=self._cursor.file)

    async def _store(self) -> None:
        if not self._chunk:
            return
        judged, self._chunk, self._held = self._chunk, [], 0
        stored = await self._context.database.write(
            partial(_store_chunk, context=self._context, batch=self._batch, cursor=self._cursor, judged=judged)
        )
        self._cursor.lines = max(self._cursor.lines, judged[-1].position)
        if self._batch.reread:
            self._context.reread[_rereading(self._batch, self._cursor)] = judged[-1].position
        self._tally.add(stored)


# ---------------------------------------------------------------- one chunk


async def _store_chunk(
    connection: AsyncConnection,
    context: Context,
    batch: Batch,
    cursor: Cursor,
    judged: Sequence[Judged],
) -> Tally:
    """Write rows, states, counts and cursor of a chunk in one transaction."""
    tally, lost = Tally(), list[Outcome]()
    named = [custom_id for _, custom_id, _ in judged if custom_id is not None]
    members = await find_members(connection, list(dict.fromkeys(named)))
    not_the_accounts = await _not_the_accounts(connection, batch, judged, members)
    ours, others = list[Entry](), list[Left]()
    for position, custom_id, outcome in judged:
        member = members.get(custom_id) if custom_id is not None else None
        if member is None:
            _count_nameless(outcome, tally, lost, is_new=position > cursor.lines)
        elif member.status is PromptStatus.BATCHED and member.batch_id == batch.id:
            works = member.prompt_id in not_the_accounts
            entry = settled(context, member, outcome, batch.id, account_works=works)
            members[custom_id or ""] = _after(entry)
            ours.append(entry)
        else:
            others.append(Left(member, outcome, position > cursor.lines))
    now_ms = context.now_ms()
    await record(connection, ours, now_ms)  # first: a success may follow its own failure in the same chunk
    await record(connection, await _late(connection, context, batch, others, tally), now_ms)
    await keep_unreadable(connection, batch.id, lost, now_ms)
    _count(ours, tally)
    await _write_counts(connection, batch, cursor, judged[-1].position, tally, len(lost))
    return tally


async def _not_the_accounts(
    connection: AsyncConnection, batch: Batch, judged: Sequence[Judged], members: Mapping[str, Member]
) -> set[int]:
    """The prompts whose lines blame an account that is seen to work."""
    blaming = {custom_id for _, custom_id, outcome in judged if outcome.fault is Fault.ACCOUNT}
    found = [members[custom_id] for custom_id in members.keys() & blaming]
    prompt_ids = [member.prompt_id for member in found if member.batch_id == batch.id]
    if not prompt_ids:
        return set()
    return await refused_though_others_were_answered(connection, batch.lane.provider, prompt_ids)


def _judged(position: int, line: bytes | Overlong) -> Judged:
    reply = parse_reply(line)
    return Judged(position, reply.custom_id, judge(reply))


def _count_nameless(outcome: Outcome, tally: Tally, lost: list[Outcome], *, is_new: bool) -> None:
    if outcome.fault is not Fault.UNREADABLE:
        tally.strays += 1
    elif is_new:
        tally.unreadable += 1
        lost.append(outcome)


def _after(entry: Entry) -> Member:
    member = entry.member
    return Member(
        member.prompt_id,
        entry.status,
        None,
        entry.attempts,
        entry.returns,
        member.forgiven,
        member.replies + 1,
        member.cancelling,
    )


async def _late(
    connection: AsyncConnection,
    context: Context,
    batch: Batch,
    others: Sequence[Left],
    tally: Tally,
) -> list[Entry]:
    """Lines for prompts that already left this batch: a first success is kept, all else is a duplicate (F19, F30)."""
    hopeful = {
        left.member.prompt_id: left
        for left in reversed(others)
        if left.outcome.fault is None and left.member.status is not PromptStatus.DONE
    }
    known = await once_in_batch(connection, batch.id, list(hopeful)) if hopeful else set()
    entries = [late_success(context, hopeful[i].member, hopeful[i].outcome, batch.id) for i in known]
    await count_answered_elsewhere(connection, [e.member.batch_id for e in entries if e.member.batch_id is not None])
    tally.strays += len(hopeful) - len(known)
    tally.late += len(entries)
    tally.duplicates += sum(left.is_new for left in others if left.member.prompt_id not in hopeful)
    return entries


def _count(entries: Sequence[Entry], tally: Tally) -> None:
    for entry in entries:
        if entry.status is PromptStatus.DONE:
            tally.done += 1
        elif entry.status is PromptStatus.QUEUED:
            tally.resent += 1
        else:
            tally.failed += 1
        if entry.outcome.fault is not None:
            tally.faults[entry.outcome.fault.value] += 1
        if entry.outcome.fault is Fault.UNREADABLE:
            tally.unreadable += 1
        if entry.outcome.fault is Fault.ACCOUNT:
            tally.account_reason = f"{entry.outcome.status_code or ''} {entry.outcome.error_message or ''}".strip()


async def _write_counts(
    connection: AsyncConnection, batch: Batch, cursor: Cursor, position: int, tally: Tally, nameless: int
) -> None:
    seen = {f"{cursor.file}_cursor": max(cursor.lines, position), f"{cursor.file}_first": cursor.first}
    added = {
        "lines_done": tally.done,
        "lines_failed": tally.failed,
        "lines_resent": tally.resent,
        "duplicates": tally.duplicates,
        "unreadable": nameless,
    }
    await update_batch(connection, batch, added, **seen)


# ---------------------------------------------------------------- after a pass


async def _told(context: Context, batch: Batch, cursor: Cursor, tally: Tally) -> None:
    facts, received = {"batch": batch.id, "key": batch.key}, batch.lines_received + tally.news - tally.late
    if tally.strays or further_tenth(batch.lines_received, received, batch.lines):
        tell(
            "collect.received", **facts, file=cursor.file, received=received, of=batch.lines, lines=tally.lines,
            done=tally.done, resent=tally.resent, failed=tally.failed, duplicates=tally.duplicates,
            strays=tally.strays, faults=dict(tally.faults) or None,
        )  # fmt: skip
    if tally.unreadable:
        tell("collect.unreadable", **facts, lines=tally.unreadable)
    if tally.late:
        tell("collect.late_success", **facts, prompts=tally.late)
    if tally.account_reason is not None:
        sent_at_ms = batch.submitted_at_ms or 0
        await pause_provider(context, batch.lane.provider, tally.account_reason, "line", sent_at_ms)
    elif tally.done:
        await _resume(context, batch)


async def _resume(context: Context, batch: Batch) -> None:
    """A line was answered and none failed for want of credit: a pause that lines began is over."""
    name = batch.lane.provider
    if await context.database.write(
        partial(clear_pause, name=name, paused_by="line", sent_at_ms=batch.submitted_at_ms or 0)
    ):
        tell("provider.resumed", provider=name)


async def _gave_up(context: Context, batch: Batch, cursor: Cursor, error: ProviderError) -> bool:
    """Note a broken download and when to go on; True when the file is gone for good and must be done without.

    A running batch is polled in between: it may end meanwhile, and only then can a file be given up. Only what is seen
    in a row counts: in an outage the same call fails in several ways, and 404 is one of them (doubleword-api 5).
    """
    tries, is_missing = batch.tries + 1, isinstance(error, NotFound | Torn) and batch.status is BatchStatus.ENDED
    if is_missing and _is_last_look(context, batch, cursor):
        if isinstance(error, NotFound):
            tell("collect.file_gone", batch=batch.id, key=batch.key, file=cursor.file)
        return True
    longest = max(context.config.polling.max_seconds, RETRY_BASE_SECONDS)
    pause = max(error.retry_after_seconds, backoff(batch.tries, RETRY_BASE_SECONDS, longest, context.dice))
    await context.database.write(
        partial(
            update_batch, batch=batch, tries=tries, next_try_at_ms=context.in_ms(pause), last_error=str(error),
            last_error_at_ms=context.now_ms(), collect_due=batch.status is BatchStatus.ENDED,
        )
    )  # fmt: skip
    if is_missing:
        context.missed[_rereading(batch, cursor)] += 1
    else:
        del context.missed[_rereading(batch, cursor)]
    others = left_out(context, "collect.failed", batch, tries)
    if others is not None:
        tell(
            "collect.failed", batch=batch.id, key=batch.key, provider=batch.lane.provider, file=cursor.file,
            reason=str(error), tries=tries, others=others,
        )  # fmt: skip
    return False


def _is_last_look(context: Context, batch: Batch, cursor: Cursor) -> bool:
    return context.missed[_rereading(batch, cursor)] + 1 >= FILE_GONE_TRIES


async def _note_read(context: Context, batch: Batch, news: int) -> None:
    """Both files are read to their present end: on with the next poll, or with settling."""
    left = await context.database.read(partial(count_members, batch_id=batch.id))
    running = batch.status is BatchStatus.SUBMITTED and left
    for cursor in _cursors(batch):
        context.reread.pop(_rereading(batch, cursor), None)
        del context.missed[_rereading(batch, cursor)]
    values: dict[str, Any] = {"collect_due": False, "tries": 0, "reread": False}
    values["next_try_at_ms"] = context.next_poll_ms() if running else context.now_ms()
    if batch.reread:
        values["reread_news"] = news
    await context.database.write(partial(update_batch, batch=batch, **values))
