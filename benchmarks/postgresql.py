"""Several daemons on one PostgreSQL server, which this starts on the disk and stops: what they and it take.

python benchmarks/postgresql.py [PROMPTS [LENGTH …]]

PROMPTS for the daemons to answer, LENGTHs of the queues that a batch is claimed from. Beside the daemons stands their
floor: the same prompts and answers stored in two bare tables of the same server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from harness import (
    FILLER,
    HERE,
    LOOK_SECONDS,
    PAUSE_SECONDS,
    Stand,
    as_in_the_daemon,
    cpu_seconds,
    drained,
    ended,
    stages_of,
    stand,
    table,
)

from orchestrator.stages import admit, pack

sys.path.append(str(HERE.parent / "tests"))
from postgres import Server

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from orchestrator.context import Context

NBYTES = 1000
DAEMONS = (1, 2, 4)
CLAIMS = 9
DURABLE = {"shared_buffers": "256MB", "max_connections": "100", "listen_addresses": ""}
"""Beside these the server's own defaults hold: each commit is on the disk."""
MANY_BATCHES = {"PACKING__MAX_LINES": "1000", "PROVIDERS__DOUBLEWORD__MAX_ACTIVE_BATCHES_PER_LANE": "100"}
FILL = "INSERT INTO prompts (prompt) SELECT left('question ' || n || ' ' || {}, {}) FROM generate_series(1, {}) AS n"
WAITING = """
    SELECT count(*) FILTER (WHERE wait_event_type IN ('Lock', 'LWLock')), count(*)
    FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
"""
UPDATES = """
    SELECT relname, n_tup_upd, n_tup_hot_upd, pg_total_relation_size(relid)
    FROM pg_stat_user_tables WHERE relname IN ('prompt_states', 'batch_states') ORDER BY relname
"""


def main() -> None:
    count, *lengths = [int(word) for word in sys.argv[1:]] or [50_000]
    with contextlib.closing(Server(in_memory=False, settings=DURABLE)) as server:
        columns = ("daemons", "wall s", "per wall s", "daemons' CPU µs a prompt", "server's CPU µs a prompt", "x floor")
        columns += ("transactions per 1,000", "rolled back", "sessions waiting for a lock")
        table(f"{count:,} prompts and answers of 1 kB", columns, (loop(server, each, count) for each in DAEMONS))
        columns = ("fillfactor", "table", "updates", "of them HOT", "MB")
        table("updates in place", columns, (row for each in (70, 100) for row in updates(server, each, count)))
        columns = ("queue", "admit, CPU µs a prompt", "seal a batch of 1,000, CPU ms", "server's CPU ms")
        table("admission and claim", columns, (claimed(server, each) for each in lengths or [count, 10 * count]))
        title = f"single-row INSERTs of another process while {count:,} prompts are answered"
        table(title, ("daemons", "INSERTs", "p50 ms", "p99 ms", "max ms"), (inserts(server, n, count) for n in (1, 2)))


@contextlib.contextmanager
def queue_on(server: Server, **settings: str) -> Iterator[tuple[Stand, psycopg.Connection]]:
    """A stand with a queue of its own on the server, and a user's connection to it."""
    with (
        server.lent() as url,
        psycopg.connect(url, autocommit=True) as user,
        stand({"DATABASE__URL": url, **settings}, answer_bytes=NBYTES) as at,
    ):
        yield at, user


def fill(user: psycopg.Connection, count: int, nbytes: int = NBYTES) -> None:
    user.execute(FILL.format(f"'{FILLER * (nbytes // len(FILLER) + 1)}'", nbytes, count))
    user.execute("VACUUM ANALYZE")


def check_done(user: psycopg.Connection, count: int) -> None:
    found = user.execute("SELECT count(answer) FROM results WHERE status = 'done' AND tag IS NULL").fetchone()
    if found != (count,):
        sys.exit(f"{found} answered of {count}")


# ---------------------------------------------------------------- several daemons


@dataclass
class Watch:
    """Looks at the sessions' waits while daemons run."""

    waiting: int = 0
    seen: int = 0

    def look(self, user: psycopg.Connection) -> None:
        waiting, seen = user.execute(WAITING).fetchone() or (0, 0)
        self.waiting, self.seen = self.waiting + waiting, self.seen + seen


def loop(server: Server, daemons: int, count: int) -> tuple[object, ...]:
    with queue_on(server) as (at, user):
        floor = insert_floor(server, user, count)
        fill(user, count)
        before, commits = server_cpu_seconds(server), transactions(user)
        wall, cpu, watch = run(at, user, daemons)
        spent, after = server_cpu_seconds(server) - before, transactions(user)
        check_done(user, count)
    per_prompt = [1e6 * each / count for each in (cpu, spent)]
    waits = f"{watch.waiting / max(1, watch.seen):.1%}"
    made = ((after[0] - commits[0]) * 1000 / count, after[1] - commits[1])
    return (daemons, wall, count / wall, *per_prompt, (cpu + spent) / floor, *made, waits)


