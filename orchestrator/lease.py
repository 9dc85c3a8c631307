"""Working on a batch under a lease that is renewed for as long as the work takes, and given back after it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.context import Tick
from orchestrator.errors import LeaseLost, StoreError
from orchestrator.store.batches import (
    OF_PROVIDERS,
    OTHER_THAN,
    Claim,
    claim_batches,
    next_dues_ms,
    postpone,
    release_leases,
    renew_lease,
)
from orchestrator.store.retention import take_chore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.context import Context
    from orchestrator.core.model import Batch
    from orchestrator.store.batches import Dues

LEASE_SECONDS = 120.0
CRASH_PAUSE_SECONDS = 2.0


async def take_on(connection: AsyncConnection, context: Context, chore: str) -> bool:
    """Whether this chore, which one daemon does for all, is ours for the length of a lease."""
    return await take_chore(connection, chore, context.owner, context.now_ms(), context.in_ms(LEASE_SECONDS))


@contextlib.asynccontextmanager
async def held(context: Context, where: ColumnElement[bool]) -> AsyncIterator[Batch | Tick]:
    """Claim the batch that has been due longest among `where`; when none is due, the tick that says when one is."""
    async with held_together(context, where, 1) as found:
        yield found if isinstance(found, Tick) else found[0]


@contextlib.asynccontextmanager
async def held_together(context: Context, where: ColumnElement[bool], most: int) -> AsyncIterator[list[Batch] | Tick]:
    """Claim the batches that have been due longest, `most` at most.

    Those of a provider that left the settings wait until it is back. Those that bring their stage down queue up behind
    the others: they must not hold them up.
    """
    where = _reachable(where)
    due_ms = await _look(context, where)
    batches = await _claim(context, where, most) if due_ms is not None and due_ms <= context.now_ms() else []
    if not batches:
        yield Tick(due_ms=due_ms)
        return
    renewing = asyncio.create_task(_keep_renewing(context, batches))
    try:
        yield batches
    except StoreError:
        raise
    except Exception:
        await _postpone(context, batches)
        raise
    finally:
        renewing.cancel()
        for batch in batches:
            context.holding.pop(batch.id, None)
        await context.database.write(partial(release_leases, batches=batches))


async def _postpone(context: Context, batches: Sequence[Batch]) -> None:
    for batch in batches:
        later = partial(postpone, batch=batch, next_try_at_ms=context.in_ms(CRASH_PAUSE_SECONDS))
        with contextlib.suppress(StoreError):
            await context.database.write(later)


@functools.lru_cache(maxsize=64)
def _reachable(where: ColumnElement[bool]) -> ColumnElement[bool]:
    return where & OF_PROVIDERS & OTHER_THAN


async def _look(context: Context, where: ColumnElement[bool]) -> int | None:
    """When the first of these is due. Loops that wake at one ring of the bell look once, for all of them together."""
    look = next(iter(context.looks.values()), None)
    if look is None:
        look = asyncio.ensure_future(_looked(context))
        look.add_done_callback(_heard)
    context.looks[where] = look
    return (await asyncio.shield(look))[where]


async def _looked(context: Context) -> Dues:
    await asyncio.sleep(0)  # whoever asks until then sees nothing older than what it asked for
    wheres = list(context.looks)
    context.looks.clear()
    return await context.database.read(partial(next_dues_ms, wheres=wheres, now_ms=context.now_ms(), **_among(context)))


def _heard(look: asyncio.Future[Dues]) -> None:
    """Nobody may be left to take the exception."""
    if not look.cancelled():
        look.exception()


def _among(context: Context) -> dict[str, Any]:
    return {"providers": list(context.clients), "others": sorted(context.holding)}


async def _claim(context: Context, where: ColumnElement[bool], most: int) -> list[Batch]:
    claim = Claim(context.owner, context.now_ms(), context.in_ms(LEASE_SECONDS), most)
    until = context.steady() + LEASE_SECONDS
    batches = await context.database.write(partial(claim_batches, where=where, claim=claim, **_among(context)))
    context.holding.update((batch.id, until) for batch in batches)
    return batches


async def _keep_renewing(context: Context, batches: Sequence[Batch]) -> None:
    while True:
        await asyncio.sleep(LEASE_SECONDS / 4)
        for batch in batches:
            await _renew(context, batch)


async def _renew(context: Context, batch: Batch) -> None:
    """A renewal that fails is no reason to stop: every write checks the fence for itself."""
    until = context.steady() + LEASE_SECONDS
    with contextlib.suppress(StoreError):
        await context.database.write(partial(renew_lease, batch=batch, lease_until_ms=context.in_ms(LEASE_SECONDS)))
        context.holding[batch.id] = until


async def keep_lease(connection: AsyncConnection, context: Context, batch: Batch) -> None:
    """Before writing what a batch holds: raises LeaseLost when somebody else does, and lets nobody until it is done."""
    await renew_lease(connection, batch, context.in_ms(LEASE_SECONDS))


def require_lease(context: Context, batch: Batch) -> None:
    """Raises LeaseLost when this process was frozen for so long that somebody else may hold the batch by now.

    Asked right before a call that costs money: what was stopped between its intent and the call must not send it.
    """
    if context.steady() >= context.holding.get(batch.id, 0.0):
        raise LeaseLost(f"batch {batch.key}: the lease ran out before the call was made")
