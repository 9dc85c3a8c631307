"""What a service manager is told (systemd's `sd_notify`): ready, alive, where the work stands, stopping.

Nothing is told where nobody asks: the manager names its socket in NOTIFY_SOCKET, and how often it wants to hear that
the daemon is alive in WATCHDOG_USEC. One datagram each; one that cannot be sent is left, the next one says as much.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from orchestrator.core.model import PromptStatus
from orchestrator.measures import listening

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.vitals import Vitals


async def report(vitals: Vitals, environ: Mapping[str, str]) -> None:
    """Report a running daemon until cancelled: READY at once, STOPPING at the end, WATCHDOG while its loops tick."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        manager = Manager(channel, address)
        manager.notify("READY=1")
        with listening(manager.hear):
            try:
                await _watch(manager, vitals, watchdog_seconds(environ))
            finally:
                manager.notify("STOPPING=1")


async def _watch(manager: Manager, vitals: Vitals, interval: float | None) -> None:
    if interval is None:
        await asyncio.Event().wait()
        return
    while True:
        if not vitals.stuck():
            manager.notify("WATCHDOG=1")
        await asyncio.sleep(interval / 2)


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Within what time the manager wants a sign of life from this very process; None when it wants none."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6


class Manager:
    """The other end of the socket, told of each heartbeat."""

    def __init__(self, channel: socket.socket, address: str) -> None:
        self._channel = channel
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._done = 0
        self._since = time.monotonic()

    def notify(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._channel.sendto(line.encode(), self._address)

    def hear(self, what: str, facts: Mapping[str, Any]) -> None:
        if what == "store.recorded":
            self._done += facts["statuses"].get(PromptStatus.DONE, 0)
        elif what == "daemon.heartbeat":
            self.notify(f"STATUS={self._standing(facts['active_batches'], facts['queued'])}")
        elif what == "daemon.stopping":
            self.notify("STOPPING=1")

    def _standing(self, batches: int, queued: int) -> str:
        """Where the work stands, with the rate since the last time it was said."""
        now = time.monotonic()
        rate = round(self._done * 60 / max(now - self._since, 1e-3))
        self._done, self._since = 0, now
        return f"{batches:,} {'batch' if batches == 1 else 'batches'}, {queued:,} queued, {rate:,} done/min"
