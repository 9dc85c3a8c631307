"""A backup is taken while the daemon works, more is sent, the disk dies: the restored queue pays for nothing twice."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from daemon_process import KEY, until

pytestmark = pytest.mark.sqlite
PACKING = {"linger_seconds": 0, "max_lines": 10}


async def back_up(run, path):
    """As a user does it: the command, while everything runs."""
    daemon = run.daemon
    command = (*daemon.program, "-c", str(daemon.config), "backup", str(path))
    env = {**os.environ, "DOUBLEWORD_API_KEY": KEY}
    done = await asyncio.to_thread(subprocess.run, command, env=env, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def restore(run, backup):
    for suffix in ("", "-wal", "-shm"):
        Path(f"{run.queue.path}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(backup, run.queue.path)


async def test_a_queue_restored_in_mid_flight_pays_for_nothing_twice(rehearse):
    run = await rehearse(packing=PACKING, options={"latency_seconds": 5.0})  # the backup is to come first
    backup = run.queue.path.with_name("backup.db")
    run.queue.ask_many(40, prefix="before")
    await run.daemon.start()
    await until(lambda: run.sandbox.ledger.creates >= 2)
    await back_up(run, backup)
    in_backup = {f"before-{number}" for number in range(1, 41)}
    run.queue.ask_many(20, prefix="after")
    await until(lambda: run.queue.count("done") >= 45)
    await run.daemon.kill()
    restore(run, backup)
    assert run.queue.count("done") < 40
    creates = run.sandbox.ledger.creates
    assert await run.daemon.run_until_idle() == 0
    assert {name for name, found in run.queue.outcome().items() if found[0] == "done"} == in_backup
    assert run.sandbox.ledger.creates == creates
    assert {run.sandbox.ledger.successes[name] for name in in_backup} == {1}
    assert run.daemon.events("reclaim.done")


async def test_a_restored_queue_sends_nothing_before_it_knows_what_was_sent_and_survives_a_kill_meanwhile(rehearse):
    run = await rehearse(packing=PACKING, submission={"adopt_checks": 3, "adopt_interval_seconds": 0.5})
    backup = run.queue.path.with_name("backup.db")
    run.queue.ask_many(20)
    await back_up(run, backup)
    await run.daemon.start()
    await until(lambda: run.sandbox.ledger.creates == 2)
    await run.daemon.kill()
    restore(run, backup)
    run.sandbox.faults.add("status-503:route=list-batches:retry_after=none:body_retry_after=none")
    await run.daemon.start()
    await run.daemon.told("loop.failed", stages=["reclaim"])
    run.sandbox.faults.clear()
    gate = run.proxy.hold("GET", "/content$", "before")
    async with asyncio.timeout(60):
        await gate.reached.wait()
    await run.daemon.kill()
    gate.drop()
    assert run.queue.count("queued") == 20
    await run.daemon.start("--until-idle")
    await run.daemon.told("reclaim.adopted")
    assert run.sandbox.ledger.requests["upload"] == 2
    assert await run.daemon.ended() == 0
    assert run.queue.count("done") == 20
    assert run.sandbox.ledger.creates == run.sandbox.ledger.requests["upload"] == 2


async def test_a_stop_while_it_looks_is_heeded(rehearse):
    run = await rehearse(submission={"adopt_checks": 3, "adopt_interval_seconds": 600})
    backup = run.queue.path.with_name("backup.db")
    run.queue.ask_many(1)
    await back_up(run, backup)
    restore(run, backup)
    await run.daemon.start()
    await run.daemon.told("reclaim.begun")
    run.daemon.signal()
    assert await run.daemon.ended() == 0
    assert run.queue.count("queued") == 1
