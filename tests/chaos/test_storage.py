"""No room for the database, or no turn at it: the daemon says so, waits, and goes on by itself."""

import contextlib
import resource
import signal
import sqlite3
import subprocess

import pytest
from chaos.scene import LONG

from orchestrator.store.database import PRAGMAS

KIB, MIB = 1 << 10, 1 << 20
PROMPTS = 2000 if LONG else 150
DISK_BYTES = 24 * MIB
QUICK_LOCK = [pragma for pragma in PRAGMAS if not pragma.startswith("busy_timeout")] + ["busy_timeout=300"]
QUICK_LEASE = {"orchestrator.lease.LEASE_SECONDS": 3.0, "orchestrator.stages.pack.LEASE_SECONDS": 3.0}
"""A batch whose lease cannot be given back, for want of room, is left until the lease ends."""
LOCKED_SECONDS = 60 if LONG else 2


def complaints(scene, about):
    return [one for one in scene.events("loop.failed") if about in one["reason"]]


@pytest.fixture
def small_disk(quick_folder):
    """The database's folder as a file system of its own. Only root may mount one."""
    folder = quick_folder / "queue"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs; the limit on file sizes is tested in its place")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(ballast):
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_a_full_file_system_is_waited_out(small_disk, stage_scene):
    scene = await stage_scene("file system full", packing={"linger_seconds": 0, "max_lines": 25})
    scene.watched(QUICK_LEASE)
    scene.queue.ask_many(PROMPTS)
    await scene.daemon.start()
    await scene.until(lambda: scene.queue.count("done") > 0)
    ballast = small_disk / "ballast"
    scene.queue.ask_many(50, prefix="more")
    fill(ballast)
    scene.did("disk filled")
    await scene.until(lambda: complaints(scene, "full"))
    assert scene.daemon.is_running
    ballast.unlink()
    await scene.until(lambda: not scene.is_busy())
    said = complaints(scene, "full")
    assert {one["reason"].partition(": ")[2] for one in said} == {"database or disk is full: free some disk space"}
    assert all("Work goes on by itself." in one["todo"] for one in said)
    await stopped(scene)
    scene.check()


async def test_a_file_that_may_not_grow_is_waited_out(stage_scene):
    scene = await stage_scene("file size limit reached", packing={"linger_seconds": 0, "max_lines": 25})
    scene.watched(QUICK_LEASE)
    scene.queue.ask_many(PROMPTS)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (400 * KIB, resource.RLIM_INFINITY))

    await scene.daemon.start(before=limit)
    scene.did("limit reached")
    await scene.until(lambda: complaints(scene, "disk I/O error"))
    assert scene.daemon.is_running
    assert "file size limit" in complaints(scene, "disk I/O error")[0]["reason"]
    resource.prlimit(scene.daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)
    await scene.until(lambda: not scene.is_busy())
    await stopped(scene)
    scene.check()


async def test_a_database_that_another_process_holds_locked_is_waited_for(stage_scene):
    scene = await stage_scene(f"database locked for {LOCKED_SECONDS} s", packing={"linger_seconds": 0, "max_lines": 25})
    scene.watched(QUICK_LEASE if LONG else {**QUICK_LEASE, "orchestrator.store.database.PRAGMAS": QUICK_LOCK})
    scene.queue.ask_many(PROMPTS)
    await scene.daemon.start()
    await scene.until(lambda: scene.queue.count("batched") > 0)
    with contextlib.closing(sqlite3.connect(scene.queue.path, timeout=60, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        beats, seconds = len(scene.events("daemon.heartbeat")), LOCKED_SECONDS / 0.5
        done = scene.queue.count("done")
        await scene.until(lambda: len(scene.events("daemon.heartbeat")) > beats + seconds)  # reading goes on
        await scene.until(lambda: complaints(scene, "locked"))
        assert scene.queue.count("done") == done
        holder.execute("ROLLBACK")
    scene.did("lock")
    await scene.until(lambda: not scene.is_busy())
    assert "another process holds a write transaction open; close it" in complaints(scene, "locked")[0]["reason"]
    await stopped(scene)
    scene.check()


async def stopped(scene):
    """As a user stops it; the batches that are left are closed by another run."""
    scene.daemon.signal(signal.SIGTERM)
    await scene.ends_well()
    await scene.calm_run()
