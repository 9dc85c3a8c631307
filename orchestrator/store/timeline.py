"""Everything that is known of one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import column, func, select, table

from orchestrator.store.dialect import utc_text
from orchestrator.store.tables import prompt_states, replies

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

BATCH_COLUMNS = (
    "id", "key", "provider", "endpoint", "model", "completion_window", "status", "remote_status", "remote_batch_id",
    "input_file_id", "output_file_id", "error_file_id", "lines", "bytes", "remote_total", "remote_completed",
    "remote_failed", "lines_received", "lines_done", "lines_failed", "lines_resent", "duplicates", "unreadable",
    "created_at", "uploaded_at", "submitted_at", "polled_at", "ended_at", "settled_at", "next_poll_at", "last_error",
    "last_error_at", "files_deleted_at",
)  # fmt: skip
"""Columns of the view `batches` (product, section 2)."""

_view = table("batches", *(column(name) for name in BATCH_COLUMNS))
_SHOWN = [utc_text(shown).label(name) if name.endswith("_at") else shown for name, shown in _view.c.items()]


async def list_batches(connection: AsyncConnection, before_id: int | None, limit: int) -> list[dict[str, Any]]:
    """Batches newest first, from below `before_id`."""
    found = select(*_SHOWN).order_by(_view.c.id.desc()).limit(limit)
    if before_id is not None:
        found = found.where(_view.c.id < before_id)
    return [dict(row) for row in (await connection.execute(found)).mappings()]


async def find_batch(connection: AsyncConnection, named: str) -> dict[str, Any] | None:
    """The newest batch with this id, key or remote batch id, which two providers may give; None when there is none."""
    matches: list[ColumnElement[bool]] = [_view.c.key == named, _view.c.remote_batch_id == named]
    if named.isascii() and named.isdigit():
        matches.append(_view.c.id == int(named[:18]))
    for match in matches:
        newest = select(*_SHOWN).where(match).order_by(_view.c.id.desc()).limit(1)
        row = (await connection.execute(newest)).mappings().one_or_none()
        if row is not None:
            return dict(row)
    return None


async def count_outcomes(connection: AsyncConnection, batch_id: int) -> dict[str, int]:
    """Lines of the batch by outcome: `done`, each fault, and `waiting` for those still in it."""
    of_batch = select(func.coalesce(replies.c.fault, "done"), func.count()).where(replies.c.batch_id == batch_id)
    counted = {row[0]: row[1] for row in await connection.execute(of_batch.group_by(replies.c.fault))}
    still = select(func.count()).select_from(prompt_states)
    still = still.where(prompt_states.c.status == "batched", prompt_states.c.batch_id == batch_id)
    waiting = int((await connection.execute(still)).scalar_one())
    return {**counted, "waiting": waiting} if waiting else counted
