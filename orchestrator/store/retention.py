"""What is deleted for its age: prompts that have ended, batches that are closed, files at the provider.

Deleting repeats nothing and undoes nothing, so that whoever dies in the middle of it leaves less to do for the next.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import bindparam, delete, exists, func, select, text, update

from orchestrator.core.states import PROMPT_ENDS
from orchestrator.store.batches import get_batch
from orchestrator.store.database import execute_many
from orchestrator.store.dialect import locked, take_turn
from orchestrator.store.tables import (
    ACTIVE,
    CLOSED,
    ENDED,
    LAST_REPLY,
    WITH_FILES,
    batch_states,
    chores,
    lanes,
    prompt_states,
    prompts,
    pruned_counts,
    replies,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import Column
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.core.model import Batch

T = TypeVar("T")
Ended = tuple[int, str, int | None, int | None]
"""Id, status and tokens of a prompt."""

PAGE_ROWS = 500
"""Rows looked at for one transaction."""
SLICE_ROWS = 10
"""Rows deleted between two looks at the clock: each may have an answer of megabytes."""
LONGEST_SECONDS = 0.05
"""Of one transaction: everybody else who writes waits for it."""


async def take_chore(connection: AsyncConnection, name: str, owner: str, now_ms: int, until_ms: int) -> bool:
    """Take or keep the lease of a chore that only one daemon does at a time; False when another holds it."""
    await take_turn(connection)
    values = {"lease_owner": owner, "lease_until_ms": until_ms}
    free = (chores.c.lease_owner == owner) | (chores.c.lease_until_ms < now_ms)
    taken = update(chores).where(chores.c.name == name, free).values(**values)
    if (await connection.execute(taken)).rowcount:
        return True
    if (await connection.execute(select(exists().where(chores.c.name == name)))).scalar_one():
        return False
    await connection.execute(chores.insert().values(name=name, **values))
    return True


# ---------------------------------------------------------------- prompts


async def list_expired(connection: AsyncConnection, before_ms: int) -> list[int]:
    """Prompts that ended before, oldest first. One that an open batch has a reply of may still be answered there."""
    in_open_batch = (
        exists()
        .where(replies.c.prompt_id == prompt_states.c.prompt_id, replies.c.batch_id == batch_states.c.id)
        .where(text(f"batch_states.{ACTIVE}"))
    )
    found = (
        select(prompt_states.c.prompt_id)
        .where(text(ENDED), prompt_states.c.finished_at_ms < before_ms, ~in_open_batch)
        .order_by(prompt_states.c.finished_at_ms)
        .limit(PAGE_ROWS)
    )
    return [prompt_id for (prompt_id,) in await connection.execute(found)]


async def prune_prompts(connection: AsyncConnection, prompt_ids: Sequence[int], before_ms: int) -> int:
    """Delete those of these prompts that ended before, with all that is known of them; stops early when it takes long.

    How many, which `pruned_counts` remembers. Rows that somebody else holds are left: first those of `prompts`, in the
    order in which a user's own DELETE takes them.
    """
    gone = list[Ended]()
    mine = await locked(connection, select(prompts.c.id).where(prompts.c.id.in_(prompt_ids)), prompts, {})
    rows = await _still_expired(connection, prompt_ids if mine is None else sorted(mine), before_ms)
    for some in _slices(rows):
        ids = [row[0] for row in some]
        await connection.execute(delete(prompts).where(prompts.c.id.in_(ids)))
        # A trigger took these along, but for rows that `INSERT OR REPLACE` had taken away without it.
        await connection.execute(delete(replies).where(replies.c.prompt_id.in_(ids)))
        await connection.execute(delete(prompt_states).where(prompt_states.c.prompt_id.in_(ids)))
        gone += some
    await _count(connection, gone)
    return len(gone)


async def _still_expired(connection: AsyncConnection, prompt_ids: Sequence[int], before_ms: int) -> list[Ended]:
    """Those that nobody has queued again since they were listed."""
    found = (
        select(prompt_states.c.prompt_id, prompt_states.c.status, replies.c.prompt_tokens, replies.c.completion_tokens)
        .outerjoin(replies, LAST_REPLY)
        .where(prompt_states.c.prompt_id.in_(prompt_ids), prompt_states.c.status.in_(PROMPT_ENDS))
        .where(prompt_states.c.finished_at_ms < before_ms)
        .with_for_update(of=prompt_states, skip_locked=True)
    )
    return [(row[0], row[1], row[2], row[3]) for row in await connection.execute(found)]


def _slices(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    """Cut into SLICE_ROWS each, for LONGEST_SECONDS and at least once."""
    clock = asyncio.get_running_loop().time
    began_at = clock()
    for start in range(0, len(rows), SLICE_ROWS):
        yield rows[start : start + SLICE_ROWS]
        if clock() - began_at > LONGEST_SECONDS:
            return


_COUNT = (
    update(pruned_counts)
    .where(pruned_counts.c.status == bindparam("of"))
    .values(
        prompts=pruned_counts.c.prompts + bindparam("gone"),
        prompt_tokens=pruned_counts.c.prompt_tokens + bindparam("asked"),
        completion_tokens=pruned_counts.c.completion_tokens + bindparam("answered"),
    )
)


async def _count(connection: AsyncConnection, gone: Sequence[Ended]) -> None:
    counts, asked, answered = Counter[str](), Counter[str](), Counter[str]()
    for _, status, prompt_tokens, completion_tokens in gone:
        counts[status] += 1
        asked[status] += prompt_tokens or 0
        answered[status] += completion_tokens or 0
    rows = [{"of": of, "gone": counts[of], "asked": asked[of], "answered": answered[of]} for of in counts]
    await execute_many(connection, _COUNT, rows)


# ---------------------------------------------------------------- batches


async def list_forgotten(connection: AsyncConnection, before_ms: int, *, with_files: bool) -> list[int]:
    """Closed batches made before of which no prompt is left, the oldest first.

    `with_files` includes those whose files at the provider may still be there.
    """
    has_prompts = exists().where(replies.c.batch_id == batch_states.c.id, replies.c.prompt_id.is_not(None))
    found = select(batch_states.c.id).where(text(CLOSED), batch_states.c.created_at_ms < before_ms, ~has_prompts)
    if not with_files:
        found = found.where(batch_states.c.files_deleted_at_ms.is_not(None))
    rows = await connection.execute(found.order_by(batch_states.c.created_at_ms).limit(PAGE_ROWS))
    return [batch_id for (batch_id,) in rows]


async def prune_lines(connection: AsyncConnection, batch_ids: Sequence[int]) -> int:
    """Delete unreadable lines that came with these batches; stops early when there are many. How many."""
    found = select(replies.c.id).where(replies.c.batch_id.in_(batch_ids)).limit(PAGE_ROWS)
    return await _delete(connection, replies.c.id, [*(await connection.execute(found)).scalars()])


async def prune_batches(connection: AsyncConnection, batch_ids: Sequence[int]) -> int:
    """Delete these batches, of which nothing else is left; stops early when it takes long. How many."""
    return await _delete(connection, batch_states.c.id, batch_ids)


async def _delete(connection: AsyncConnection, key: Column[int], ids: Sequence[int]) -> int:
    gone = 0
    for some in _slices(ids):
        await connection.execute(delete(key.table).where(key.in_(some)))
        gone += len(some)
    return gone


# ---------------------------------------------------------------- files at the provider


async def next_with_files(
    connection: AsyncConnection, providers: Collection[str], before_ms: int, now_ms: int
) -> Batch | None:
    """A batch of these providers that was closed before and whose files may still be there, the oldest first."""
    closed_at = func.coalesce(batch_states.c.settled_at_ms, batch_states.c.created_at_ms)
    found = (
        select(batch_states.c.id)
        .join(lanes, lanes.c.id == batch_states.c.lane_id)
        .where(text(f"batch_states.{CLOSED}"), batch_states.c.files_deleted_at_ms.is_(None), closed_at < before_ms)
        .where(batch_states.c.next_try_at_ms <= now_ms, lanes.c.provider.in_(sorted(providers)))
        .order_by(batch_states.c.created_at_ms)
        .limit(1)
    )
    batch_id = (await connection.execute(found)).scalar_one_or_none()
    return None if batch_id is None else await get_batch(connection, batch_id)


async def named_by_open_batches(connection: AsyncConnection, file_ids: Collection[str]) -> set[str]:
    """Those of these files that a batch names which is not over."""
    columns = (batch_states.c.input_file_id, batch_states.c.output_file_id, batch_states.c.error_file_id)
    found = set[str]()
    for column in columns:
        named = select(column).where(text(ACTIVE), column.in_(sorted(file_ids)))
        found.update(file_id for (file_id,) in await connection.execute(named))
    return found


async def update_closed(connection: AsyncConnection, batch: Batch, **values: Any) -> None:  # noqa: ANN401
    """Write columns of a batch that is over, which nobody else does; nothing when it was pruned meanwhile."""
    mine = (batch_states.c.id == batch.id, text(WITH_FILES))
    await connection.execute(update(batch_states).where(*mine).values(**values))


# ---------------------------------------------------------------- space


async def count_pages(connection: AsyncConnection) -> tuple[int, int]:
    """Pages of the SQLite file, and how many of them can be given back; none where it was made without the means."""
    if connection.dialect.name != "sqlite":
        return 0, 0
    pages, free, mode = [
        int((await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one())
        for name in ("page_count", "freelist_count", "auto_vacuum")
    ]
    return pages, free if mode == INCREMENTAL else 0


INCREMENTAL = 2


async def give_back(connection: AsyncConnection, pages: int) -> int:
    """Cut up to so many free pages off the SQLite file, for LONGEST_SECONDS at most; how many.

    One statement gives back one page: the driver steps it no further.
    """
    clock = asyncio.get_running_loop().time
    began_at = clock()
    for count in range(1, pages + 1):
        await connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
        if clock() - began_at > LONGEST_SECONDS:
            return count
    return pages


async def read_pruned(connection: AsyncConnection) -> dict[str, int]:
    """How many prompts were deleted for their age so far, by the status they had."""
    found = select(pruned_counts.c.status, pruned_counts.c.prompts)
    counts = {row[0]: row[1] for row in await connection.execute(found)}
    return {status.value: counts.get(status, 0) for status in PROMPT_ENDS}
