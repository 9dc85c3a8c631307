"""Start-up: `orchestrator --help` over a bare interpreter, `run` on a long queue with an open batch until it works.

And `demo`, from its first to its last word.

python benchmarks/startup.py [PROMPTS]
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from harness import Stand, prompts, stand, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMES = 10
HOUR = 3600.0
DUE_SECONDS = 3.0
"""After the first life the open batch is due."""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    table("commands, median of ten", ("command", "CPU ms", "over bare ms"), commands())
    with stand(latency_seconds=HOUR) as at:
        at.fill(prompts(count, nbytes=100))
        table(f"`run` on a queue of {count:,} prompts, a batch of which is open", ("until", "s"), started(at))
    table("the first thing a new user sees", ("command", "wall s"), [("orchestrator demo", demonstrated())])


def demonstrated() -> float:
    before = time.monotonic()
    subprocess.run([sys.executable, "-m", "orchestrator", "demo"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - before


def commands() -> Iterator[tuple[object, ...]]:
    bare = spent([sys.executable, "-c", "pass"])
    yield "python -c pass", bare, ""
    for words in (["--help"], ["--version"], ["status", "--help"]):
        took = spent([sys.executable, "-m", "orchestrator", *words])
        yield f"orchestrator {' '.join(words)}", took, took - bare


def spent(command: list[str]) -> float:
    return sorted(once(command) for _ in range(TIMES))[TIMES // 2]


def once(command: list[str]) -> float:
    """CPU milliseconds of a child from its start to its end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return (used.ru_utime + used.ru_stime) * 1000


def started(at: Stand) -> Iterator[tuple[object, ...]]:
    """Its second start: the first one had a batch made."""
    with running(at):
        awaited(lambda: asked(at, "SELECT count(*) FROM batch_states WHERE status = 'submitted'"))
    time.sleep(DUE_SECONDS)
    size, before, now_ms = at.log.stat().st_size, time.monotonic(), time.time_ns() // 1_000_000
    with running(at):
        awaited(lambda: "daemon.config" in at.log.read_text()[size:])
        yield "its stages begin", time.monotonic() - before
        awaited(lambda: asked(at, f"SELECT count(*) FROM batch_states WHERE polled_at_ms > {now_ms}"))
        yield "the open batch is polled", time.monotonic() - before


@contextlib.contextmanager
def running(at: Stand) -> Iterator[None]:
    daemon = at.started()
    yield
    daemon.terminate()
    daemon.wait()


def awaited(happened: Callable[[], object]) -> None:
    while not happened():
        time.sleep(0.005)


def asked(at: Stand, question: str) -> object:
    with contextlib.closing(sqlite3.connect(at.database, timeout=60)) as queue:
        return queue.execute(question).fetchone()[0]


if __name__ == "__main__":
    main()
