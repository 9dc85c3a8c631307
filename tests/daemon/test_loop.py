"""One loop for all stages: it pauses, wakes, backs off, recovers and stops."""

import asyncio

import pytest
from structlog.testing import capture_logs

from orchestrator import loop as loops
from orchestrator.context import Tick
from orchestrator.errors import StoreUnavailable
from orchestrator.loop import Bell, Troubles, run_loop

IDLE = Tick()
DEADLINE_SECONDS = 10


def seconds_until(time_ms):
    """The clock of these tests stands at 0."""
    return max(0.0, time_ms / 1000)


class Stage:
    """Gives or raises what it was told to, tick by tick; then it is idle."""

    def __init__(self, *ends):
        self.ends = list(ends)
        self.ticks = 0
        self.ticked = asyncio.Event()

    async def __call__(self):
        self.ticks += 1
        self.ticked.set()
        end = self.ends.pop(0) if self.ends else IDLE
        if isinstance(end, Exception):
            raise end
        return end

    async def next_tick(self):
        self.ticked.clear()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.ticked.wait()


@pytest.fixture
async def run():
    bell, troubles, tasks = Bell(), Troubles(), []

    def start(stage, name="poll"):
        tasks.append(asyncio.create_task(run_loop(name, stage, bell, troubles, seconds_until)))
        return bell

    yield start
    bell.stop()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)


async def test_a_tick_that_has_more_is_followed_by_the_next_at_once(run):
    stage = Stage(*[Tick(1, more=True)] * 50)
    run(stage)
    async with asyncio.timeout(5):
        while stage.ticks < 51:
            await asyncio.sleep(0)


async def test_an_idle_loop_waits_until_it_is_rung(run):
    stage = Stage()
    bell = run(stage)
    await stage.next_tick()
    bell.ring()
    await stage.next_tick()
    assert stage.ticks == 2


@pytest.mark.parametrize(("due_ms", "rest_seconds"), [(None, 60), (2500, 2.5), (0, 0.1), (99_000, 60)])
def test_a_loop_rests_until_more_is_due_but_neither_spins_nor_sleeps_for_ever(due_ms, rest_seconds):
    assert loops._until_due(Tick(due_ms=due_ms), seconds_until) == rest_seconds


async def test_an_idle_loop_ticks_when_its_time_has_come(run):
    stage = Stage(Tick(due_ms=1))
    run(stage)
    await stage.next_tick()
    await stage.next_tick()
    assert stage.ticks == 2


async def test_a_ring_during_a_tick_is_not_lost(run):
    bell = Bell()

    class Rung(Stage):
        async def __call__(self):
            if not self.ticks:
                bell_of_loop.ring()
            return await super().__call__()

    stage = Rung()
    bell_of_loop = bell = run(stage)
    async with asyncio.timeout(5):
        while stage.ticks < 2:
            await asyncio.sleep(0)
    assert not bell.stopping


async def test_work_that_was_moved_wakes_every_loop(run):
    mover, follower, other = Stage(), Stage(), Stage()
    bell = run(follower, "collect")
    run(other, "settle")
    await follower.next_tick()
    mover.ends = [Tick(3)]
    run(mover, "poll")
    await follower.next_tick()
    await asyncio.sleep(0)
    assert (follower.ticks, other.ticks) == (2, 2)
    assert not bell.stopping


async def test_a_tick_that_moved_nothing_wakes_nobody(run):
    follower, idle = Stage(), Stage(Tick(0))
    run(follower, "collect")
    run(idle, "poll")
    await idle.next_tick()
    for _ in range(20):
        await asyncio.sleep(0)
    assert follower.ticks == 1


async def test_a_failure_is_told_and_the_loop_goes_on(run, monkeypatch):
    monkeypatch.setattr(loops, "PAUSE_MAX_SECONDS", 0.01)
    with capture_logs() as logs:
        stage = Stage(*[RuntimeError("a bug")] * 5, Tick(1))
        run(stage)
        async with asyncio.timeout(5):
            while not [log for log in logs if log["event"] == "loop.recovered"]:
                await asyncio.sleep(0)
    crashed = [log for log in logs if log["event"] == "loop.crashed"]
    assert [log["failures"] for log in crashed] == [1, 2, 4]
    assert [log["stages"] for log in crashed] == [["poll"]] * 3
    assert all(log["log_level"] == "error" and log["exc_info"] for log in crashed)
    assert next(log for log in logs if log["event"] == "loop.recovered")["failures"] == 5


