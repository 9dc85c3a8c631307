"""Pruning: how long another process's INSERTs wait while the daemon deletes old prompts, and the file afterwards.

python benchmarks/pruning.py [PROMPTS]
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

from harness import Stand, inserted, prompts, stand, table

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_BYTES = 20_000
IDLE_SECONDS = 5.0
OLD = (
    "UPDATE prompt_states SET finished_at_ms = 1 WHERE status = 'done'",
    "UPDATE batch_states SET created_at_ms = 1",
)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    columns = ("the daemon", "INSERTs", "refused as busy", "p50 ms", "p99 ms", "max ms", "file MB")
    with stand(answer_bytes=ANSWER_BYTES) as at:
        at.fill(prompts(count))
        at.run_until_idle()
        with contextlib.closing(sqlite3.connect(at.database)) as queue, queue:
            for statement in OLD:
                queue.execute(statement)
        end = time.monotonic() + IDLE_SECONDS
        rows = [("is not there", *waits(at, lambda _: time.monotonic() < end))]
        pruning = {**at.environ, "ORCHESTRATOR_RETENTION__FINISHED_DAYS": "1"}
        daemon = dataclasses.replace(at, environ=pruning).started()
        rows.append((f"prunes {count:,} prompts", *waits(at, lambda queue: left(queue, count))))
        daemon.terminate()
        daemon.wait()
        table(f"single-row INSERTs of another process, answers of {ANSWER_BYTES:,} bytes", columns, rows)


def waits(at: Stand, go_on: Callable[[sqlite3.Connection], bool]) -> tuple[object, ...]:
    return (*inserted(at, go_on), at.database.stat().st_size / 1e6)


def left(queue: sqlite3.Connection, count: int) -> bool:
    """Whether old prompts or free pages are left: one page in ten stays free."""
    old = queue.execute("SELECT 1 FROM prompts WHERE id <= ? LIMIT 1", (count,)).fetchone()
    free, pages = (queue.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
    return old is not None or free > pages // 10


if __name__ == "__main__":
    main()
