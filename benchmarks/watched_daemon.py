"""The daemon with a ticking clock beside it: `watched_daemon.py FILE COMMAND…` writes how late its loop ran.

The peak of memory in all its life is written too: what the system tells a parent counts the parent's own size with it.
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


def watched(lags: array[float]) -> None:
    inner = daemon.Daemon.run

    async def run(self: daemon.Daemon, *, until_idle: bool) -> None:
        ticking = asyncio.create_task(tick(lags))
        try:
            await inner(self, until_idle=until_idle)
        finally:
            ticking.cancel()

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
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def run_watched(report: Path) -> None:
    lags = array("d")  # a list would weigh on the peak that is measured
    watched(lags)
    try:
        main()
    finally:
        report.write_text(json.dumps({"peak_mb": peak_mb(), **summary(lags)}))


if __name__ == "__main__":
    run_watched(Path(sys.argv.pop(1)))
