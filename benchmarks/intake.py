"""Intake: `orchestrator enqueue` beside bare `executemany`, and a user's INSERTs while the daemon works at full speed.

python benchmarks/intake.py [PROMPTS]
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from harness import Stand, inserted, prompts, stand, table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with stand() as at:
        table("enqueue, rows of 1 kB from a JSONL file", ("way", "rows", "CPU s", "rows per CPU s"), ways(at, count))
    with stand(answer_bytes=1000) as at:
        title = f"single-row INSERTs of another process while the daemon answers {count:,} prompts"
        table(title, ("INSERTs", "refused as busy", "p50 ms", "p99 ms", "max ms"), [latencies(at, count)])


def ways(at: Stand, count: int) -> Iterator[tuple[object, ...]]:
    """The floor inserts the same rows into the same table, parsed already, in transactions of 1,000."""
    rows = list(prompts(count))
    file = at.folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps({'prompt': text})}\n" for (text,) in rows))
    at.migrate()
    floor = executemany(at.database, rows)
    yield "executemany", count, floor, count / floor
    spent = enqueued(at, file)
    yield "enqueue", count, spent, count / spent
    yield "enqueue / floor", "", "", f"{floor / spent:.0%}"


def executemany(database: Path, rows: list[tuple[str]]) -> float:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as queue:
        before = time.process_time()
        for start in range(0, len(rows), 1000):
            queue.execute("BEGIN IMMEDIATE")
            queue.executemany("INSERT INTO prompts (prompt) VALUES (?)", rows[start : start + 1000])
            queue.execute("COMMIT")
        return time.process_time() - before


def enqueued(at: Stand, file: Path) -> float:
    """Less the start of the interpreter and its imports, which is measured in benchmarks/startup.py."""
    empty = at.folder / "empty.jsonl"
    empty.touch()
    return spent_by(at.command("enqueue", str(file)), at) - spent_by(at.command("enqueue", str(empty)), at)


def spent_by(command: list[str], at: Stand) -> float:
    with subprocess.Popen(command, env=at.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return used.ru_utime + used.ru_stime


def latencies(at: Stand, count: int) -> tuple[object, ...]:
    at.fill(prompts(count))
    started = time.monotonic()
    daemon = at.watched("--until-idle")
    found = inserted(at, lambda queue: unanswered(queue, count))
    at.ended(daemon, started)
    return found


def unanswered(queue: sqlite3.Connection, count: int) -> bool:
    left = "SELECT 1 FROM prompt_states WHERE prompt_id <= ? AND status IN ('queued', 'batched') LIMIT 1"
    return queue.execute(left, (count,)).fetchone() is not None


if __name__ == "__main__":
    main()
