"""One scenario: a sandbox, a proxy, a daemon that is watched from outside and inside, and what must hold at its end."""

import asyncio
import contextlib
import copy
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from daemon_process import KEY, Daemon, until
from proxy import proxied

from orchestrator.sandbox import Options, serve

KILLS = int(os.environ.get("CHAOS_KILLS", "0"))
LONG = KILLS > 0
"""`make chaos` runs everything for long; without it each scenario takes seconds."""

SANDBOX = {"seed": 7, "validate_seconds": 0.0, "latency_seconds": 0.2}
PATIENCE_SECONDS = 900.0 if LONG else 100.0
LOOK_SECONDS = 0.05
MIB = 1 << 20
BASE_BYTES = 160 * MIB
"""What the daemon takes with nothing hostile about it, with room for another interpreter."""

WATCHED = (sys.executable, "-B", str(Path(__file__).with_name("watched_daemon.py")))
INSTALLED = (str(Path(sys.executable).with_name("orchestrator")),)
QUICK_CONSTANTS = {"orchestrator.stages.collect.RETRY_BASE_SECONDS": 0.05, "orchestrator.loop.PAUSE_MAX_SECONDS": 1.0}


@dataclass
class Row:
    """One line of the final table."""

    scenario: str
    deeds: str
    prompts: int
    done: int
    failed: int
    paid_twice: int
    lost: int
    peak_bytes: int


