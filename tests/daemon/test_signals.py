"""However the end is held up: soon after the grace when one signal came, at once after two; and no log is needed."""

import asyncio
import contextlib
import os
import signal
import sqlite3

import pytest

SOON_SECONDS = 12.0
"""Waiting for the lock of another program alone takes longer, several times over."""


@contextlib.contextmanager
def locked(path):
    """Another program's transaction, which it does not end."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize(("grace", "signals"), [(1, 1), (600, 2)])
async def test_a_lock_that_nobody_gives_back_holds_up_no_end(make_daemon, sandbox, grace, signals):
    daemon = make_daemon(sandbox.url, shutdown={"grace_seconds": grace})
    daemon.queue.ask_many(5)
    await daemon.started()
    await daemon.told("submit.submitted")
    with locked(daemon.queue.path):
        await asyncio.sleep(0.5)
        for _ in range(signals):
            daemon.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.1)
        await daemon.ended(SOON_SECONDS)
    daemon.queue.ask("later")
    assert await daemon.run_until_idle() == 0
    assert daemon.queue.count("done") == 6


async def test_a_signal_before_the_daemon_is_ready_ends_it(daemon):
    with locked(daemon.queue.path):
        await daemon.start()
        await asyncio.sleep(3)
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.ended(SOON_SECONDS)
    assert not daemon.events("daemon.started")
    assert "Traceback" not in daemon.text()


async def test_a_log_that_nobody_reads_stops_neither_the_work_nor_the_end(daemon):
    there, here = os.pipe()
    await daemon.start(before=lambda: os.dup2(here, 2))
    os.close(here)
    os.close(there)
    daemon.queue.ask_many(5)
    async with asyncio.timeout(60):
        while daemon.queue.count("done") < 5:
            await asyncio.sleep(0.05)
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.ended(SOON_SECONDS)
