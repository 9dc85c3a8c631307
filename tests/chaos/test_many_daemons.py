"""Four daemons on one PostgreSQL queue; kills and freezes beyond the lease at random, the provider's faults on."""

import asyncio
import contextlib
import json
import signal
from random import Random

import pytest
from chaos.scene import LONG, QUICK_CONSTANTS, SANDBOX, WATCHED
from daemon_process import FAULTS, Daemon, until
from postgres import Server

from orchestrator.sandbox import Options, serve

DAEMONS = 4
LEASE_SECONDS = 3.0
CONSTANTS = {
    **QUICK_CONSTANTS,
    **dict.fromkeys(("orchestrator.lease.LEASE_SECONDS", "orchestrator.stages.pack.LEASE_SECONDS"), LEASE_SECONDS),
    "orchestrator.loop.STORE_PAUSE_MAX_SECONDS": 1.0,
}
SESSION = "-c%20idle_in_transaction_session_timeout%3D2s"
PROMPTS, MAX_LINES, DEEDS = (50_000, 250, 60) if LONG else (200, 10, 8)
PATIENCE_SECONDS = 3000.0 if LONG else 100.0

pytestmark = pytest.mark.timeout(3600 if LONG else 240)


class Fleet:
    """Daemons with folders and logs of their own on one queue; each remembers whether it is stopped."""

    def __init__(self, folder, base_url, queue_url, count=DAEMONS):
        tables = {
            "packing": {"linger_seconds": 0, "max_lines": MAX_LINES},
            "retry": {"base_seconds": 0.05, "max_seconds": 0.2, "max_attempts": 20},
            "providers.doubleword": {"max_active_batches_per_lane": 8},
        }
        self.daemons = [self._made(folder / f"{number}", base_url, queue_url, tables) for number in range(count)]
        self.queue = self.daemons[0].queue
        self.stopped = set()

    def _made(self, folder, base_url, queue_url, tables):
        folder.mkdir()
        daemon = Daemon(folder, base_url, f"{queue_url}&options={SESSION}", **tables)
        daemon.program = WATCHED
        daemon.environment = {"CHAOS_NOTES": str(folder / "notes"), "CHAOS_CONSTANTS": json.dumps(CONSTANTS)}
        return daemon

    async def kill(self, daemon):
        await daemon.kill()
        self.stopped.discard(daemon)
        await daemon.start()

    async def freeze(self, daemon):
        """Stop it, or wake it up where it was stopped."""
        if daemon in self.stopped:
            daemon.signal(signal.SIGCONT)
            self.stopped.remove(daemon)
        elif len(self.stopped) < DAEMONS - 1:
            daemon.signal(signal.SIGSTOP)
            self.stopped.add(daemon)

    def wake(self):
        for daemon in self.stopped:
            daemon.signal(signal.SIGCONT)
        self.stopped.clear()

    async def end(self):
        for daemon in self.daemons:
            if daemon.is_running:
                await daemon.kill()

    def is_busy(self):
        """By one look: a prompt that comes back between two of them would be in neither."""
        return self.queue.value("SELECT count(*) FROM prompt_states WHERE status IN ('queued', 'batched')") > 0

    def not_done(self):
        return self.queue.sql("SELECT custom_id, status, fault, error_message FROM results WHERE status <> 'done'")

    def log_text(self):
        logs = [log for daemon in self.daemons for log in sorted(daemon.folder.glob("daemon-*.log"))]
        return "".join(log.read_text(errors="replace") for log in logs)


@pytest.fixture
async def fleet(quick_folder, postgres_url):
    async with contextlib.AsyncExitStack() as stack:
        faults = {"faults": FAULTS, "line_faults": {"rate-limited": 0.03, "fail": 0.03}}
        sandbox = await stack.enter_async_context(serve(Options(**{**SANDBOX, **faults})))
        made = Fleet(quick_folder, sandbox.url, postgres_url)
        made.sandbox = sandbox
        stack.push_async_callback(made.end)
        yield made


async def test_four_daemons_killed_and_frozen_at_random_lose_nothing_and_pay_nothing_twice(fleet, tell):
    dice, queue = Random(11), fleet.queue
    queue.ask_many(PROMPTS)
    for daemon in fleet.daemons:
        await daemon.start()
    for number in range(DEEDS):
        wanted = PROMPTS * (number + 1) // (DEEDS + 1)
        for _ in range(100):
            if len(fleet.sandbox.ledger.successes) >= wanted:
                break
            await asyncio.sleep(0.1)
        await dice.choice((fleet.kill, fleet.freeze))(dice.choice(fleet.daemons))
        tell(f"deed {number + 1}: {queue.count('done')} answered")
    fleet.wake()
    fleet.sandbox.faults.clear()
    await until(lambda: not fleet.is_busy(), lambda: fleet.log_text()[-2000:], PATIENCE_SECONDS)
    open_batches = "SELECT count(*) FROM batches WHERE status NOT IN ('settled', 'discarded')"
    await until(lambda: queue.value(open_batches) == 0, "every batch is closed", PATIENCE_SECONDS)
    ledger = fleet.sandbox.ledger
    assert fleet.not_done() == []
    assert queue.count("done") == PROMPTS
    assert len(ledger.successes) == PROMPTS
    assert set(ledger.successes.values()) == {1}
    assert ledger.creates == queue.submitted()
    wrong = "SELECT count(*) FROM results r JOIN prompts p USING (id)"
    assert queue.value(f"{wrong} WHERE r.answer NOT LIKE '%You asked: ' || p.prompt") == 0
    assert queue.value("SELECT count(*) FROM batches WHERE status = 'settled' AND lines <> lines_received") == 0
    text = fleet.log_text()
    assert "loop.crashed" not in text, text[text.index("loop.crashed") - 300 :][:3000]
    assert "Traceback" not in text


@pytest.fixture
def own_server():
    """A server that nobody else works with, to be stopped."""
    server = Server()
    yield server
    server.close()


async def test_a_server_that_restarts_under_load_costs_no_prompt(own_server, quick_folder):
    """What was held when it went is taken up again when its lease is over: here after seconds."""
    async with contextlib.AsyncExitStack() as stack:
        url = stack.enter_context(own_server.lent())
        sandbox = await stack.enter_async_context(serve(Options(**SANDBOX)))
        daemon = Fleet(quick_folder, sandbox.url, url, 1).daemons[0]
        stack.push_async_callback(daemon.kill)
        daemon.queue.ask_many(40)
        await daemon.started()
        for answered in (5, 15, 25):
            await until(lambda wanted=answered: len(sandbox.ledger.successes) >= wanted)
            own_server.stop()
            own_server.start()
        await until(lambda: daemon.queue.count("done") == 40)
        daemon.signal()
        assert await daemon.ended() == 0
        assert set(sandbox.ledger.successes.values()) == {1}
        assert sandbox.ledger.creates == daemon.queue.submitted()
        assert not daemon.events("loop.crashed")
