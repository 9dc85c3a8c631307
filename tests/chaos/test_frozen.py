"""A daemon is stopped for longer than its lease, another one takes its batch over, and then the first wakes up."""

import signal
from pathlib import Path

import pytest
from chaos.scene import LONG, second_daemon

LEASE_SECONDS = 2.0
SHORT_LEASES = dict.fromkeys(
    ("orchestrator.lease.LEASE_SECONDS", "orchestrator.stages.pack.LEASE_SECONDS"), LEASE_SECONDS
)
MOMENTS = {
    "before the upload": "orchestrator.upload.Upload._encoded",
    "after the upload": "orchestrator.stages.submit._note_uploaded",
    "before the batch is made": "orchestrator.api.client.Client.create_batch",
    "after the batch was made": "orchestrator.stages.submit._accept",
    "after a look at the batch": "orchestrator.stages.poll._polled",
    "after the answers were read": "orchestrator.stages.collect._note_read",
}


def is_stopped(daemon):
    """By the letter after the name, which may hold anything."""
    assert daemon.is_running, daemon.text()[-3000:]
    return Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def contents(queue):
    names = [row[0] for row in queue.sql("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {name: [tuple(row) for row in queue.sql(f"SELECT * FROM {name}")] for name in names}


def sent_by_all(scene):
    """A look that was under way may still be made; it costs nothing."""
    return [call for call in scene.proxy.seen if call[0] != "GET"]


IN_SHORT = ("before the batch is made", "after the batch was made")


@pytest.mark.parametrize("moment", MOMENTS if LONG else IN_SHORT)
async def test_who_wakes_up_after_its_lease_sends_nothing_and_writes_nothing(stage_scene, moment):
    scene = await stage_scene(
        f"SIGSTOP {moment}", packing={"linger_seconds": 0, "max_lines": 2}, submission={"concurrency": 1}
    )
    scene.watched(SHORT_LEASES, CHAOS_SHARED="1")
    scene.queue.ask_many(30 if LONG else 16)
    sleeper, other = scene.daemon, second_daemon(scene)
    sleeper.environment = {**other.environment, "CHAOS_STOPS_AT": MOMENTS[moment]}
    await sleeper.start("--until-idle")
    await scene.until(lambda: is_stopped(sleeper))
    scene.did("SIGSTOP")
    await other.start("--until-idle")
    assert await other.ended() == 0, other.text()[-3000:]
    sent, stored = sent_by_all(scene), contents(scene.queue)
    sleeper.signal(signal.SIGCONT)
    await scene.ends_well()
    assert sent_by_all(scene) == sent
    assert contents(scene.queue) == stored
    scene.check()
