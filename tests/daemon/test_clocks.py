"""A daemon whose clock is far from the server's says so: leases are told by the daemons' own clocks."""

import time

import pytest
from daemon_process import Daemon
from rig import open_rig

from orchestrator import clocks
from orchestrator.clocks import BOUND_SECONDS, compared, watch_clock
from orchestrator.lease import LEASE_SECONDS


@pytest.fixture
async def rig(postgres_url, monkeypatch):
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    async with open_rig(postgres_url, Ahead()) as rig:
        yield rig


class Ahead:
    seconds = 0.0
    steady = staticmethod(time.monotonic)

    def __call__(self):
        return time.time() + self.seconds


def told(rig):
    return [(facts["event"], facts["looks"]) for facts in rig.events if facts["event"].startswith("daemon.clock")]


@pytest.mark.parametrize("seconds", [-25, 0, 25])
async def test_clocks_that_agree_are_not_told(rig, seconds):
    rig.clock.seconds = seconds
    assert await compared(rig.context, 0) == 0
    assert told(rig) == []


@pytest.mark.parametrize("seconds", [-1000, -35, 35, 1000])
async def test_clocks_far_apart_are_told_with_what_to_do_and_folded(rig, seconds):
    rig.clock.seconds = seconds
    looks = 0
    for _ in range(7):
        looks = await compared(rig.context, looks)
    assert told(rig) == [("daemon.clock_differs", number) for number in (1, 2, 4)]
    assert rig.events[0]["log_level"] == "warning"
    assert abs(rig.events[0]["ahead_seconds"] - seconds) < 5
    assert "NTP" in rig.events[0]["todo"]
    rig.clock.seconds = 0
    assert await compared(rig.context, looks) == 0
    assert told(rig)[-1] == ("daemon.clock_agrees", 7)


async def test_an_answer_that_takes_long_is_no_difference(rig, monkeypatch):
    async def slow(connection):
        rig.clock.seconds += 300
        return int(time.time() * 1000) + 150_000

    monkeypatch.setattr(clocks, "read_server_ms", slow)
    assert await compared(rig.context, 0) == 0


def test_the_bound_leaves_something_of_a_lease_that_is_renewed_at_its_quarter():
    assert 2 * BOUND_SECONDS < LEASE_SECONDS - LEASE_SECONDS / 4


async def test_a_file_has_one_clock(quick_folder, empty_queue, monkeypatch):
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    async with open_rig(quick_folder / "queue.db", Ahead()) as rig:
        await watch_clock(rig.context)


async def test_a_daemon_looks_at_its_start(postgres_url, quick_folder, sandbox):
    daemon = Daemon(quick_folder, sandbox.url, postgres_url)
    daemon.program = (*daemon.program[:1], "-c", LATE)
    await daemon.start()
    try:
        found = await daemon.told("daemon.clock_differs")
        assert 3590 < found["ahead_seconds"] < 3610
    finally:
        await daemon.kill()


LATE = """
import time
real = time.time
time.time = lambda: real() + 3600
from orchestrator.cli import main
main()
"""
