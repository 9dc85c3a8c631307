"""A queue that was restored from a backup: what it must give up, and how batches sent since then come back into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import bindparam, func, insert, select, update

from orchestrator.core.model import BatchStatus, Prompt, PromptStatus
from orchestrator.store.batches import statuses
from orchestrator.store.dialect import among, listed
from orchestrator.store.queue import SENT_COLUMNS, return_lines
from orchestrator.store.tables import batch_states, lanes, prompt_states, prompts, queue_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

PAGE_ROWS = 1000
UNSENT = statuses(
    BatchStatus.PACKING, BatchStatus.SEALED, BatchStatus.UPLOADING, BatchStatus.UPLOADED, BatchStatus.CREATING
)
WAITS = (PromptStatus.QUEUED, PromptStatus.BATCHED)


@dataclass(frozen=True, slots=True)
class Restored:
    """`looks` listings in a row have shown nothing new; the next one is due at `look_at_ms`."""

    backed_up_at_ms: int
    looks: int
    look_at_ms: int


class Candidate(msgspec.Struct, frozen=True):
    """A prompt that may have been sent since the backup, and how it would be sent now."""

    prompt: Prompt
    lane_id: int
    endpoint: str


class Known(msgspec.Struct, frozen=True):
    """A batch of this queue that has a certain key."""

    id: int
    key: str
    status: BatchStatus
    remote_batch_id: str | None
    abandoned_remote_ids: str


async def read_name(connection: AsyncConnection) -> str:
    """What stands in the key of every batch of this queue, and of no other's."""
    return str((await connection.execute(select(queue_state.c.name))).scalar_one())


async def read_restored(connection: AsyncConnection) -> Restored | None:
    """None unless this is a backup, in which nobody has looked yet for what was sent after it was made."""
    found = select(queue_state.c.backed_up_at_ms, queue_state.c.looks, queue_state.c.look_at_ms)
    row = (await connection.execute(found.where(queue_state.c.backed_up_at_ms.is_not(None)))).one_or_none()
    return None if row is None else Restored(*row)


async def note_look(connection: AsyncConnection, before: Restored, looks: int, look_at_ms: int) -> None:
    """What another daemon noted since `before` stands, unless this look has found something."""
    same = _unchanged(before) if looks else queue_state.c.backed_up_at_ms.is_not(None)
    await connection.execute(update(queue_state).where(same).values(looks=looks, look_at_ms=look_at_ms))


async def forget_backup(connection: AsyncConnection, before: Restored) -> bool:
    """False where another daemon looked as well: what it has found or not decides."""
    known = update(queue_state).where(_unchanged(before)).values(backed_up_at_ms=None, looks=0, look_at_ms=0)
    return bool((await connection.execute(known)).rowcount)


def _unchanged(before: Restored) -> ColumnElement[bool]:
    return (
        (queue_state.c.backed_up_at_ms == before.backed_up_at_ms)
        & (queue_state.c.looks == before.looks)
        & (queue_state.c.look_at_ms == before.look_at_ms)
    )


async def is_still_restored(connection: AsyncConnection) -> bool:
    """Asked in each transaction that changes batches: when one daemon is done, all begin to work.

    Until the transaction ends, none is done, and none changes batches beside this one.
    """
    found = select(queue_state.c.backed_up_at_ms).with_for_update()
    return (await connection.execute(found)).scalar_one() is not None


async def list_used_providers(connection: AsyncConnection) -> list[str]:
    found = select(lanes.c.provider).distinct().order_by(lanes.c.provider)
    return [name for (name,) in await connection.execute(found)]


async def dissolve_unsent(connection: AsyncConnection) -> int:
    """Put back the lines of one batch that was not sent when the backup was made; 0 when there is none.

    It may have been sent since then: then it is found by its key, whatever lines it had got by then.
    """
    if not await is_still_restored(connection):
        return 0
    batch_id = (await connection.execute(select(func.min(batch_states.c.id)).where(UNSENT))).scalar_one()
    if batch_id is None:
        return 0
    await return_lines(connection, batch_id)
    gone = update(batch_states).where(batch_states.c.id == batch_id)
    await connection.execute(gone.values(status=BatchStatus.DISCARDED, lease_until_ms=0))
    return int(batch_id)


