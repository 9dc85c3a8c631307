"""Clocks that are wrong. One that is set back has what was scheduled brought forward, which would wait as much longer.

Several daemons tell their leases by their own clocks: each compares its clock with that of the database's server.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError
from orchestrator.lease import LEASE_SECONDS
from orchestrator.store.postgresql import read_server_ms
from orchestrator.store.schedule import bring_forward, read_latest_ms
from orchestrator.telemetry import record, worth_telling

if TYPE_CHECKING:
    from orchestrator.context import Context

LOOK_SECONDS = 60.0
BOUND_SECONDS = LEASE_SECONDS / 4
"""A lease is renewed when a quarter of it is over. Two clocks that are wrong by this much, one ahead and one behind,
leave the last quarter."""
JUMP_SECONDS = STABLE_SECONDS = 3600.0
"""A clock that gains more between two looks has jumped, and is believed when it has stayed there for so long."""
BACK_SECONDS = 60.0
"""A clock that lost less since the last look holds up nothing that matters."""


def tells_ages(context: Context) -> bool:
    """What is old by a clock that has just jumped ahead may be young: it first has to stay where it is (F39)."""
    trust, ahead, now = context.trust, context.clock() - context.steady(), context.steady()
    if trust.trusted is None or ahead - trust.trusted <= JUMP_SECONDS:
        trust.trusted, trust.since = ahead, None
    elif trust.since is None or abs(ahead - trust.seen) > JUMP_SECONDS:
        record("daemon.clock_jumped", ahead_seconds=round(ahead - trust.trusted), pause_seconds=STABLE_SECONDS)
        trust.seen, trust.since = ahead, now
    elif now - trust.since >= STABLE_SECONDS:
        trust.trusted, trust.since = ahead, None
    return trust.since is None


async def heed_past(context: Context) -> None:
    """At the start: what was seen already lies in the future of a clock that was set back meanwhile."""
    back_ms = await context.database.read(read_latest_ms) - context.now_ms()
    await _set_back(context, back_ms / 1000)


async def watch_jumps(context: Context) -> None:
    """Compare the machine's clock with the steady one every minute, until cancelled."""
    ahead = context.clock() - context.steady()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        with contextlib.suppress(StoreError):
            ahead = await followed(context, ahead)


async def followed(context: Context, ahead: float) -> float:
    """How far the clock is ahead of the steady one now, `ahead` at the last look."""
    ahead_now = context.clock() - context.steady()
    await _set_back(context, ahead - ahead_now)
    return ahead_now


async def _set_back(context: Context, seconds: float) -> None:
    if seconds > BACK_SECONDS:
        forward = partial(bring_forward, back_ms=int(seconds * 1000), now_ms=context.now_ms())
        await context.database.write(forward)
        record("daemon.clock_set_back", seconds=round(seconds))


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
