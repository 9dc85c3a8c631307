"""Idle cost: an empty queue, and many open batches that are polled every 30 to 60 seconds.

python benchmarks/idle.py [BATCHES] [SECONDS]
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Stand, prompts, stand, table

if TYPE_CHECKING:
    import subprocess

AS_SHIPPED = {"POLLING__MIN_SECONDS": "30", "POLLING__MAX_SECONDS": "60"}
MANY = {
    **AS_SHIPPED,
    "PACKING__MAX_LINES": "1",
    "PACKING__LINGER_SECONDS": "0",
    "PROVIDERS__DOUBLEWORD__MAX_ACTIVE_BATCHES": "100000",
    "PROVIDERS__DOUBLEWORD__MAX_ACTIVE_BATCHES_PER_LANE": "100000",
}
DAY_SECONDS = 86_400.0
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 120.0
    with stand(AS_SHIPPED) as at:
        at.migrate()
        empty = watched(at, seconds, 0)
    with stand(MANY, latency_seconds=DAY_SECONDS) as at:
        at.fill(prompts(batches, nbytes=50))
        busy = watched(at, seconds, batches)
    table(f"idle for {seconds:.0f} s", ("open batches", "of one core", "RSS MB"), [empty, busy])


def watched(at: Stand, seconds: float, batches: int) -> tuple[object, ...]:
    daemon = at.started()
    try:
        while polled_batches(at) < batches:
            time.sleep(1)
        time.sleep(5)
        before = cpu_of(daemon)
        time.sleep(seconds)
        return batches, f"{(cpu_of(daemon) - before) / seconds:.2%}", rss_mb(daemon)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def polled_batches(at: Stand) -> int:
    """The first look at each batch, which finds it running, is not counted."""
    with contextlib.closing(sqlite3.connect(at.database)) as queue:
        return int(queue.execute("SELECT count(*) FROM batch_states WHERE polled_at_ms IS NOT NULL").fetchone()[0])


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(process: subprocess.Popen[bytes]) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
