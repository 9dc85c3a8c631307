"""SIGTERM and SIGINT, from the first moment to the last: one ends in good order and in time, a second one at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

from orchestrator.telemetry import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAST_SECONDS = 1.0
"""For what is left behind the grace, or behind a second signal, such as giving back leases."""


class Signals:
    """Nothing waits longer than it may, whatever holds it up: then the process ends, as by `kill -9`."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._timers: list[threading.Timer] = []
        self._stop: Callable[[str], None] | None = None

    def call(self, stop: Callable[[str], None]) -> None:
        """Call this with each signal's name from now on; before, where no work has begun, one is Ctrl-C."""
        self._stop = stop

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._hear, number.name)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
            for timer in self._timers:
                timer.cancel()

    def _hear(self, name: str) -> None:
        is_first = self._stop is not None and not self._timers
        self._end_within(self._grace_seconds + LAST_SECONDS if is_first else LAST_SECONDS)
        if self._stop is None:
            raise KeyboardInterrupt
        self._stop(name)

    def _end_within(self, seconds: float) -> None:
        timer = threading.Timer(seconds, _end, [seconds])
        timer.daemon = True
        timer.start()
        self._timers.append(timer)


def _end(seconds: float) -> None:
    record("daemon.cut_short", seconds=seconds)
    os._exit(1)
