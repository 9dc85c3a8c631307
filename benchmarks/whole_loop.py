"""The whole loop: a filled queue, the daemon until every prompt is answered, an instant provider beside it.

    python benchmarks/whole_loop.py [PROMPTS …]

Beside each run stands its floor, measured in the same run: storing the same prompts and answers with bare
`sqlite3.executemany`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path

from harness import cpu_seconds, prompts, stand, table

COLUMNS = ("prompts", "wall s", "per wall s", "CPU s", "per CPU s", "x floor", "peak MB", "lag p99 ms", "lag max ms")
ANSWER_BYTES = 1000
FLOOR_PROMPTS = 100_000
"""Enough to measure the floor, which is the same for each prompt; they are held in memory."""


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [100_000]
    table("the whole loop, prompts and answers of 1 kB", COLUMNS, (measured(count) for count in counts))


def measured(count: int) -> tuple[object, ...]:
    few = min(count, FLOOR_PROMPTS)
    floor = insert_floor(few) * count / few
    with stand(answer_bytes=ANSWER_BYTES) as at:
        at.fill(prompts(count))
        run = at.run_until_idle()
        at.check_done(count)
    rates = (run.wall, count / run.wall, run.cpu, count / run.cpu, run.cpu / floor)
    return (count, *rates, run.peak_mb, run.lag_p99, run.lag_max)


def insert_floor(count: int) -> float:
    """CPU seconds for storing the same prompts and answers with nothing around it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(sqlite3.connect(Path(folder) / "f.db")) as queue:
        queue.execute("CREATE TABLE prompt (id INTEGER PRIMARY KEY, prompt TEXT)")
        queue.execute("CREATE TABLE answer (id INTEGER PRIMARY KEY, answer TEXT)")
        rows = list(prompts(count))
        before = cpu_seconds()
        queue.executemany("INSERT INTO prompt (prompt) VALUES (?)", rows)
        queue.executemany("INSERT INTO answer (answer) VALUES (?)", rows)
        queue.commit()
        return cpu_seconds() - before


if __name__ == "__main__":
    main()
