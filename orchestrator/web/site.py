"""What every address of the page is given: the daemon it shows, and answers remembered for some seconds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from aiohttp import web

from orchestrator.web.counters import Counters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.context import Context
    from orchestrator.vitals import Vitals

T = TypeVar("T")

SHARE = 20
"""An answer that took a second to find is kept for this many: the page takes a twentieth of one reader at most."""
WAIT_SECONDS = 10.0


@dataclass(slots=True)
class Site:
    """One daemon as it is shown. `token` is what a visitor must know, None where anybody on this machine may look."""

    context: Context
    vitals: Vitals
    token: str | None
    counters: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.counters = Counters(self.context.clients)


SITE = web.AppKey("site", Site)


class Remembered(Generic[T]):
    """The answer to a question that costs something: asked once for all who wait, then kept for a while."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask = ask
        self._seconds = seconds
        self._task: asyncio.Task[T] | None = None
        self._stale_at = 0.0

    async def get(self) -> T:
        """The answer, or the error it ended with. Raises TimeoutError when it takes too long; it is still awaited."""
        loop = asyncio.get_running_loop()
        if self._task is None or (self._task.done() and loop.time() >= self._stale_at):
            self._task = loop.create_task(self._timed())
        async with asyncio.timeout(WAIT_SECONDS):
            return await asyncio.shield(self._task)

    async def _timed(self) -> T:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            return await self._ask()
        finally:
            ended_at = loop.time()
            self._stale_at = ended_at + max(self._seconds, SHARE * (ended_at - began_at))
