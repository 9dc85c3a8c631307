"""Which copy of a queue is the one to work on: not one that moved away, and not one that is not whole yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from orchestrator.errors import QueueMoved
from orchestrator.store.tables import queue_state

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

MOVED = (
    "this queue has moved to {}, or is on its way there: name that address in database.url; a copy that was broken "
    "off goes on when `orchestrator copy` is run again, and is given up with --undo"
)
UNFINISHED = "this queue is still being copied from {}: run `orchestrator copy` again until it says that all is there"


async def require_here(connection: AsyncConnection) -> None:
    """Raises QueueMoved where another copy of this queue is the one to work on."""
    found = select(queue_state.c.moved_to, queue_state.c.copied_from)
    moved_to, copied_from = (await connection.execute(found)).one()
    if moved_to is not None:
        raise QueueMoved(MOVED.format(moved_to))
    if copied_from is not None:
        raise QueueMoved(UNFINISHED.format(copied_from))
