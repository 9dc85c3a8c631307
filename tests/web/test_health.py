"""/healthz tells whether every loop ticks, /readyz whether work can be done now."""

import asyncio
import math

import pytest

from orchestrator import vitals
from orchestrator.context import Tick
from orchestrator.vitals import REST_PATIENCE_SECONDS, TICK_PATIENCE_SECONDS, Vitals
from orchestrator.web import health


@pytest.fixture
async def advance(monkeypatch):
    """Let time pass for this loop at once, and no other way: a machine out of breath makes nothing stuck."""
    loop = asyncio.get_running_loop()
    now = [math.ceil(loop.time())]
    monkeypatch.setattr(loop, "time", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


@pytest.fixture
def forgetful(monkeypatch):
    monkeypatch.setattr(health, "REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.remembered.SHARE", 0.0)


async def rested():
    return Tick()


async def test_a_loop_that_rests_is_alive_until_its_patience_ends(advance):
    made = Vitals()
    tick = made.watched("pack", rested, 0)
    await tick()
    advance(REST_PATIENCE_SECONDS)
    assert made.stuck() == []
    advance(1)
    assert made.stuck() == ["pack"]
    await tick()
    assert made.stuck() == []


async def test_a_loop_that_has_to_wait_for_its_first_tick_is_not_stuck(advance):
    made = Vitals()
    made.watched("pack", rested, 0)
    advance(REST_PATIENCE_SECONDS + 1)
    assert made.stuck() == []


async def test_a_tick_that_never_ends_is_stuck_once_its_calls_had_their_time(advance):
    made = Vitals()
    hanging = asyncio.Event()
    quick, slow = made.watched("admit", hanging.wait, 0), made.watched("submit", hanging.wait, 60)
    ticking = [asyncio.create_task(tick()) for tick in (quick, slow)]
    await asyncio.sleep(0)
    advance(TICK_PATIENCE_SECONDS + 60)
    assert made.stuck() == ["admit"]
    advance(1)
    assert made.stuck() == ["admit", "submit"]
    hanging.set()
    await asyncio.wait(ticking)
    assert made.stuck() == []


async def test_a_tick_that_fails_is_a_sign_of_life(advance):
    made = Vitals()

    async def failing():
        advance(TICK_PATIENCE_SECONDS + 1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await made.watched("poll", failing, 0)()
    assert made.stuck() == []


async def test_one_hung_loop_of_a_stage_is_seen_beside_others_that_tick(advance):
    made = Vitals()
    await made.watched("poll", rested, 0)()
    other = made.watched("poll", rested, 0)
    advance(REST_PATIENCE_SECONDS + 1)
    await other()
    assert made.stuck() == ["poll"]


async def test_health_names_the_stage_that_is_stuck(page, monkeypatch):
    assert await page.json("/healthz") == (200, {"alive": True, "stuck": []})
    monkeypatch.setattr(vitals, "REST_PATIENCE_SECONDS", -1.0)
    await page.vitals.watched("collect", rested, 0)()
    assert await page.json("/healthz") == (503, {"alive": False, "stuck": ["collect"]})


async def test_a_queue_that_can_work_is_ready(page):
    assert await page.json("/readyz") == (200, {"ready": True, "problems": []})


async def test_a_paused_provider_is_named_without_what_it_said(forgetful, page):
    page.rig.sql(
        "INSERT INTO provider_states (name, pauses, paused_at_ms, resume_at_ms, pause_reason, paused_by)"
        " VALUES ('doubleword', 1, 1, 2, 'the reason is not for everybody', 'call')"
    )
    told = (503, {"ready": False, "problems": ["provider doubleword is paused"]})
    assert await page.json("/readyz") == told
    page.rig.sql("UPDATE provider_states SET pauses = 0")
    assert (await page.json("/readyz"))[0] == 200


async def test_a_provider_that_left_the_settings_makes_nobody_wait(forgetful, page):
    page.rig.sql("INSERT INTO provider_states (name, pauses) VALUES ('of-last-year', 1)")
    assert (await page.json("/readyz"))[0] == 200


async def test_a_database_of_another_revision_is_not_ready(forgetful, page):
    page.rig.sql("UPDATE alembic_version SET version_num = '0001'")
    told = (503, {"ready": False, "problems": ["the database is at another revision than this program"]})
    assert await page.json("/readyz") == told


async def test_a_queue_restored_from_a_backup_is_not_ready_until_it_knows_what_was_sent(forgetful, page):
    page.rig.sql("UPDATE queue_state SET backed_up_at_ms = 1")
    problem = "the queue was restored and finds out what was sent since its backup"
    assert await page.json("/readyz") == (503, {"ready": False, "problems": [problem]})


async def test_a_database_that_is_gone_is_not_ready_and_the_page_lives_on(forgetful, page):
    page.rig.path.rename(page.rig.path.with_suffix(".away"))
    assert await page.json("/readyz") == (503, {"ready": False, "problems": ["the database cannot be read"]})
    assert (await page.json("/healthz"))[0] == 200


async def test_a_daemon_that_stops_is_alive_but_not_ready(page):
    page.vitals.stopping = True
    assert await page.json("/readyz") == (503, {"ready": False, "problems": ["the daemon is stopping"]})
    assert (await page.json("/healthz"))[0] == 200
