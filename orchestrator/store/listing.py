"""The `results` view, read page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import column, select, table

from orchestrator.store.dialect import utc_text, utf8
from orchestrator.store.windows import last_of_next

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

RESULT_COLUMNS = (
    "id",
    "custom_id",
    "tag",
    "status",
    "answer",
    "response",
    "finish_reason",
    "status_code",
    "fault",
    "error_code",
    "error_message",
    "attempts",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "batch_id",
    "created_at",
    "finished_at",
    "metadata",
)
WINDOW_ROWS = 20_000
"""Prompts looked at in one transaction, however few of them fit."""

TIMES = ("created_at", "finished_at")
AS_BYTES = frozenset({"tag", "response", "model", "created_at", "metadata"})
"""Columns in which a user may have stored bytes that are no UTF-8, and the one that is passed on as it is."""

results_view = table("results", *(column(name) for name in RESULT_COLUMNS))


def _shown(name: str) -> ColumnElement[Any]:
    shown = utc_text(results_view.c[name]) if name in TIMES else results_view.c[name]
    return utf8(shown).label(name) if name in AS_BYTES else shown


SHOWN = tuple(_shown(name) for name in RESULT_COLUMNS)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which results are wanted; None and empty choose all."""

    tag: str | None = None
    statuses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in the order of RESULT_COLUMNS, and the id after which the next page starts; None after the last."""

    rows: Sequence[Sequence[Any]]
    next_id: int | None


async def read_results(connection: AsyncConnection, chosen: Chosen, first_id: int, limit: int) -> Page:
    """Results in the order of their id, from `first_id` on, at most `limit`.

    A page may hold fewer, or none, before the last: it looks at no more than WINDOW_ROWS prompts.
    """
    last = await last_of_next(connection, first_id, WINDOW_ROWS)
    if last is None:
        return Page([], None)
    found = chosen_only(select(*SHOWN).where(results_view.c.id >= first_id, results_view.c.id <= last), chosen)
    rows = list(await connection.execute(found.order_by(results_view.c.id).limit(limit)))
    return Page(rows, (rows[-1][0] if len(rows) == limit else last) + 1)


def chosen_only(found: Select[Any], chosen: Chosen) -> Select[Any]:
    if chosen.tag is not None:
        found = found.where(results_view.c.tag == chosen.tag)
    if chosen.statuses:
        found = found.where(results_view.c.status.in_(chosen.statuses))
    return found