class Scene:
    """`deeds` counts what was done to the daemon, for the table."""

    def __init__(self, name, folder, sandbox, proxy, daemon):
        self.name = name
        self.folder = folder
        self.sandbox = sandbox
        self.proxy = proxy
        self.daemon = daemon
        self.queue = daemon.queue
        self.deeds = {}
        self.peak_bytes = 0
        self.notes_file = folder / "notes.jsonl"

    def did(self, deed, times=1):
        self.deeds[deed] = self.deeds.get(deed, 0) + times

    # ------------------------------------------------------------ the daemon

    def watched(self, constants=(), **variables):
        """Run the daemon under watch; `constants` and `variables` as told in watched_daemon.py."""
        self.daemon.program = WATCHED
        self.daemon.environment.update(
            CHAOS_NOTES=str(self.notes_file), CHAOS_CONSTANTS=json.dumps({**QUICK_CONSTANTS, **dict(constants)}),
            **variables,
        )  # fmt: skip

    async def follow_memory(self):
        """Keep the peak of the daemon's resident memory, over all its runs."""
        while True:
            self.look_at_memory()
            await asyncio.sleep(LOOK_SECONDS)

    def look_at_memory(self):
        with contextlib.suppress(OSError, AttributeError, TypeError):
            status = Path(f"/proc/{self.daemon.process.pid}/status").read_text()
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            self.peak_bytes = max(self.peak_bytes, int(found[1]) * 1024 if found else 0)

    async def ends_well(self, code=0):
        """Wait for the daemon that was started to run until idle."""
        await self.until(lambda: not self.daemon.is_running)
        assert self.daemon.process.returncode == code, self.daemon.text()[-3000:]

    async def calm_run(self, code=0):
        await self.daemon.start("--until-idle")
        await self.ends_well(code)

    def point_to(self, base_url):
        """Let the next start find the provider at this address."""
        text = self.daemon.config.read_text()
        self.daemon.config.write_text(re.sub(r'base_url = "[^"]*"', f'base_url = "{base_url}"', text))

    def calls(self):
        """How many have reached the provider."""
        return self.sandbox.provider.books.requests.total()

    def is_busy(self):
        return self.queue.value("SELECT count(*) FROM prompt_states WHERE status IN ('queued', 'batched')") > 0

    async def until(self, condition):
        """Wait for it; what the daemon said last is shown when it never comes true."""
        try:
            await until(condition, seconds=PATIENCE_SECONDS)
        except AssertionError as never:
            raise AssertionError(self.daemon.text()[-3000:]) from never

    # ------------------------------------------------------------ what was seen

    def log_text(self):
        return "".join(log.read_text(errors="replace") for log in sorted(self.folder.glob("daemon-*.log")))

    def events(self, name, **facts):
        """Events of all runs."""
        found = [json.loads(line) for line in self.log_text().splitlines() if re.fullmatch(r"\{.*\}", line)]
        return [one for one in found if one["event"] == name and all(one.get(k) == v for k, v in facts.items())]

    def notes(self, kind):
        lines = self.notes_file.read_text().splitlines() if self.notes_file.exists() else []
        return [found[1:] for found in map(json.loads, lines) if found[0] == kind]

    # ------------------------------------------------------------ what must hold

    def row(self):
        successes = self.sandbox.ledger.successes
        prompts = self.queue.value("SELECT count(*) FROM prompts")
        done, failed = self.queue.count("done"), self.queue.count("failed")
        deeds = ", ".join(f"{count} x {deed}" for deed, count in self.deeds.items())
        twice = sum(count > 1 for count in successes.values())
        return Row(self.name, deeds, prompts, done, failed, twice, prompts - done - failed, self.peak_bytes)

    def check(self, *, failed=0, at_most_bytes=BASE_BYTES):
        """Every prompt ended once, was paid once and has its own answer; nothing was written or said that must not."""
        row = self.row()
        assert (row.failed, row.lost, row.paid_twice) == (failed, 0, 0), row
        ledger = self.sandbox.ledger
        assert len(ledger.successes) == row.done
        assert ledger.creates == self.queue.submitted()
        wrong = "SELECT count(*) FROM results r JOIN prompts p USING (id) WHERE r.status = 'done'"
        assert self.queue.value(f"{wrong} AND r.answer NOT LIKE '%You asked: ' || p.prompt") == 0
        unsettled = "SELECT count(*) FROM batches WHERE status NOT IN ('settled', 'discarded')"
        assert self.queue.value(unsettled) == 0
        unaccounted = "SELECT count(*) FROM batches WHERE status = 'settled' AND lines <> lines_received"
        assert self.queue.value(unaccounted) == 0
        self.check_quiet()
        assert row.peak_bytes <= at_most_bytes, f"{row.peak_bytes / MIB:.0f} MiB"

    def check_quiet(self):
        """No bug was hit, the key was told nobody, nothing stands outside the database, nobody else was called."""
        text = self.log_text()
        assert KEY not in text
        assert "loop.crashed" not in text, text[text.index("loop.crashed") - 300 :][:3000]
        assert "Traceback" not in text
        self.check_files()
        self.check_notes()

    def check_files(self):
        ours = re.compile(r"orchestrator\.toml|notes\.jsonl|daemon-\d+\.log|elsewhere|queue")
        assert [path.name for path in self.folder.iterdir() if not ours.fullmatch(path.name)] == []
        assert list((self.folder / "elsewhere").iterdir()) == []
        queue = re.compile(r"queue\.db(-wal|-shm|\.lock)?")
        assert [path.name for path in (self.folder / "queue").iterdir() if not queue.fullmatch(path.name)] == []

    def check_notes(self):
        """By what was seen from inside: the database and its lock are opened, the provider is connected to."""
        database = os.path.realpath(self.queue.path)
        assert {path for (path,) in self.notes("writes")} <= {database, f"{database}.lock"}
        assert self.notes("changes") == []
        address = re.search(r'base_url = "\w+://([^/:]+):(\d+)', self.daemon.config.read_text())
        called = {(host, port) for host, port, *_ in self.notes("connects")}
        assert called <= {(address[1], int(address[2]))}


def made_daemon(folder, base_url, tables):
    """A daemon whose database has a folder of its own, and whose working folder, home and place for temporary files
    is empty and not to be written to."""
    queue, elsewhere = folder / "queue", folder / "elsewhere"
    queue.mkdir(exist_ok=True)
    elsewhere.mkdir(mode=0o500, exist_ok=True)
    daemon = Daemon(folder, base_url, database_file=queue / "queue.db", **tables)
    daemon.working_folder = elsewhere
    daemon.environment = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(elsewhere))
    return daemon


def second_daemon(scene):
    """Another daemon on the same queue, with the settings of the first and logs of its own."""
    first = scene.daemon
    other = copy.copy(first)
    other.runs, other.environment = 100, dict(first.environment)
    return other


@contextlib.asynccontextmanager
async def played(name, folder, options, *, through_proxy, tables):
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(serve(Options(**{**SANDBOX, **options})))
        proxy = await stack.enter_async_context(proxied(sandbox.url))
        daemon = made_daemon(folder, proxy.url if through_proxy else sandbox.url, tables)
        scene = Scene(name, folder, sandbox, proxy, daemon)
        following = asyncio.create_task(scene.follow_memory())
        try:
            yield scene
        finally:
            following.cancel()
            if daemon.is_running:
                await daemon.kill()
