"""Prune: delete prompts and batches older than `retention.finished_days`, and give the free space back to the system.

It runs beside the flow, in transactions so short that nobody who writes waits for long, and only in one daemon.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.clocks import tells_ages
from orchestrator.context import Context, Tick
from orchestrator.lease import take_on
from orchestrator.store.retention import (
    count_pages,
    give_back,
    list_expired,
    list_forgotten,
    prune_batches,
    prune_lines,
    prune_prompts,
)
from orchestrator.telemetry import record as tell

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

DAY_MS = 86_400_000
LOOK_SECONDS = 60.0
"""Between two looks when nothing is left, and between two lines of the log: what is old enough comes in small steps."""
SPARE_SHARE = 10
"""One page in so many stays free, for the rows that come next."""
STEP_PAGES = 1000


async def prune(context: Context) -> Tick:
    """Take one small step; the prompts first, then their batches, then the space."""
    days = context.config.retention.finished_days
    if not days:
        return Tick()
    if not tells_ages(context):
        return Tick(due_ms=context.in_ms(LOOK_SECONDS))
    before_ms = context.now_ms() - days * DAY_MS
    moved = await _prompts(context, before_ms) or await _batches(context, before_ms) or await _space(context)
    _tell(context, caught_up=not moved)
    return Tick(moved, more=moved > 0, due_ms=context.in_ms(LOOK_SECONDS))


async def _prompts(context: Context, before_ms: int) -> int:
    expired = await context.database.read(partial(list_expired, before_ms=before_ms))
    if not expired:
        return 0

    async def work(connection: AsyncConnection) -> int:
        return await prune_prompts(connection, expired, before_ms) if await take_on(connection, context, "prune") else 0

    gone = await context.database.write(work)
    context.pruning.prompts += gone
    return gone


async def _batches(context: Context, before_ms: int) -> int:
    """A batch whose files are to be deleted at the provider stays until they are: it alone knows them."""
    with_files = context.config.retention.remote_files == "keep"
    forgotten = await context.database.read(partial(list_forgotten, before_ms=before_ms, with_files=with_files))
    if not forgotten:
        return 0

    async def work(connection: AsyncConnection) -> tuple[int, int]:
        if not await take_on(connection, context, "prune"):
            return 0, 0
        lines = await prune_lines(connection, forgotten)
        return lines, 0 if lines else await prune_batches(connection, forgotten)

    lines, gone = await context.database.write(work)
    context.pruning.batches += gone
    return lines + gone


async def _space(context: Context) -> int:
    pages, free = await context.database.read(count_pages)
    surplus = min(STEP_PAGES, free - pages // SPARE_SHARE)
    if surplus <= 0:
        return 0

    async def work(connection: AsyncConnection) -> int:
        return await give_back(connection, surplus) if await take_on(connection, context, "prune") else 0

    return await context.database.write(work)


def _tell(context: Context, *, caught_up: bool) -> None:
    """One line for many steps."""
    pruning, now_ms = context.pruning, context.now_ms()
    if not (pruning.prompts or pruning.batches):
        return
    if caught_up or now_ms - pruning.told_at_ms >= LOOK_SECONDS * 1000:
        tell("prune.pruned", prompts=pruning.prompts, batches=pruning.batches)
        pruning.prompts = pruning.batches = 0
        pruning.told_at_ms = now_ms
