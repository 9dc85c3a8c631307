"""The queue a window at a time, so that no statement reads, sorts or holds all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, func, select

from orchestrator.store.tables import prompt_states

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

FIRST_ID = -(1 << 63)
"""No prompt has a smaller one: users number theirs from 0, or downwards."""
WINDOW_ROWS = 10_000

_NEXT = (
    select(prompt_states.c.prompt_id)
    .where(prompt_states.c.prompt_id >= bindparam("first_id"))
    .order_by(prompt_states.c.prompt_id)
    .limit(bindparam("rows"))
    .subquery()
)
_LAST = select(func.max(_NEXT.c.prompt_id))


async def last_of_next(connection: AsyncConnection, first_id: int, rows: int) -> int | None:
    """The id of the last of the next `rows` prompts from `first_id` on; None behind the last of all."""
    last: int | None = (await connection.execute(_LAST, {"first_id": first_id, "rows": rows})).scalar_one()
    return last


async def windows(connection: AsyncConnection) -> AsyncIterator[tuple[int, int]]:
    """Every prompt, in the order of ids: the first id of each window, and its last."""
    first_id = FIRST_ID
    while (last := await last_of_next(connection, first_id, WINDOW_ROWS)) is not None:
        yield first_id, last
        first_id = last + 1


def within_window(ids: ColumnElement[int]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """For each table that a statement joins: PostgreSQL walks all of one that is bounded only by the other."""
    return ids >= bindparam("first_id"), ids <= bindparam("last_id")
