"""What came back: outcomes written once per prompt and try, together with the prompt's new state."""

from __future__ import annotations

from collections import Counter, defaultdict
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import bindparam, exists, func, null, select, text, update

from orchestrator.core.model import Fault, PromptStatus
from orchestrator.measures import is_listened, measure_once_committed
from orchestrator.store.database import execute_many, insert_many
from orchestrator.store.dialect import ENDED, among, announce, listed, storable
from orchestrator.store.tables import BATCHED, batch_states, lanes, prompt_states, prompts, replies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.core.outcomes import Outcome


class Member(msgspec.Struct, frozen=True, gc=False):
    """A prompt's state as the stages need it to judge an outcome.

    `replies` counts those stored so far; `cancelling` means that it is not wanted any more and never resent.
    """

    prompt_id: int
    status: PromptStatus
    batch_id: int | None
    attempts: int
    returns: int
    forgiven: int
    replies: int
    cancelling: bool = False


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One outcome of one prompt and the state it leaves the prompt in."""

    member: Member
    outcome: Outcome
    batch_id: int | None
    status: PromptStatus
    attempts: int
    returns: int
    due_at_ms: int | None = None


_MEMBER_COLUMNS = (
    prompt_states.c.prompt_id,
    prompt_states.c.status,
    prompt_states.c.batch_id,
    prompt_states.c.attempts,
    prompt_states.c.returns,
    prompt_states.c.forgiven,
    prompt_states.c.replies,
    prompt_states.c.cancelling,
)

_WAIT: dict[str, Any] = {
    "due_at_ms": func.coalesce(bindparam("due", type_=prompt_states.c.due_at_ms.type), prompt_states.c.due_at_ms),
    "waiting": bindparam("later"),
}
_UPDATE = (
    update(prompt_states)
    .where(
        among(prompt_states.c.prompt_id, bindparam("of")),
        prompt_states.c.status == bindparam("before"),
        prompt_states.c.replies == bindparam("seen"),
    )
    .values(
        status=bindparam("after"),
        batch_id=null(),
        attempts=bindparam("tried"),
        returns=bindparam("returned"),
        replies=bindparam("stored"),
        finished_at_ms=bindparam("ended"),
        **_WAIT,
    )
)


_STATUS_OF = {status.value: status for status in PromptStatus}


def _member(prompt_id: int, status: str, *others: Any) -> Member:  # noqa: ANN401 - the columns that follow
    return Member(prompt_id, _STATUS_OF[status], *others)


_FIND_MEMBERS = (
    select(prompts.c.custom_id, *_MEMBER_COLUMNS)
    .join(prompt_states, prompt_states.c.prompt_id == prompts.c.id)
    .where(among(prompts.c.custom_id, bindparam("custom_ids")))
    .with_for_update(of=prompt_states)
)


async def find_members(connection: AsyncConnection, custom_ids: Sequence[str]) -> dict[str, Member]:
    """The prompts with these custom ids, held until the transaction ends; ids nobody has are left out."""
    storable_ids = [custom_id for custom_id in custom_ids if "\0" not in custom_id]
    rows = (await connection.execute(_FIND_MEMBERS, {"custom_ids": listed(connection, storable_ids)})).all()
    return {custom_id: _member(*columns) for custom_id, *columns in rows}


async def list_members(connection: AsyncConnection, batch_id: int, limit: int) -> list[Member]:
    """The first `limit` prompts still in the batch, by id, held until the transaction ends."""
    found = select(*_MEMBER_COLUMNS).where(text(BATCHED), prompt_states.c.batch_id == batch_id)
    rows = await connection.execute(found.order_by(prompt_states.c.prompt_id).limit(limit).with_for_update())
    return [_member(*row) for row in rows]


async def get_members(connection: AsyncConnection, prompt_ids: Sequence[int]) -> list[Member]:
    """These prompts, held until the transaction ends."""
    found = select(*_MEMBER_COLUMNS).where(prompt_states.c.prompt_id.in_(prompt_ids)).with_for_update()
    return [_member(*row) for row in await connection.execute(found)]


async def get_members_of(connection: AsyncConnection, batch_id: int, prompt_ids: Sequence[int]) -> list[Member]:
    """Those of these prompts that are still in the batch, held until the transaction ends."""
    found = select(*_MEMBER_COLUMNS).where(text(BATCHED), prompt_states.c.batch_id == batch_id)
    rows = await connection.execute(found.where(prompt_states.c.prompt_id.in_(prompt_ids)).with_for_update())
    return [_member(*row) for row in rows]


_COUNT_MEMBERS = (
    select(func.count())
    .select_from(prompt_states)
    .where(text(BATCHED), prompt_states.c.batch_id == bindparam("of_batch"))
)


async def count_members(connection: AsyncConnection, batch_id: int) -> int:
    """How many prompts are still in the batch."""
    return int((await connection.execute(_COUNT_MEMBERS, {"of_batch": batch_id})).scalar_one())


_HAS_MEMBER = exists().where(text(f"prompt_states.{BATCHED}"), prompt_states.c.batch_id == batch_states.c.id)
_IS_WANTED = _HAS_MEMBER.where(prompt_states.c.cancelling == 0, prompts.c.id == prompt_states.c.prompt_id)
_WITH_MEMBERS = select(batch_states.c.id, _IS_WANTED).where(among(batch_states.c.id, bindparam("asked")), _HAS_MEMBER)


async def with_members(connection: AsyncConnection, batch_ids: Sequence[int]) -> dict[int, bool]:
    """Those of these batches in which a prompt still is, and whether one of them is neither cancelled nor replaced."""
    rows = await connection.execute(_WITH_MEMBERS, {"asked": listed(connection, batch_ids)})
    return {batch_id: bool(is_wanted) for batch_id, is_wanted in rows}


async def once_in_batch(connection: AsyncConnection, batch_id: int, prompt_ids: Sequence[int]) -> set[int]:
    """Those of these prompts that left this batch earlier with an outcome of their own, and are sent as they were."""
    found = (
        select(replies.c.prompt_id, replies.c.batch_id)
        .join(prompt_states, prompt_states.c.prompt_id == replies.c.prompt_id)
        .where(replies.c.prompt_id.in_(prompt_ids), replies.c.seq > prompt_states.c.sent_from_seq)
    )
    return {prompt_id for prompt_id, of_batch in await connection.execute(found) if of_batch == batch_id}


_LAST_REFUSED = (
    select(replies.c.prompt_id, func.max(replies.c.batch_id), func.max(replies.c.received_at_ms))
    .where(among(replies.c.prompt_id, bindparam("refused")), replies.c.fault == Fault.ACCOUNT.value)
    .group_by(replies.c.prompt_id)
)
_SENT_SINCE = (
    select(batch_states.c.submitted_at_ms, batch_states.c.lines_done - batch_states.c.lines_resent)
    .join(lanes, lanes.c.id == batch_states.c.lane_id)
    .where(lanes.c.provider == bindparam("name"), batch_states.c.id > bindparam("made_after"))
    .where(batch_states.c.submitted_at_ms > bindparam("since_ms"))
)


async def refused_though_others_were_answered(
    connection: AsyncConnection, provider: str, prompt_ids: Sequence[int]
) -> set[int]:
    """Those of these prompts, now refused for the account's sake, that the account is not to blame for.

    They were refused so before, and of what was sent after that no more came back, with them, than was answered.
    """
    found = (await connection.execute(_LAST_REFUSED, {"refused": listed(connection, prompt_ids)})).all()
    if not found:
        return set()
    oldest = {"made_after": min(row[1] for row in found), "since_ms": min(row[2] for row in found)}
    sent = (await connection.execute(_SENT_SINCE, {"name": provider, **oldest})).all()
    gains = {since_ms: sum(gain for at_ms, gain in sent if at_ms > since_ms) for _, _, since_ms in found}
    return {prompt_id for prompt_id, _, since_ms in found if gains[since_ms] >= len(prompt_ids)}


async def record(connection: AsyncConnection, entries: Sequence[Entry], now_ms: int) -> None:
    """Write each outcome and move its prompt, in this transaction. A prompt may come up more than once, in order."""
    await insert_many(connection, replies, storable(connection, [_entry_row(entry, now_ms) for entry in entries]))
    await execute_many(connection, _UPDATE, _moves(connection, entries, now_ms))
    if entries:
        await announce(connection, ENDED)
    if entries and is_listened():
        measure_once_committed("store.recorded", **_totals(entries))


def _totals(entries: Sequence[Entry]) -> dict[str, Any]:
    outcomes = [entry.outcome for entry in entries]
    return {
        "statuses": Counter(entry.status for entry in entries),
        "faults": Counter(outcome.fault for outcome in outcomes if outcome.fault is not None),
        "attempts": sum(entry.attempts - entry.member.attempts for entry in entries),
        "prompt_tokens": sum(outcome.prompt_tokens or 0 for outcome in outcomes),
        "completion_tokens": sum(outcome.completion_tokens or 0 for outcome in outcomes),
    }


async def keep_unreadable(connection: AsyncConnection, batch_id: int, outcomes: Sequence[Outcome], now_ms: int) -> None:
    """Store lines whose prompt could not be made out; their bytes are kept as evidence (F26)."""
    rows = [_reply_row(outcome, now_ms, None, None, batch_id, None) for outcome in outcomes]
    await insert_many(connection, replies, storable(connection, rows))


def _entry_row(entry: Entry, now_ms: int) -> dict[str, Any]:
    member = entry.member
    return _reply_row(entry.outcome, now_ms, member.prompt_id, member.replies + 1, entry.batch_id, entry.attempts)


def _reply_row(
    outcome: Outcome, now_ms: int, prompt_id: int | None, seq: int | None, batch_id: int | None, attempt: int | None
) -> dict[str, Any]:
    """What an outcome holds stands in columns of the same names."""
    row = msgspec.structs.asdict(outcome)
    row |= {"prompt_id": prompt_id, "seq": seq, "batch_id": batch_id, "attempt": attempt, "received_at_ms": now_ms}
    return row


class _Move(NamedTuple):
    """Of how many replies it is the next one, and what it makes of the prompt."""

    replies: int
    before: PromptStatus
    after: PromptStatus
    attempts: int
    returns: int
    due_at_ms: int | None


def _moves(connection: AsyncConnection, entries: Sequence[Entry], now_ms: int) -> list[dict[str, Any]]:
    """Prompts that move alike move by one statement, a third of the cost; one that comes up twice, by two in order."""
    alike: dict[_Move, list[int]] = defaultdict(list)
    for entry in entries:
        member = entry.member
        move = _Move(member.replies, member.status, entry.status, entry.attempts, entry.returns, entry.due_at_ms)
        alike[move].append(member.prompt_id)
    in_order = sorted(alike, key=attrgetter("replies"))
    return [{"of": listed(connection, alike[move]), **_state_row(move, now_ms)} for move in in_order]


def _state_row(move: _Move, now_ms: int) -> dict[str, Any]:
    queued = move.after is PromptStatus.QUEUED
    return {
        "before": move.before,
        "seen": move.replies,
        "after": move.after,
        "tried": move.attempts,
        "returned": move.returns,
        "stored": move.replies + 1,
        "ended": None if queued else now_ms,
        "due": move.due_at_ms,
        "later": int(queued and move.due_at_ms is not None and move.due_at_ms > now_ms),
    }
