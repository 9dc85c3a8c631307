"""pg_dump while daemons work, more is sent, the database is restored: the queue knows, and pays for nothing twice."""

import asyncio
import contextlib
import subprocess

import psycopg
import pytest
from daemon_process import Daemon, until
from postgres import binaries
from proxy import proxied

from orchestrator.sandbox import Options, serve

PACKING = {"linger_seconds": 0, "max_lines": 10}


async def ran(program, *words):
    done = await asyncio.to_thread(
        subprocess.run, [binaries() / program, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
async def make(quick_folder):
    """Daemons at the same provider, behind a proxy; killed at the end."""
    async with contextlib.AsyncExitStack() as stack:
        options = Options(seed=7, validate_seconds=0.0, latency_seconds=1.0)
        sandbox = await stack.enter_async_context(serve(options))
        proxy = await stack.enter_async_context(proxied(sandbox.url))
        made = []

        def daemon(url, **tables):
            folder = quick_folder / f"daemon-{len(made)}"
            folder.mkdir()
            made.append(Daemon(folder, proxy.url, url, packing=PACKING, **tables))
            made[-1].sandbox = sandbox
            return made[-1]

        yield daemon
        for each in made:
            if each.is_running:
                await each.kill()


async def dumped_in_mid_flight(make, url, dump, **tables):
    """A daemon that was killed after it had sent more than the dump knows."""
    daemon = make(url, **tables)
    daemon.queue.ask_many(40, prefix="before")
    await daemon.start()
    await until(lambda: daemon.sandbox.ledger.creates >= 2)
    await ran("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={url}")
    daemon.queue.ask_many(20, prefix="after")
    await until(lambda: daemon.queue.count("done") >= 45)
    await daemon.kill()
    return daemon


def paid_once(daemon, creates):
    names = {f"before-{number}" for number in range(1, 41)}
    ledger = daemon.sandbox.ledger
    assert {name for name, found in daemon.queue.outcome().items() if found[0] == "done"} == names
    assert ledger.creates == creates
    assert {ledger.successes[name] for name in names} == {1}


async def test_a_dump_restored_into_a_new_database_pays_for_nothing_twice(make, postgres, postgres_url, quick_folder):
    dump = quick_folder / "queue.dump"
    before = await dumped_in_mid_flight(make, postgres_url, dump)
    with postgres.lent("template0") as url:
        await ran("pg_restore", "--exit-on-error", f"--dbname={url}", dump)
        daemon = make(url)
        assert daemon.queue.count("done") < 40
        assert await daemon.run_until_idle() == 0
        paid_once(daemon, before.sandbox.ledger.creates)
        assert daemon.events("reclaim.begun")
        assert daemon.events("reclaim.done")
        assert await daemon.run_until_idle() == 0
        assert not daemon.events("reclaim.begun")


async def test_a_dump_restored_over_the_queue_itself_pays_for_nothing_twice(make, postgres_url, quick_folder):
    dump = quick_folder / "queue.dump"
    daemon = await dumped_in_mid_flight(make, postgres_url, dump)
    creates = daemon.sandbox.ledger.creates
    await ran("pg_restore", "--clean", "--exit-on-error", f"--dbname={postgres_url}", dump)
    assert await daemon.run_until_idle() == 0
    paid_once(daemon, creates)
    assert daemon.events("reclaim.done")


async def test_daemons_that_start_together_on_a_restored_queue_agree(make, postgres, postgres_url, quick_folder):
    dump = quick_folder / "queue.dump"
    looking = {"submission": {"adopt_checks": 3, "adopt_interval_seconds": 0.3}}
    before = await dumped_in_mid_flight(make, postgres_url, dump)
    creates = before.sandbox.ledger.creates
    with postgres.lent("template0") as url:
        await ran("pg_restore", "--exit-on-error", f"--dbname={url}", dump)
        daemons = [make(url, **looking) for _ in range(3)]
        for daemon in daemons:
            await daemon.start("--until-idle")
        assert [await daemon.ended() for daemon in daemons] == [0, 0, 0]
        paid_once(daemons[0], creates)
        assert not [event for daemon in daemons for event in daemon.events("loop.crashed")]
        assert sum(len(daemon.events("reclaim.done")) for daemon in daemons) == 1


async def test_a_queue_that_stayed_where_it_is_is_no_restored_one(make, postgres_url):
    daemon = make(postgres_url)
    daemon.queue.ask_many(3)
    for _ in range(2):
        assert await daemon.run_until_idle() == 0
        assert not daemon.events("reclaim.begun")
    with psycopg.connect(postgres_url, autocommit=True) as user:
        user.execute("VACUUM FULL queue_state")
    assert await daemon.run_until_idle() == 0
    assert not daemon.events("reclaim.begun")
