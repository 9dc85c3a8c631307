"""New prompts, written for the user by `enqueue`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import exc, func, select

from orchestrator.errors import StoreError
from orchestrator.store.database import insert_many
from orchestrator.store.tables import prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

WRITTEN = tuple(column.name for column in prompts.c if column.name not in {"id", "created_at"})
CUSTOM_ID_TAKEN = ("prompts_custom_id", "UNIQUE constraint failed: prompts.custom_id")
"""The constraint that PostgreSQL names, and what SQLite says."""


class CustomIdTaken(StoreError):
    """One of them is, and nobody looked which; on PostgreSQL somebody may insert it after our look, too."""


class Unstorable(StoreError):
    """One of these rows holds what PostgreSQL cannot store: a NUL, a time that is none."""


async def insert_new(connection: AsyncConnection, rows: Sequence[dict[str, Any]], *, look: bool) -> set[int]:
    """Insert the rows whose custom_id is free; the indexes of the others. Each row names every column of WRITTEN.

    Without a `look` at which are taken it raises CustomIdTaken when any is. A custom_id of None lets the table choose
    one. Of rows with the same custom_id the first is inserted. Raises StoreError, and inserts nothing, when the table
    refuses a row for another reason; Unstorable, when that is what the row holds.
    """
    refused = await _refused(connection, rows) if look else set()
    try:
        await insert_many(connection, prompts, [row for index, row in enumerate(rows) if index not in refused])
    except (exc.IntegrityError, exc.DataError) as error:
        reason = str(error.orig).partition("\n")[0]
        if getattr(getattr(error.orig, "diag", None), "constraint_name", reason) in CUSTOM_ID_TAKEN:
            raise CustomIdTaken("one of these custom_ids was taken just now: run it again with --resume") from error
        if isinstance(error, exc.DataError):
            raise Unstorable(f"the database cannot store it: {reason}: correct it") from error
        raise StoreError(f"the table prompts refuses a row: {reason}: correct it or the table's rules") from error
    return refused


async def _refused(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> set[int]:
    """The indexes of rows whose custom_id is in the table, or in a row before them."""
    seen = await _taken(connection, sorted({row["custom_id"] for row in rows} - {None}))
    refused = set[int]()
    for index, row in enumerate(rows):
        if row["custom_id"] in seen:
            refused.add(index)
        elif row["custom_id"] is not None:
            seen.add(row["custom_id"])
    return refused


async def greatest_custom_id(connection: AsyncConnection, low: str, high: str) -> str | None:
    """The greatest custom_id from `low` to below `high`; one look into its index."""
    found = select(func.max(prompts.c.custom_id)).where(prompts.c.custom_id >= low, prompts.c.custom_id < high)
    greatest: str | None = (await connection.execute(found)).scalar_one()
    return greatest


async def _taken(connection: AsyncConnection, custom_ids: Sequence[str]) -> set[str]:
    if not custom_ids:
        return set()
    found = select(prompts.c.custom_id).where(prompts.c.custom_id.in_(custom_ids))
    return {custom_id for (custom_id,) in await connection.execute(found)}
