"""The daemon with a ticking clock beside it: `watched_daemon.py FILE COMMAND…` writes how late its loop ran.

Its peak of memory is written too: what the system tells a parent counts the parent's own size with it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from pathlib import Path

from orchestrator import daemon
from orchestrator.cli import main

TICK_SECONDS = 0.005


def watched(lag_file: Path) -> None:
    inner = daemon.Daemon.run

    async def run(self: daemon.Daemon, *, until_idle: bool) -> None:
        lags = array("d")  # a list would weigh on the peak that is measured
        ticking = asyncio.create_task(tick(lags))
        try:
            await inner(self, until_idle=until_idle)
        finally:
            ticking.cancel()
            lag_file.write_text(json.dumps({"peak_mb": peak_mb(), **summary(lags)}))  # noqa: ASYNC240 - the loop is over

    daemon.Daemon.run = run  # type: ignore[method-assign]


async def tick(lags: array[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(TICK_SECONDS)
        lags.append((loop.time() - before - TICK_SECONDS) * 1000)


def summary(lags: array[float]) -> dict[str, float]:
    late = sorted(lags)
    return {"p99": late[len(late) * 99 // 100], "max": late[-1]} if late else {"p99": 0.0, "max": 0.0}


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    watched(Path(sys.argv.pop(1)))
    main()
