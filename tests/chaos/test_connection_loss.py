"""The connection to PostgreSQL is lost in each step, at random, and between a commit and its answer."""

import asyncio
import contextlib
import json
from random import Random

import psycopg
import pytest
from chaos.scene import LONG, SANDBOX
from chaos.test_many_daemons import CONSTANTS, Fleet
from daemon_process import FAULTS, Queue, until

from orchestrator.sandbox import Options, serve

PROMPTS, CUTS, DAEMONS = (5000, 60, 2) if LONG else (40, 10, 2)
PATIENCE_SECONDS = 1000.0 if LONG else 90.0
ALONE = {**dict.fromkeys(("orchestrator.lease.LEASE_SECONDS", "orchestrator.stages.pack.LEASE_SECONDS"), 1.0),
         "orchestrator.loop.STORE_PAUSE_MAX_SECONDS": 0.3}  # fmt: skip
STEPS = {
    "admitted": "UPDATE OF lane_id ON prompt_states",
    "taken into a batch": "UPDATE OF batch_id ON prompt_states",
    "batch made": "INSERT ON batch_states",
    "claimed": "UPDATE OF fence ON batch_states",
    "lease renewed or given back": "UPDATE OF lease_until_ms ON batch_states",
    "sealed": "sealed",
    "uploading": "uploading",
    "uploaded": "uploaded",
    "creating": "creating",
    "submitted": "submitted",
    "polled": "UPDATE OF polled_at_ms ON batch_states",
    "collected": "UPDATE OF output_cursor ON batch_states",
    "answer stored": "INSERT ON replies",
    "ended": "ended",
    "settled": "settled",
}
CUT = """
CREATE SEQUENCE cuts;
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('cuts') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER a_cut BEFORE {} EXECUTE FUNCTION cut();
"""
SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'orchestrator' AND datname = current_database()"
)

pytestmark = pytest.mark.timeout(1800 if LONG else 240)


@pytest.fixture
async def sail(quick_folder, postgres_url):
    """Start daemons on the queue at an address, and see it through to its end."""
    async with contextlib.AsyncExitStack() as stack:

        async def sailing(url=postgres_url, daemons=1, **options):
            sandbox = await stack.enter_async_context(serve(Options(**{**SANDBOX, **options})))
            fleet = Fleet(quick_folder, sandbox.url, url, daemons)
            fleet.sandbox, fleet.queue = sandbox, Queue(postgres_url)
            for daemon in fleet.daemons if daemons == 1 else ():
                daemon.environment["CHAOS_CONSTANTS"] = json.dumps({**CONSTANTS, **ALONE})
            stack.push_async_callback(fleet.end)
            fleet.queue.ask_many(PROMPTS)
            return fleet

        yield sailing


async def arrived(fleet):
    """Every prompt was answered and paid for once, and nothing broke that is not meant to."""
    queue = fleet.queue
    await until(lambda: not fleet.is_busy(), lambda: fleet.log_text()[-2000:], PATIENCE_SECONDS)
    open_batches = "SELECT count(*) FROM batches WHERE status NOT IN ('settled', 'discarded')"
    await until(lambda: queue.value(open_batches) == 0, "every batch is closed", PATIENCE_SECONDS)
    ledger = fleet.sandbox.ledger
    assert queue.count("done") == PROMPTS
    assert len(ledger.successes) == PROMPTS
    assert set(ledger.successes.values()) == {1}
    assert ledger.creates == queue.submitted()
    assert queue.value("SELECT count(*) FROM batches WHERE status = 'settled' AND lines <> lines_received") == 0
    wrong = "SELECT count(*) FROM results r JOIN prompts p USING (id)"
    assert queue.value(f"{wrong} WHERE r.answer NOT LIKE '%You asked: ' || p.prompt") == 0
    text = fleet.log_text()
    assert "loop.crashed" not in text, text[text.index("loop.crashed") - 300 :][:3000]
    assert "Traceback" not in text
    assert all(daemon.is_running for daemon in fleet.daemons)


@pytest.mark.parametrize("step", STEPS)
async def test_a_connection_cut_within_each_step_costs_nothing(sail, postgres_url, step):
    fleet = await sail()
    event = STEPS[step]
    when = event if " " in event else f"UPDATE OF status ON batch_states FOR EACH ROW WHEN (NEW.status = '{event}')"
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(CUT.format(when if "FOR EACH" in when else f"{when} FOR EACH ROW"))
    await fleet.daemons[0].start()
    await arrived(fleet)
    assert fleet.queue.value("SELECT last_value FROM cuts") > 2
    assert fleet.daemons[0].events("loop.failed")


async def test_sessions_cut_at_random_cost_nothing(sail):
    dice = Random(5)
    fleet = await sail(daemons=DAEMONS, faults=FAULTS, line_faults={"rate-limited": 0.03})
    for daemon in fleet.daemons:
        await daemon.started()
    for number in range(CUTS):
        wanted = PROMPTS * number // (CUTS + 1)
        for _ in range(50):
            if len(fleet.sandbox.ledger.successes) >= wanted:
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(dice.random() / 5)
        fleet.queue.sql(SESSIONS)
    fleet.sandbox.faults.clear()
    await arrived(fleet)


class Eavesdropper:
    """Stands before the server's socket; of the answers to COMMIT it loses each `nth`, and the connection with it."""

    def __init__(self, behind, nth):
        self.behind, self.nth = behind, nth
        self.commits = self.lost = 0

    async def serve(self, reader, writer):
        there, thither = await asyncio.open_unix_connection(self.behind)
        both = [asyncio.ensure_future(self.carry(reader, thither)), asyncio.ensure_future(self.carry(there, writer))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for way in both:
            way.cancel()
        for end in (writer, thither):
            end.close()
        await asyncio.gather(*both, return_exceptions=True)

    async def carry(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if b"COMMIT\0" in data and b"Z\0\0\0\5I" in data:
                    self.commits += 1
                    if self.commits % self.nth == 0:
                        self.lost += 1
                        return
                writer.write(data)
                await writer.drain()


@pytest.fixture
async def between(postgres, tmp_path):
    """An address of the queue at which answers to commits get lost."""
    socket = tmp_path / "s"
    socket.mkdir()
    ear = Eavesdropper(str(postgres.folder / ".s.PGSQL.5432"), 9)
    server = await asyncio.start_unix_server(ear.serve, str(socket / ".s.PGSQL.5432"))
    ear.folder = socket
    yield ear
    server.close()


async def test_what_was_committed_although_nobody_heard_it_costs_nothing(sail, between, postgres, postgres_url):
    fleet = await sail(postgres_url.replace(str(postgres.folder), str(between.folder)))
    await fleet.daemons[0].start()
    await arrived(fleet)
    assert between.lost >= 5
