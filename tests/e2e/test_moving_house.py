"""A queue moves to PostgreSQL while batches are under way: nothing is lost on the way, and nothing paid for twice."""

import asyncio
import os
import subprocess

import pytest
from daemon_process import KEY, Daemon, until

pytestmark = pytest.mark.sqlite
PACKING = {"linger_seconds": 0, "max_lines": 5}
RETRY = {"base_seconds": 0.05, "max_seconds": 0.2, "max_attempts": 20}


def command(run, target):
    return (*run.daemon.program, "copy", "--from", f"sqlite:///{run.queue.path}", "--to", target)


async def moved(run, target):
    done = await asyncio.to_thread(subprocess.run, command(run, target), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
async def there(rehearse, postgres_url):
    """A daemon on the queue at the address, at the same provider."""
    made = []

    def daemon(run):
        folder = run.daemon.folder / "there"
        folder.mkdir()
        made.append(Daemon(folder, run.proxy.url, postgres_url, packing=PACKING, retry=RETRY))
        return made[-1]

    yield daemon
    for each in made:
        if each.is_running:
            await each.kill()


@pytest.mark.parametrize("when", ["upload", "create", "answers"])
async def test_batches_under_way_are_finished_where_the_queue_went(rehearse, there, postgres_url, when):
    """The daemon is killed within the call named, heard by the provider, or when some answers have come."""
    faults = {"faults": ("create-lost-reply:rate=0.3",), "line_faults": {"fail-once": 0.1}}
    run = await rehearse(packing=PACKING, retry=RETRY, options={"latency_seconds": 0.5, **faults})
    run.queue.ask_many(40)
    gate = (
        None if when == "answers" else run.proxy.hold("POST", "/files$" if when == "upload" else "/batches$", "after")
    )
    await run.daemon.start()
    if gate is None:
        await until(lambda: run.queue.count("done") >= 10)
    else:
        async with asyncio.timeout(60):
            await gate.reached.wait()
    await run.daemon.kill()
    if gate is not None:
        gate.drop()
    assert run.queue.value("SELECT count(*) FROM batches WHERE status NOT IN ('settled', 'discarded')") > 0
    await moved(run, postgres_url)
    daemon = there(run)
    daemon.queue.ask_many(5, prefix="new")
    assert await daemon.run_until_idle() == 0
    ledger = run.sandbox.ledger
    assert daemon.queue.count("done") == 45
    assert len(ledger.successes) == 45
    assert set(ledger.successes.values()) == {1}
    assert ledger.creates == daemon.queue.submitted()
    wrong = (
        "SELECT count(*) FROM results r JOIN prompts p USING (id) WHERE r.answer NOT LIKE '%You asked: ' || p.prompt"
    )
    assert daemon.queue.value(wrong) == 0
    assert not daemon.events("loop.crashed")
    assert not daemon.events("reclaim.begun")
    creates = ledger.creates
    await run.daemon.start()
    assert await run.daemon.ended() == 2
    assert "has moved to postgresql://" in run.daemon.text()
    assert ledger.creates == creates


async def test_a_copy_that_is_killed_in_mid_flight_goes_on(rehearse, there, postgres_url):
    run = await rehearse(packing=PACKING, retry=RETRY, options={"latency_seconds": 0.5})
    run.queue.ask_many(3000, prefix="much")
    run.queue.sql("UPDATE prompt_states SET status = 'cancelled'")
    run.queue.ask_many(20)
    await run.daemon.start()
    await until(lambda: run.queue.count("done") >= 5)
    await run.daemon.kill()
    env = {**os.environ, "DOUBLEWORD_API_KEY": KEY}
    copying = await asyncio.create_subprocess_exec(*command(run, postgres_url), env=env)
    daemon = there(run)

    def some():
        assert copying.returncode is None
        return daemon.queue.value("SELECT count(*) FROM prompts") >= 1000

    await until(some)
    copying.kill()
    await copying.wait()
    await daemon.start()
    assert await daemon.ended() == 2
    assert "still being copied" in daemon.text()
    await moved(run, postgres_url)
    assert await daemon.run_until_idle() == 0
    assert daemon.queue.count("done") == 20
    assert daemon.queue.count("cancelled") == 3000
    assert set(run.sandbox.ledger.successes.values()) == {1}
    assert len(run.sandbox.ledger.successes) == 20
