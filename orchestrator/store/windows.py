"""The queue a window at a time, so that no statement reads, sorts or holds all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, func, select

from orchestrator.store.tables import prompt_states

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

BEFORE_ALL = -(1 << 63)
"""An id below those of all prompts: users number theirs from 0, or downwards."""
WINDOW_ROWS = 10_000

_NEXT = (
    select(prompt_states.c.prompt_id)
    .where(prompt_states.c.prompt_id > bindparam("after_id"))
    .order_by(prompt_states.c.prompt_id)
    .limit(bindparam("rows"))
    .subquery()
)
_LAST = select(func.max(_NEXT.c.prompt_id))


async def last_of_next(connection: AsyncConnection, after_id: int, rows: int) -> int | None:
    """The id of the last of the next `rows` prompts behind `after_id`; None behind the last of all."""
    last: int | None = (await connection.execute(_LAST, {"after_id": after_id, "rows": rows})).scalar_one()
    return last


async def windows(connection: AsyncConnection) -> AsyncIterator[tuple[int, int]]:
    """Every prompt, in the order of ids: the id before each window, and its last."""
    after_id = BEFORE_ALL
    while (last := await last_of_next(connection, after_id, WINDOW_ROWS)) is not None:
        yield after_id, last
        after_id = last
