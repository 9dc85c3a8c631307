"""Whether the daemon's loops still tick: the one answer for the health check and for the service manager."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.loop import LONGEST_REST_SECONDS, PAUSE_MAX_SECONDS
from orchestrator.measures import measure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.context import Tick

REST_PATIENCE_SECONDS = PAUSE_MAX_SECONDS + LONGEST_REST_SECONDS
"""A loop rests no longer than its longest pause; the rest is slack for a machine out of breath."""
TICK_PATIENCE_SECONDS = 600.0
"""What a tick may take beside its calls to a provider: a full disk, a long migration of another program."""


@dataclass(slots=True, eq=False)
class Sign:
    """One loop's last sign of life: since when it ticks or rests, and how long it may do so."""

    stage: str
    since: float
    patience_seconds: float


class Vitals:
    """The loops of one daemon, as they were last seen."""

    def __init__(self) -> None:
        self.stopping = False
        self._signs: list[Sign] = []

    def watched(
        self, stage: str, tick: Callable[[], Awaitable[Tick]], calls_seconds: float
    ) -> Callable[[], Awaitable[Tick]]:
        """`tick` with a sign of life before and after it; its calls to a provider may take so long in all.

        A loop counts from its first tick on: in a restored queue it may have to wait for that.
        """
        clock = asyncio.get_running_loop().time
        sign = Sign(stage, clock(), REST_PATIENCE_SECONDS)

        async def watched_tick() -> Tick:
            if sign not in self._signs:
                self._signs.append(sign)
            began_at, done = clock(), None
            sign.since, sign.patience_seconds = began_at, TICK_PATIENCE_SECONDS + calls_seconds
            try:
                done = await tick()
                return done
            finally:
                sign.since, sign.patience_seconds = clock(), REST_PATIENCE_SECONDS
                moved = None if done is None else done.moved
                measure("loop.ticked", stage=stage, seconds=sign.since - began_at, moved=moved)

        return watched_tick

    def stuck(self) -> list[str]:
        """Stages with a loop that gave no sign of life for too long; none when all is well."""
        now = asyncio.get_running_loop().time()
        return sorted({sign.stage for sign in self._signs if now - sign.since > sign.patience_seconds})
