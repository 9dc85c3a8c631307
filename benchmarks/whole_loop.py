"""The whole loop: a filled queue, the sandbox in its own process, the daemon in another until every prompt is answered.

    python benchmarks/whole_loop.py [PROMPTS]

Prints the daemon's wall time, CPU time and peak memory beside a floor measured in the same run: inserting the same
prompts and answers with bare `sqlite3.executemany`.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import resource

PROMPT_BYTES = 1000
ANSWER_BYTES = 1000
SANDBOX = """
import asyncio
from orchestrator.sandbox import Options, run
options = Options(latency_seconds=0, validate_seconds=0, answer_bytes={answer_bytes})
asyncio.run(run(options, lambda url: print(url, flush=True)))
"""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        floor = insert_floor(Path(folder) / "floor.db", count)
        sandbox = subprocess.Popen(
            [sys.executable, "-c", SANDBOX.format(answer_bytes=ANSWER_BYTES)], stdout=subprocess.PIPE, text=True
        )
        try:
            environ = settings(Path(folder) / "queue.db", sandbox.stdout.readline().strip())
            fill(Path(folder) / "queue.db", count, environ)
            report(count, floor, *run_daemon(Path(folder), environ))
            check(Path(folder) / "queue.db", count)
        finally:
            sandbox.kill()
            sandbox.wait()


def settings(database: Path, url: str) -> dict[str, str]:
    return {
        **os.environ,
        "ORCHESTRATOR_DATABASE__URL": f"sqlite:///{database}",
        "ORCHESTRATOR_PROVIDERS__DOUBLEWORD__BASE_URL": url,
        "ORCHESTRATOR_DEFAULTS__MODEL": "benchmark",
        "ORCHESTRATOR_POLLING__MIN_SECONDS": "1",
        "ORCHESTRATOR_POLLING__MAX_SECONDS": "2",
        "ORCHESTRATOR_PACKING__LINGER_SECONDS": "5",
        "DOUBLEWORD_API_KEY": "benchmark",
    }


def prompts(count: int) -> list[tuple[str]]:
    filler = "the quick brown fox jumps over the lazy dog " * 40
    return [(f"question {n} {filler}"[:PROMPT_BYTES],) for n in range(count)]


def insert_floor(path: Path, count: int) -> float:
    """CPU seconds for storing the same prompts and answers with nothing around it."""
    queue = sqlite3.connect(path)
    queue.execute("CREATE TABLE prompt (id INTEGER PRIMARY KEY, prompt TEXT)")
    queue.execute("CREATE TABLE answer (id INTEGER PRIMARY KEY, answer TEXT)")
    rows = prompts(count)
    before = time.process_time()
    queue.executemany("INSERT INTO prompt (prompt) VALUES (?)", rows)
    queue.executemany("INSERT INTO answer (answer) VALUES (?)", rows)
    queue.commit()
    return time.process_time() - before


def fill(path: Path, count: int, environ: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "orchestrator", "migrate"], env=environ, check=True, stdout=subprocess.DEVNULL
    )
    with sqlite3.connect(path) as queue:
        queue.executemany("INSERT INTO prompts (prompt) VALUES (?)", prompts(count))


def run_daemon(folder: Path, environ: dict[str, str]) -> tuple[float, resource.struct_rusage]:
    started = time.monotonic()
    with (folder / "daemon.log").open("w") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "run", "--until-idle"], env=environ, stderr=log
        )
        _, status, used = os.wait4(daemon.pid, 0)
    if status:
        sys.exit(
            f"the daemon ended with {os.waitstatus_to_exitcode(status)}:\n{(folder / 'daemon.log').read_text()[-2000:]}"
        )
    return time.monotonic() - started, used


def report(count: int, floor: float, wall: float, used: resource.struct_rusage) -> None:
    cpu = used.ru_utime + used.ru_stime
    print(
        f"{'prompts':>10} {'wall s':>8} {'per s':>8} {'CPU s':>8} {'per CPU s':>10} {'x floor':>8} {'peak RSS MB':>12}"
    )
    print(
        f"{count:>10} {wall:>8.1f} {count / wall:>8.0f} {cpu:>8.1f} {count / cpu:>10.0f} {cpu / floor:>8.1f} "
        f"{used.ru_maxrss / 1024:>12.0f}"
    )


def check(path: Path, count: int) -> None:
    """Every prompt has its own answer; otherwise the figures mean nothing."""
    with sqlite3.connect(path) as queue:
        done, answers = queue.execute("SELECT count(*), count(answer) FROM results WHERE status = 'done'").fetchone()
    if (done, answers) != (count, count):
        sys.exit(f"{done} done and {answers} answered of {count}")


if __name__ == "__main__":
    main()
