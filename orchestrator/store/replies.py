"""What came back: outcomes written once per prompt and try, together with the prompt's new state."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import bindparam, func, insert, select, text, update

from orchestrator.core.model import PromptStatus
from orchestrator.measures import is_listened, measure_once_committed
from orchestrator.store.database import execute_many
from orchestrator.store.dialect import ENDED, announce, storable
from orchestrator.store.tables import BATCHED, prompt_states, prompts, replies

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

_INSERT = insert(replies).values({column.name: bindparam(column.name) for column in replies.c if column.name != "id"})
_WAIT: dict[str, Any] = {
    "due_at_ms": func.coalesce(bindparam("due", type_=prompt_states.c.due_at_ms.type), prompt_states.c.due_at_ms),
    "waiting": bindparam("later"),
}
_UPDATE = (
    update(prompt_states)
    .where(
        prompt_states.c.prompt_id == bindparam("of"),
        prompt_states.c.status == bindparam("before"),
        prompt_states.c.replies == bindparam("seen"),
    )
    .values(
        status=bindparam("after"),
        batch_id=bindparam("batch"),
        attempts=bindparam("tried"),
        returns=bindparam("returned"),
        replies=bindparam("stored"),
        finished_at_ms=bindparam("ended"),
        **_WAIT,
    )
)


def _member(row: Sequence[Any]) -> Member:
    return Member(row[0], PromptStatus(row[1]), *row[2:])


_FIND_MEMBERS = (
    select(prompts.c.custom_id, *_MEMBER_COLUMNS)
    .join(prompt_states, prompt_states.c.prompt_id == prompts.c.id)
    .where(prompts.c.custom_id.in_(bindparam("custom_ids", expanding=True)))
    .with_for_update(of=prompt_states)
)


async def find_members(connection: AsyncConnection, custom_ids: Sequence[str]) -> dict[str, Member]:
    """The prompts with these custom ids, held until the transaction ends; ids nobody has are left out."""
    storable_ids = [custom_id for custom_id in custom_ids if "\0" not in custom_id]
    rows = (await connection.execute(_FIND_MEMBERS, {"custom_ids": storable_ids})).all()
    return {row[0]: _member(row[1:]) for row in rows}


async def list_members(connection: AsyncConnection, batch_id: int, limit: int) -> list[Member]:
    """The first `limit` prompts still in the batch, by id, held until the transaction ends."""
    found = select(*_MEMBER_COLUMNS).where(text(BATCHED), prompt_states.c.batch_id == batch_id)
    rows = await connection.execute(found.order_by(prompt_states.c.prompt_id).limit(limit).with_for_update())
    return [_member(row) for row in rows]


async def get_members(connection: AsyncConnection, prompt_ids: Sequence[int]) -> list[Member]:
    """These prompts, held until the transaction ends."""
    found = select(*_MEMBER_COLUMNS).where(prompt_states.c.prompt_id.in_(prompt_ids)).with_for_update()
    return [_member(row) for row in await connection.execute(found)]


_COUNT_MEMBERS = (
    select(func.count())
    .select_from(prompt_states)
    .where(text(BATCHED), prompt_states.c.batch_id == bindparam("of_batch"))
)


async def count_members(connection: AsyncConnection, batch_id: int) -> int:
    """How many prompts are still in the batch."""
    return int((await connection.execute(_COUNT_MEMBERS, {"of_batch": batch_id})).scalar_one())


async def once_in_batch(connection: AsyncConnection, batch_id: int, prompt_ids: Sequence[int]) -> set[int]:
    """Those of these prompts that left this batch earlier with an outcome of their own."""
    found = select(replies.c.prompt_id, replies.c.batch_id).where(replies.c.prompt_id.in_(prompt_ids))
    return {prompt_id for prompt_id, of_batch in await connection.execute(found) if of_batch == batch_id}


async def record(connection: AsyncConnection, entries: Sequence[Entry], now_ms: int) -> None:
    """Write each outcome and move its prompt, in this transaction. A prompt may come up more than once, in order."""
    await execute_many(connection, _INSERT, [storable(connection, _reply_row(entry, now_ms)) for entry in entries])
    await execute_many(connection, _UPDATE, [_state_row(entry, now_ms) for entry in entries])
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
    rows = [storable(connection, _reply_columns(outcome, now_ms)) | {"batch_id": batch_id} for outcome in outcomes]
    await execute_many(connection, _INSERT, rows)


def _reply_columns(outcome: Outcome, now_ms: int) -> dict[str, Any]:
    return {
        "prompt_id": None,
        "seq": None,
        "batch_id": None,
        "attempt": None,
        "fault": outcome.fault,
        "status_code": outcome.status_code,
        "error_code": outcome.error_code,
        "error_message": outcome.error_message,
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "model": outcome.model,
        "received_at_ms": now_ms,
        "answer": outcome.answer,
        "response": outcome.response,
        "raw": outcome.raw,
    }


def _reply_row(entry: Entry, now_ms: int) -> dict[str, Any]:
    member = entry.member
    return _reply_columns(entry.outcome, now_ms) | {
        "prompt_id": member.prompt_id,
        "seq": member.replies + 1,
        "batch_id": entry.batch_id,
        "attempt": entry.attempts,
    }


def _state_row(entry: Entry, now_ms: int) -> dict[str, Any]:
    member, queued = entry.member, entry.status is PromptStatus.QUEUED
    return {
        "of": member.prompt_id,
        "before": member.status,
        "seen": member.replies,
        "after": entry.status,
        "batch": None,
        "tried": entry.attempts,
        "returned": entry.returns,
        "stored": member.replies + 1,
        "ended": None if queued else now_ms,
        "due": entry.due_at_ms,
        "later": int(queued and entry.due_at_ms is not None and entry.due_at_ms > now_ms),
    }