async def find_known(connection: AsyncConnection, key: str) -> Known | None:
    columns = [batch_states.c[name] for name in Known.__struct_fields__]
    row = (await connection.execute(select(*columns).where(batch_states.c.key == key))).one_or_none()
    return None if row is None else Known(row[0], row[1], BatchStatus(row[2]), row[3], row[4])


async def find_candidates(
    connection: AsyncConnection, provider: str, custom_ids: Sequence[str]
) -> dict[str, Candidate]:
    """Those of these prompts that have not ended and would go to this provider."""
    named = listed(connection, [custom_id for custom_id in custom_ids if "\0" not in custom_id])
    found = (
        select(*SENT_COLUMNS, lanes.c.id, lanes.c.endpoint)
        .join(prompt_states, prompt_states.c.prompt_id == prompts.c.id)
        .join(lanes, lanes.c.id == prompt_states.c.lane_id)
        .where(among(prompts.c.custom_id, bindparam("named")), prompt_states.c.status.in_(WAITS))
        .where(lanes.c.provider == provider)
    )
    rows = await connection.execute(found, {"named": named})
    return {row[1]: Candidate(Prompt(*row[:-2]), *row[-2:]) for row in rows}


async def take_back(
    connection: AsyncConnection,
    known: Known | None,
    values: dict[str, Any],
    prompt_ids: Sequence[int],
    later: Sequence[str] = (),
) -> tuple[int, int] | None:
    """A batch as it stands at the provider, with these prompts in it, wherever they were; its id and lines.

    A prompt that is in an earlier batch came back from there after the backup was made: there it counts as resent.
    One that is in a batch of a `later` key came back from this one, and stays there.
    None where another daemon knows more of the batch than `known` by now.
    """
    if not await is_still_restored(connection) or await find_known(connection, values["key"]) != known:
        return None
    if known is None:
        made = insert(batch_states).values(**values, status=BatchStatus.SUBMITTED).returning(batch_states.c.id)
        batch_id = int((await connection.execute(made)).scalar_one())
    else:
        batch_id = known.id
        await _update(connection, known, values)
    left_for = await _ids_of(connection, later)
    lines = nbytes = 0
    for start in range(0, len(prompt_ids), PAGE_ROWS):
        page = prompt_states.c.prompt_id.in_(prompt_ids[start : start + PAGE_ROWS]) & prompt_states.c.status.in_(WAITS)
        page &= prompt_states.c.batch_id.is_(None) | prompt_states.c.batch_id.not_in(left_for)
        counted = select(func.count(), func.coalesce(func.sum(prompt_states.c.line_bytes), 0)).where(page)
        more, larger = (await connection.execute(counted)).one()
        lines, nbytes = lines + more, nbytes + larger
        await _leave_earlier(connection, page)
        moved = update(prompt_states).where(page).values(status=PromptStatus.BATCHED, batch_id=batch_id, waiting=0)
        await connection.execute(moved)
    sized = update(batch_states).where(batch_states.c.id == batch_id).values(lines=lines, nbytes=nbytes)
    await connection.execute(sized)
    return batch_id, lines


async def _ids_of(connection: AsyncConnection, keys: Sequence[str]) -> list[int]:
    found = select(batch_states.c.id).where(among(batch_states.c.key, bindparam("keys")))
    return list((await connection.execute(found, {"keys": listed(connection, list(keys))})).scalars())


async def update_known(connection: AsyncConnection, known: Known, **values: Any) -> None:  # noqa: ANN401
    """The batch has been sent after the backup was made, under the same key."""
    if await is_still_restored(connection) and await find_known(connection, known.key) == known:
        await _update(connection, known, values)


async def _update(connection: AsyncConnection, known: Known, values: dict[str, Any]) -> None:
    found = update(batch_states).where(batch_states.c.id == known.id)
    await connection.execute(found.values(**values, status=BatchStatus.SUBMITTED))


async def _leave_earlier(connection: AsyncConnection, page: Any) -> None:  # noqa: ANN401
    left = select(prompt_states.c.batch_id, func.count()).where(page, prompt_states.c.batch_id.is_not(None))
    for batch_id, count in list(await connection.execute(left.group_by(prompt_states.c.batch_id))):
        earlier = update(batch_states).where(batch_states.c.id == batch_id)
        await connection.execute(earlier.values(lines_resent=batch_states.c.lines_resent + count))
