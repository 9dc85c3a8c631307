"""Several daemons tell their leases by their own clocks: each compares its clock with that of the database's server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.lease import LEASE_SECONDS
from orchestrator.store.postgresql import read_server_ms
from orchestrator.telemetry import record, worth_telling

if TYPE_CHECKING:
    from orchestrator.context import Context

LOOK_SECONDS = 60.0
BOUND_SECONDS = LEASE_SECONDS / 4
"""A lease is renewed when a quarter of it is over. Two clocks that are wrong by this much, one ahead and one behind,
leave the last quarter."""


async def watch_clock(context: Context) -> None:
    """Compare at once and every minute, until cancelled. A SQLite file has one machine's clock only."""
    looks = 0
    while not context.database.is_sqlite:
        with contextlib.suppress(StoreError):
            looks = await compared(context, looks)
        await asyncio.sleep(LOOK_SECONDS)


async def compared(context: Context, looks: int) -> int:
    """How many looks in a row have found the clocks too far apart, `looks` before this one. Told, folded.

    However long the answer takes, it was given between the two times we read.
    """
    asked_at_ms = context.now_ms()
    server_ms = await context.database.read(read_server_ms)
    ahead_ms = asked_at_ms - server_ms if asked_at_ms > server_ms else min(0, context.now_ms() - server_ms)
    if abs(ahead_ms) <= BOUND_SECONDS * 1000:
        if looks:
            record("daemon.clock_agrees", looks=looks)
        return 0
    if worth_telling(looks + 1):
        record("daemon.clock_differs", ahead_seconds=round(ahead_ms / 1000, 1), looks=looks + 1)
    return looks + 1