def run(at: Stand, user: psycopg.Connection, daemons: int) -> tuple[float, float, Watch]:
    """Wall and CPU seconds of all of them, until each has found the queue idle."""
    started, watch = time.monotonic(), Watch()
    running = [at.started("--until-idle") for _ in range(daemons)]
    while any(is_running(each) for each in running):
        watch.look(user)
        time.sleep(0.1)
    used = [ended(each, started) for each in running]
    if any(each.returncode for each in running):
        sys.exit(at.log.read_text()[-2000:])
    return max(each.wall for each in used), sum(each.cpu for each in used), watch


def is_running(process: subprocess.Popen[bytes]) -> bool:
    """Leaves what it took to be asked for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def server_cpu_seconds(server: Server) -> float:
    """Of all its processes, those that are gone included."""
    main_pid = int((server.data / "postmaster.pid").read_text().split()[0])
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(") ")[2].split()
            is_main, is_child = path.parent.name == str(main_pid), fields[1] == str(main_pid)
            total += sum(map(int, fields[11 : 15 if is_main else 13 if is_child else 11]))
    return total / os.sysconf("SC_CLK_TCK")


def transactions(user: psycopg.Connection) -> tuple[int, int]:
    """Committed and rolled back; sessions tell the server at most once a second."""
    time.sleep(1.5)
    found = "SELECT xact_commit, xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    commits, rollbacks = user.execute(found).fetchone() or (0, 0)
    return commits, rollbacks


def insert_floor(server: Server, user: psycopg.Connection, count: int) -> float:
    """CPU seconds, ours and the server's, for the same prompts and answers with nothing around them."""
    text = (FILLER * (NBYTES // len(FILLER) + 1))[:NBYTES]
    before = cpu_seconds() + server_cpu_seconds(server)
    with user.cursor() as cursor:
        for name in ("prompt", "answer"):
            cursor.execute(f"CREATE TABLE bare_{name} (id bigint PRIMARY KEY, {name} text)")
            for start in range(0, count, 1000):
                rows = [(number, text) for number in range(start, min(count, start + 1000))]
                with user.transaction():
                    cursor.executemany(f"INSERT INTO bare_{name} VALUES (%s, %s)", rows)
    return cpu_seconds() + server_cpu_seconds(server) - before


# ---------------------------------------------------------------- updates, claims, other writers


def updates(server: Server, fillfactor: int, count: int) -> Iterator[tuple[object, ...]]:
    with queue_on(server) as (at, user):
        for name in ("prompt_states", "batch_states"):
            user.execute(f"ALTER TABLE {name} SET (fillfactor = {fillfactor})")
        fill(user, count)
        run(at, user, 1)
        time.sleep(1.5)
        for name, updated, in_place, nbytes in user.execute(UPDATES).fetchall():
            yield fillfactor, name, updated, f"{in_place / updated:.0%}", nbytes / 1e6


def claimed(server: Server, length: int) -> tuple[object, ...]:
    with queue_on(server, **MANY_BATCHES) as (at, user):
        fill(user, length, 100)
        return length, *asyncio.run(sealed(server, at, length))


async def sealed(server: Server, at: Stand, length: int) -> tuple[float, float, float]:
    async with stages_of(at) as context:
        spent = cpu_seconds()
        await drained(admit, context)
        admitted = cpu_seconds() - spent
        before = server_cpu_seconds(server)
        took = sorted([await seal(context) for _ in range(CLAIMS)])
        return admitted / length * 1e6, took[CLAIMS // 2], (server_cpu_seconds(server) - before) * 1000 / CLAIMS


async def seal(context: Context) -> float:
    """CPU milliseconds of ours for finding what is ready and sealing one batch of it."""
    spent = cpu_seconds()
    assert (await pack(context)).moved
    return (cpu_seconds() - spent) * 1000


def inserts(server: Server, daemons: int, count: int) -> tuple[object, ...]:
    with queue_on(server) as (at, user):
        fill(user, count)
        started = time.monotonic()
        running = [at.started("--until-idle") for _ in range(daemons)]
        took = sorted(waits(user, count))
        for each in running:
            each.terminate()
            ended(each, started)
    return daemons, len(took), took[len(took) // 2], took[len(took) * 99 // 100], took[-1]


def waits(user: psycopg.Connection, count: int) -> Iterator[float]:
    """What each took in ms, for as long as a prompt of the first ones has not ended."""
    left = "SELECT 1 FROM prompt_states WHERE prompt_id <= %s AND status IN ('queued', 'batched') LIMIT 1"
    look_at = 0.0
    while time.monotonic() < look_at or user.execute(left, (count,)).fetchone():
        look_at = time.monotonic() + LOOK_SECONDS if time.monotonic() >= look_at else look_at
        before = time.monotonic()
        user.execute("INSERT INTO prompts (prompt, tag) VALUES ('How late am I?', 'late')")
        yield (time.monotonic() - before) * 1000
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    as_in_the_daemon()
    main()
