"""Answers that cost something, remembered for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

SHARE = 20
"""An answer that took a second to find is kept for this many: who asks takes a twentieth of one reader at most."""
WAIT_SECONDS = 10.0


class Remembered(Generic[T]):
    """The answer to a question that costs something: asked once for all who wait, then kept for a while."""

    def __init__(
        self, ask: Callable[[], Awaitable[T]], seconds: float, wait_seconds: float | None = WAIT_SECONDS
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._wait_seconds = wait_seconds
        self._task: asyncio.Task[T] | None = None
        self._stale_at = 0.0

    async def get(self) -> T:
        """The answer, or the error it ended with. Raises TimeoutError when it takes too long; it is still awaited."""
        loop = asyncio.get_running_loop()
        if self._task is None or (self._task.done() and loop.time() >= self._stale_at):
            self._task = loop.create_task(self._timed())
        async with asyncio.timeout(self._wait_seconds):
            return await asyncio.shield(self._task)

    async def _timed(self) -> T:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            return await self._ask()
        finally:
            ended_at = loop.time()
            self._stale_at = ended_at + max(self._seconds, SHARE * (ended_at - began_at))
