"""One stage, run for ever: tick, pause, wake, back off. Written once, for all stages."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError, StoreUnavailable
from orchestrator.telemetry import record, worth_telling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.context import Tick

SHORTEST_REST_SECONDS, LONGEST_REST_SECONDS = 0.1, 60.0
"""Bounds of a pause: somebody else may hold what is due, and a ring may be missed."""
PAUSE_MAX_SECONDS = 300.0
STORE_PAUSE_MAX_SECONDS = 15.0


class Bell:
    """Wakes all loops after a commit that may give them work, or to stop."""

    def __init__(self) -> None:
        self._sleepers: list[asyncio.Event] = []
        self.stopping = False

    def ring(self) -> None:
        for sleeper in self._sleepers:
            sleeper.set()

    def stop(self) -> None:
        self.stopping = True
        self.ring()

    def sleeper(self) -> asyncio.Event:
        """An event that is set whenever the bell rings."""
        event = asyncio.Event()
        self._sleepers.append(event)
        return event


async def run_loop(
    name: str,
    tick: Callable[[], Awaitable[Tick]],
    bell: Bell,
    seconds_until: Callable[[int], float],
) -> None:
    """Tick until the bell says stop, resting until the time at which a tick says that more is due.

    A tick in hand is always finished; failures lengthen the pause up to a cap.
    """
    woken = bell.sleeper()
    failures = 0
    while not bell.stopping:
        woken.clear()
        try:
            done = await tick()
        except Exception as error:  # noqa: BLE001 - the one place that outlives any failure
            failures += 1
            await _sit_out(bell, woken, _failed(name, error, failures))
            continue
        if failures:
            record("loop.recovered", stage=name, failures=failures)
            failures = 0
        if done.moved:
            bell.ring()
        await _rest(bell, woken, 0 if done.more else _until_due(done, seconds_until))


def _until_due(done: Tick, seconds_until: Callable[[int], float]) -> float:
    wait = LONGEST_REST_SECONDS if done.due_ms is None else seconds_until(done.due_ms)
    return min(max(wait, SHORTEST_REST_SECONDS), LONGEST_REST_SECONDS)


def _failed(name: str, error: Exception, failures: int) -> float:
    """Log a failed tick, folded; the pause it earns in seconds."""
    most = STORE_PAUSE_MAX_SECONDS if isinstance(error, StoreUnavailable) else PAUSE_MAX_SECONDS
    pause = min(most, 2.0 ** min(failures - 1, 20))
    ours = isinstance(error, OrchestratorError)
    if worth_telling(failures):
        facts = {"stage": name, "reason": str(error), "failures": failures, "pause_seconds": pause}
        record("loop.failed", **facts) if ours else record("loop.crashed", **facts, exc_info=error)
    return pause


async def _rest(bell: Bell, woken: asyncio.Event, seconds: float) -> None:
    """Pause, cut short by the bell."""
    if not seconds:
        await asyncio.sleep(0)
        return
    if bell.stopping:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()


async def _sit_out(bell: Bell, woken: asyncio.Event, seconds: float) -> None:
    """Pause after a failure: new work does not cut it short, only a stop does."""
    end = asyncio.get_running_loop().time() + seconds
    while not bell.stopping and (left := end - asyncio.get_running_loop().time()) > 0:
        woken.clear()
        await _rest(bell, woken, left)
