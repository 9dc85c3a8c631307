"""The daemon as a process of its own, watched through its log and its database."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time

from rig import address_of
from users import asked

DEADLINE_SECONDS = 60.0
LOOK_SECONDS = 0.01
KEY = "sk-very-secret-0123456789"
QUICK = {
    "packing": {"linger_seconds": 0},
    "submission": {
        "adopt_checks": 2,
        "adopt_interval_seconds": 0.1,
        "pause_seconds": 0.1,
        "pause_max_seconds": 0.2,
    },
    "polling": {"min_seconds": 0.05, "max_seconds": 0.1},
    "collection": {"quiet_seconds": 0.1},
    "retry": {"base_seconds": 0.05, "max_seconds": 0.2},
    "log": {"level": "debug", "format": "json", "heartbeat_seconds": 0.5},
}


def toml(tables):
    """Settings as a file; values are written as JSON, which is TOML for all that is used here."""
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


async def until(condition, what="", seconds=DEADLINE_SECONDS):
    """Wait until `condition()` is true; fail when the deadline passes, with `what`, or what that tells by then."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came true: {what() if callable(what) else what or condition}"
        await asyncio.sleep(LOOK_SECONDS)


FAULTS = (
    "create-lost-reply:rate=0.15",
    "create-502-made:rate=0.1",
    "upload-lost-reply:rate=0.1",
    "reset-before:rate=0.05",
    "status-503:rate=0.05:retry_after=none:body_retry_after=none",
    "reset-mid-body:rate=0.2:nbytes=1500",
    "html-error:rate=0.03",
)
"""What the provider does while daemons are killed at random."""


class Queue:
    """A database as its users see it, through connections of their own: the path of a file, or an address."""

    def __init__(self, path):
        self.path = path

    def sql(self, statement, *values):
        return asked(self.path, statement, values)

    def value(self, statement, *values):
        return self.sql(statement, *values)[0][0]

    def ask(self, custom_id, **columns):
        row = {"custom_id": custom_id, "model": "m", "prompt": f"What about {custom_id}?", **columns}
        self.sql(f"INSERT INTO prompts ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())

    def ask_many(self, count, prefix="q"):
        self.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO prompts (custom_id, model, prompt)"
            f" SELECT '{prefix}-' || i, 'm', 'What about {prefix}-' || i || '?' FROM n",
            count,
        )

    def outcome(self):
        """What became of each prompt, as a user reads it."""
        rows = self.sql("SELECT custom_id, status, answer, fault, attempts FROM results ORDER BY custom_id")
        return {row["custom_id"]: tuple(row)[1:] for row in rows}

    def count(self, status):
        return self.value("SELECT count(*) FROM prompt_states WHERE status = ?", status)

    def submitted(self):
        return self.value("SELECT count(*) FROM batches WHERE remote_batch_id IS NOT NULL")


class Daemon:
    """One run of `orchestrator run` at a time, on one folder; `program` and its variables may be another."""

    def __init__(self, folder, base_url, database_file=None, **tables):
        self.folder = folder
        self.program = (sys.executable, "-m", "orchestrator")
        self.environment = {}
        self.working_folder = folder
        self.config = folder / "orchestrator.toml"
        self.queue = Queue(database_file or folder / "queue.db")
        self.process = None
        self.log = folder / "daemon-0.log"
        self.runs = 0
        merged = {name: {**QUICK.get(name, {}), **tables.get(name, {})} for name in {**QUICK, **tables}}
        merged["database"] = {"url": address_of(self.queue.path)}
        merged["providers.doubleword"] = {"base_url": base_url, **tables.get("providers.doubleword", {})}
        self.config.write_text(toml(merged))

    async def start(self, *flags, before=None):
        """Start it; `before` is run in the new process before the program."""
        self.runs += 1
        self.log = self.folder / f"daemon-{self.runs}.log"
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.program, "-c", str(self.config), "run", *flags,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=before,
                env={**os.environ, "DOUBLEWORD_API_KEY": KEY, **self.environment}, cwd=self.working_folder,
                start_new_session=True,  # a shell that ends wakes what is stopped in its own
            )  # fmt: skip

    async def started(self, *flags, before=None):
        await self.start(*flags, before=before)
        await self.told("daemon.started")

    async def run_until_idle(self):
        await self.start("--until-idle")
        return await self.ended()

    async def ended(self, seconds=DEADLINE_SECONDS):
        """Its exit code."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def kill(self):
        """As kill -9 does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    @property
    def is_running(self):
        return self.process is not None and self.process.returncode is None

    def text(self):
        return self.log.read_text(errors="replace")

    def events(self, name=None, **facts):
        found = [json.loads(line) for line in self.text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [
            event
            for event in found
            if name in (None, event["event"]) and all(event.get(key) == value for key, value in facts.items())
        ]

    async def told(self, name, seconds=DEADLINE_SECONDS, **facts):
        """Wait for an event of this run."""

        def there():
            assert self.is_running or self.events(name, **facts), self.text()[-3000:]
            return self.events(name, **facts)

        await until(there, lambda: f"{name} {facts} in\n{self.text()[-3000:]}", seconds)
        return self.events(name, **facts)[0]