def test_pauses_double_up_to_five_minutes_and_for_the_database_to_fifteen_seconds():
    with capture_logs():
        bugs = [Troubles().failed(1, "poll", RuntimeError("a bug"), count) for count in range(1, 12)]
        store = [Troubles().failed(1, "poll", StoreUnavailable("full"), count) for count in range(1, 12)]
    assert bugs == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert store == [1, 2, 4, 8, 15, 15, 15, 15, 15, 15, 15]


async def test_an_error_of_ours_is_a_warning_without_a_traceback(run):
    with capture_logs() as logs:
        stage = Stage(StoreUnavailable("the disk is full"))
        run(stage)
        await stage.next_tick()
        await asyncio.sleep(0)
    (failed,) = [log for log in logs if log["event"] == "loop.failed"]
    assert (failed["log_level"], failed["reason"]) == ("warning", "the disk is full")
    assert "exc_info" not in failed


FULL, LOCKED = StoreUnavailable("the disk is full"), StoreUnavailable("locked")


def told_of(*happened):
    """What is told when loops fail or recover (None), one after the other."""
    troubles, failures = Troubles(), {}
    with capture_logs() as logs:
        for stage, error in happened:
            if error is None:
                troubles.recovered(stage, stage, failures.pop(stage))
                continue
            failures[stage] = failures.get(stage, 0) + 1
            troubles.failed(stage, stage, error, failures[stage])
    return [(log["event"], log.get("stages", log.get("stage")), log.get("reason")) for log in logs]


def test_what_stops_every_stage_is_told_once_and_so_is_its_end():
    rounds = [(stage, FULL) for _ in range(5) for stage in ("admit", "pack", "poll")]
    ends = [(stage, None) for stage in ("poll", "admit", "pack")]
    everybody = ["admit", "pack", "poll"]
    assert told_of(*rounds, *ends) == [
        ("loop.failed", ["admit"], "the disk is full"),
        ("loop.failed", everybody, "the disk is full"),
        ("loop.failed", everybody, "the disk is full"),
        ("loop.recovered", "pack", None),
    ]


def test_each_reason_is_told_and_one_that_comes_back_too():
    happened = [("admit", FULL), ("admit", LOCKED), ("pack", FULL), ("admit", None), ("pack", None), ("pack", FULL)]
    assert told_of(*happened) == [
        ("loop.failed", ["admit"], "the disk is full"),
        ("loop.failed", ["admit"], "locked"),
        ("loop.failed", ["pack"], "the disk is full"),
        ("loop.recovered", "admit", None),
        ("loop.recovered", "pack", None),
        ("loop.failed", ["pack"], "the disk is full"),
    ]


async def test_a_loop_that_failed_is_not_woken_by_new_work_but_by_a_stop(run):
    with capture_logs():
        stage = Stage(RuntimeError("a bug"))
        bell = run(stage)
        await stage.next_tick()
        for _ in range(20):
            bell.ring()
            await asyncio.sleep(0)
        assert stage.ticks == 1
        bell.stop()


async def test_a_stop_lets_the_tick_in_hand_finish_and_starts_no_other(run):
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), []

    async def tick():
        begun.set()
        await may_end.wait()
        ended.append(True)
        return Tick(1, more=True)

    bell = run(tick)
    await begun.wait()
    bell.stop()
    may_end.set()
    await asyncio.sleep(0.01)
    assert ended == [True]


async def test_a_cancelled_tick_is_no_failure(run):
    with capture_logs() as logs:
        begun = asyncio.Event()

        async def tick():
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(run_loop("poll", tick, Bell(), Troubles(), seconds_until))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert logs == []


def test_a_server_that_cannot_be_listened_to_is_told_folded_and_when_it_can_again():
    troubles = Troubles()
    with capture_logs() as events:
        troubles.deaf(None)
        for _ in range(5):
            troubles.deaf("no server")
        troubles.deaf(None)
        troubles.deaf(None)
        troubles.deaf("no server")
    told = [(facts["event"], facts["tries"]) for facts in events]
    assert told == [("loop.deaf", 1), ("loop.deaf", 2), ("loop.deaf", 4), ("loop.hears", 5), ("loop.deaf", 1)]
    assert events[0]["reason"] == "no server"
    assert events[0]["log_level"] == "warning"
    assert events[0]["todo"]
