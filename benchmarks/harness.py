"""What the benchmarks share: a folder, the sandbox and the daemon in processes of their own, and tables."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from orchestrator.config import load
from orchestrator.daemon import opened
from orchestrator.memory import collect_seldom, leave_alone, return_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from orchestrator.context import Context, Tick

HERE = Path(__file__).parent
MODEL = "benchmark"
KEY = "DOUBLEWORD_API_KEY"
BASE_URL = "PROVIDERS__DOUBLEWORD__BASE_URL"
BUSY_SECONDS, PAUSE_SECONDS, LOOK_SECONDS = 5.0, 0.01, 2.0
FILLER = "the quick brown fox jumps over the lazy dog "
SANDBOX = """
import asyncio
from orchestrator.sandbox import Options, run
asyncio.run(run(Options(**{options}), lambda url: print(url, flush=True)))
"""
QUICK = {
    "POLLING__MIN_SECONDS": "1",
    "POLLING__MAX_SECONDS": "2",
    "PACKING__LINGER_SECONDS": "5",
}
"""The only settings that differ from the defaults: nobody waits a minute for a benchmark."""


@dataclass(frozen=True)
class Used:
    """What one life of a process took."""

    wall: float
    cpu: float
    peak_mb: float


@dataclass(frozen=True)
class Run(Used):
    """One life of the daemon. `lag_*` in milliseconds: how late a timer of its event loop fires."""

    lag_p99: float
    lag_max: float


@dataclass
class Stand:
    """A folder with a queue, and the variables under which commands find it and the sandbox."""

    folder: Path
    environ: dict[str, str]

    @property
    def database(self) -> Path:
        return self.folder / "queue.db"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *words]

    def migrate(self) -> None:
        subprocess.run(self.command("migrate"), env=self.environ, check=True, stdout=subprocess.DEVNULL)

    def fill(self, rows: Iterable[tuple[str]]) -> None:
        """Insert prompts by plain SQL, as a user would."""
        self.migrate()
        with contextlib.closing(sqlite3.connect(self.database)) as queue, queue:
            queue.executemany("INSERT INTO prompts (prompt) VALUES (?)", rows)

    def started(self, *words: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command("run", *words), env=self.environ, stderr=log, stdout=log)

    def watched(self, *words: str) -> subprocess.Popen[bytes]:
        """The daemon with the lag of its event loop under watch, which costs it some 2 % of a core."""
        with self.log.open("ab") as log:
            command = [sys.executable, str(HERE / "watched_daemon.py"), str(self.folder / "lag.json"), "run", *words]
            return subprocess.Popen(command, env=self.environ, stderr=log, stdout=log)

    @property
    def url(self) -> str:
        """Where the provider listens."""
        return self.environ[f"ORCHESTRATOR_{BASE_URL}"]

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    def run_until_idle(self) -> Run:
        started = time.monotonic()
        return self.ended(self.watched("--until-idle"), started)

    def ended(self, daemon: subprocess.Popen[bytes], started: float) -> Run:
        """Wait for it; exits with its last words when it failed."""
        used = ended(daemon, started)
        if daemon.returncode:
            sys.exit(f"the daemon ended with {daemon.returncode}:\n{self.log.read_text()[-2000:]}")
        lag = json.loads((self.folder / "lag.json").read_text())
        return Run(used.wall, used.cpu, lag["peak_mb"], lag["p99"], lag["max"])

    def check_done(self, count: int) -> None:
        """Every prompt has its own answer; otherwise the figures mean nothing."""
        with contextlib.closing(sqlite3.connect(self.database)) as queue:
            done = "SELECT count(*), count(answer) FROM results WHERE status = 'done'"
            found = queue.execute(done).fetchone()
        if found != (count, count):
            sys.exit(f"{found[0]} done and {found[1]} answered of {count}")


def ended(process: subprocess.Popen[bytes], started: float) -> Used:
    """Wait for a process; what it took since `started`. Leaves its exit code in it; its peak counts our size too."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Used(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)


@contextlib.contextmanager
def stand(settings: dict[str, str] | None = None, **sandbox: object) -> Iterator[Stand]:
    """A stand with an instant provider in its own process; `sandbox` are its options."""
    options = {"latency_seconds": 0, "validate_seconds": 0, **sandbox}
    command = [sys.executable, "-c", SANDBOX.format(options=options)]
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as provider,
    ):
        assert provider.stdout is not None
        try:
            yield Stand(Path(name), _environ(Path(name), provider.stdout.readline().strip(), settings or {}))
        finally:
            provider.kill()


def _environ(folder: Path, url: str, settings: dict[str, str]) -> dict[str, str]:
    ours = {
        "DATABASE__URL": f"sqlite:///{folder / 'queue.db'}",
        BASE_URL: url,
        "DEFAULTS__MODEL": MODEL,
        **QUICK,
        **settings,
    }
    return {
        **os.environ,
        **{f"ORCHESTRATOR_{name}": value for name, value in ours.items()},
        KEY: "benchmark",
    }


def inserted(at: Stand, go_on: Callable[[sqlite3.Connection], bool]) -> tuple[int, int, float, float, float]:
    """Insert row after row for as long as `go_on` says, asked now and then.

    How many, how many were refused as busy, and what one took in ms: median, 99th percentile and most.
    """
    took, refused, look_at = list[float](), 0, 0.0
    with contextlib.closing(sqlite3.connect(at.database, timeout=BUSY_SECONDS, isolation_level=None)) as queue:
        while time.monotonic() < look_at or go_on(queue):
            look_at = time.monotonic() + LOOK_SECONDS if time.monotonic() >= look_at else look_at
            before = time.monotonic()
            try:
                queue.execute("INSERT INTO prompts (prompt, tag) VALUES ('How late am I?', 'late')")
            except sqlite3.OperationalError:
                refused += 1
            took.append((time.monotonic() - before) * 1000)
            time.sleep(PAUSE_SECONDS)
    took.sort()
    return len(took), refused, took[len(took) // 2], took[len(took) * 99 // 100], took[-1]


@contextlib.asynccontextmanager
async def stages_of(at: Stand) -> AsyncIterator[Context]:
    """What a stage is given, in this process."""
    os.environ[KEY] = at.environ[KEY]
    async with opened(load(None, at.environ).config) as context:
        yield context


def as_in_the_daemon() -> None:
    """For stages in this process: the daemon's way with memory. They log as they do there; only a table is wanted."""
    collect_seldom()
    leave_alone()
    return_large()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


async def drained(stage: Callable[[Context], Awaitable[Tick]], context: Context) -> None:
    """Tick a stage for as long as it has more to do."""
    while (await stage(context)).more:
        pass


def prompts(count: int, nbytes: int = 1000) -> Iterator[tuple[str]]:
    filler = FILLER * (nbytes // len(FILLER) + 1)
    return ((f"question {n} {filler}"[:nbytes],) for n in range(count))


def cpu_seconds() -> float:
    """Of this process, all threads."""
    return time.process_time()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print figures in columns as wide as they need."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
