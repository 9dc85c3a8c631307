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


class Troubles:
    """Why loops fail, told once for all that fail for the same reason: a full disk stops every one of them."""

    def __init__(self) -> None:
        self._failing: dict[str, dict[object, str]] = {}
        self._told: dict[str, int] = {}
        self._unheard = 0

    def failed(self, loop: object, stage: str, error: Exception, failures: int) -> float:
        """Log the failure of this loop's tick, folded; the pause it earns in seconds."""
        most = STORE_PAUSE_MAX_SECONDS if isinstance(error, StoreUnavailable) else PAUSE_MAX_SECONDS
        pause = min(most, 2.0 ** min(failures - 1, 20))
        reason = str(error)
        self._forget(loop, but=reason)
        sharers = self._failing.setdefault(reason, {})
        sharers[loop] = stage
        told = self._told.setdefault(reason, 0)
        if not told or (worth_telling(failures) and failures > told):
            self._told[reason] = failures
            stages = sorted(set(sharers.values()))
            facts = {"stages": stages, "reason": reason, "failures": failures, "pause_seconds": pause}
            ours = isinstance(error, OrchestratorError)
            record("loop.failed", **facts) if ours else record("loop.crashed", **facts, exc_info=error)
        return pause

    def recovered(self, loop: object, stage: str, failures: int) -> None:
        """Told when the last of those that failed for the same reason works again."""
        if self._forget(loop):
            record("loop.recovered", stage=stage, failures=failures)

    def deaf(self, reason: str | None) -> None:
        """Nothing wakes the stages when rows come in; None: something does. Folded."""
        if reason is None and self._unheard:
            record("loop.hears", tries=self._unheard)
        self._unheard = 0 if reason is None else self._unheard + 1
        if reason is not None and worth_telling(self._unheard):
            record("loop.deaf", reason=reason, tries=self._unheard)

    def _forget(self, loop: object, but: str | None = None) -> bool:
        """Whether nobody fails any more for the reason that this loop failed for."""
        left = [reason for reason, sharers in self._failing.items() if loop in sharers and reason != but]
        for reason in left:
            del self._failing[reason][loop]
        empty = [reason for reason in left if not self._failing[reason]]
        for reason in empty:
            del self._failing[reason], self._told[reason]
        return bool(empty)


async def run_loop(
    name: str,
    tick: Callable[[], Awaitable[Tick]],
    bell: Bell,
    troubles: Troubles,
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
            await _sit_out(bell, woken, troubles.failed(woken, name, error, failures))
            continue
        if failures:
            troubles.recovered(woken, name, failures)
            failures = 0
        if done.moved:
            bell.ring()
        await _rest(bell, woken, 0 if done.more else _until_due(done, seconds_until))


def _until_due(done: Tick, seconds_until: Callable[[int], float]) -> float:
    wait = LONGEST_REST_SECONDS if done.due_ms is None else seconds_until(done.due_ms)
    return min(max(wait, SHORTEST_REST_SECONDS), LONGEST_REST_SECONDS)


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
