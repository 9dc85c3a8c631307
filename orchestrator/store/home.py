"""Which copy of a queue is the one to work on, and whether it is still where its daemons left it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select, update

from orchestrator.errors import QueueMoved
from orchestrator.store.batches import release_all_leases
from orchestrator.store.dialect import POSTGRESQL
from orchestrator.store.tables import batch_states, queue_state

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

HERE = (
    "SELECT concat_ws('/', system_identifier, pg_database.oid, 'queue_state'::regclass::oid)"
    " FROM pg_control_system(), pg_database WHERE datname = current_database()"
)
"""This server, this database, this table: what comes out of a dump has another number somewhere."""


class Elsewhere(NamedTuple):
    """Another copy of this queue is the one to work on."""

    what: str
    todo: str


async def read_elsewhere(connection: AsyncConnection) -> Elsewhere | None:
    found = select(queue_state.c.moved_to, queue_state.c.copied_from)
    moved_to, copied_from = (await connection.execute(found)).one()
    if moved_to is not None:
        return Elsewhere(
            f"this queue has moved to {moved_to}, or is on its way there",
            "name that address in database.url; a copy that was broken off goes on when `orchestrator copy` is run "
            "again, and is given up with --undo",
        )
    if copied_from is not None:
        return Elsewhere(
            f"this queue is still being copied from {copied_from}",
            "run `orchestrator copy` again until it says that all is there",
        )
    return None


async def require_here(connection: AsyncConnection) -> None:
    """Raises QueueMoved where another copy of this queue is the one to work on."""
    elsewhere = await read_elsewhere(connection)
    if elsewhere is not None:
        raise QueueMoved(": ".join(elsewhere))


async def settle_in(connection: AsyncConnection) -> None:
    """Before a daemon works: note where the queue lives. Raises QueueMoved as `require_here` does.

    One that lived elsewhere was restored from a dump, and is marked as a backup: of the last time that its daemons
    noted anything, since a dump does not say when it was made. Its leases are of daemons that work there. Where a copy
    begins at this moment, one of both waits.
    """
    known = (await connection.execute(select(queue_state.c.home).with_for_update())).scalar_one()
    await require_here(connection)
    if connection.dialect.name != POSTGRESQL:
        return
    here = (await connection.exec_driver_sql(HERE)).scalar_one()
    if here == known:
        return
    await connection.execute(update(queue_state).values(home=here))
    if known is not None:
        restored = update(queue_state).where(queue_state.c.backed_up_at_ms.is_(None))
        await connection.execute(restored.values(backed_up_at_ms=_LAST_NOTED, looks=0, look_at_ms=0))
        await release_all_leases(connection)


_TIMES = (batch_states.c.created_at_ms, batch_states.c.polled_at_ms, batch_states.c.settled_at_ms)
_LAST_NOTED = select(func.coalesce(func.greatest(*(func.max(time) for time in _TIMES)), 0)).scalar_subquery()
