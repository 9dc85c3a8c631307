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
    claim_batch,
    next_dues_ms,
    postpone,
    release_lease,
    renew_lease,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.context import Context
    from orchestrator.core.model import Batch
    from orchestrator.store.batches import Dues

LEASE_SECONDS = 120.0
CRASH_PAUSE_SECONDS = 2.0


@contextlib.asynccontextmanager
async def held(context: Context, where: ColumnElement[bool]) -> AsyncIterator[Batch | Tick]:
    """Claim the batch that has been due longest among `where`; when none is due, the tick that says when one is.

    Batches of a provider that left the settings wait until it is back. One that brings its stage down queues up behind
    the others: it must not hold them up.
    """
    where = _reachable(where)
    due_ms = await _look(context, where)
    batch = await _claim(context, where) if due_ms is not None and due_ms <= context.now_ms() else None
    if batch is None:
        yield Tick(due_ms=due_ms)
        return
    renewing = asyncio.create_task(_keep_renewing(context, batch))
    try:
        yield batch
    except StoreError:
        raise
    except Exception:
        later = partial(postpone, batch=batch, next_try_at_ms=context.in_ms(CRASH_PAUSE_SECONDS))
        with contextlib.suppress(StoreError):
            await context.database.write(later)
        raise
    finally:
        renewing.cancel()
        context.holding.pop(batch.id, None)
        await context.database.write(partial(release_lease, batch=batch))


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


async def _claim(context: Context, where: ColumnElement[bool]) -> Batch | None:
    claim = partial(
        claim_batch, where=where, owner=context.owner, now_ms=context.now_ms(),
        lease_until_ms=context.in_ms(LEASE_SECONDS), **_among(context),
    )  # fmt: skip
    until = context.steady() + LEASE_SECONDS
    batch = await context.database.write(claim)
    if batch is not None:
        context.holding[batch.id] = until
    return batch


async def _keep_renewing(context: Context, batch: Batch) -> None:
    """A renewal that fails is no reason to stop: every write checks the fence for itself."""
    while True:
        await asyncio.sleep(LEASE_SECONDS / 4)
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
