"""Replies altered on their way: nothing crashes, nothing is paid twice, and all ends once they are true again."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from effort import tried
from hostile import ROUTES, Status, Strike, aim, damages, strikes
from hypothesis import given
from hypothesis import strategies as st
from rig import FLOW, Clock, open_rig

from orchestrator.errors import OrchestratorError

MEMORY = Path("/dev/shm")
PROMPTS, LINES = 6, 2
"""Of each life, and of each batch in it."""
LOOKED_FOR = {"files": "upload", "batches": "create"}
"""What a list is asked for: what was made, when the reply to that is lost."""


@pytest.fixture(autouse=True, scope="module")
def keyed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
        yield


def lived(empty_queue, struck):
    """A life with these strikes, from the first prompt to the last answer."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        path = Path(folder) / "queue.db"
        shutil.copyfile(empty_queue, path)
        asyncio.run(live(path, struck))


async def live(path, struck):
    async with open_rig(path, Clock(), through_proxy=True, packing={"linger_seconds": 0, "max_lines": LINES}) as rig:
        rig.ask_many(PROMPTS)
        for strike in struck:
            aim(rig.proxy, strike)
        rig.turn = lambda: turn(rig)
        await rig.until(rig.is_idle)
        check(rig, set().union(*(strike.lost() for strike in struck)))


async def turn(rig):
    """As the daemon does it: an error of ours ends the tick of one stage, any other is a bug."""
    for stage in FLOW:
        try:
            await rig.run(stage)
        except OrchestratorError as error:
            assert str(error).isprintable()


def check(rig, lost):
    """A prompt whose answer was altered may be sent again, and what it got be called a failure; no other."""
    spared = rig.results().keys() - lost
    assert {rig.result(custom_id)["status"] for custom_id in spared} <= {"done"}
    assert {rig.ledger.successes[custom_id] for custom_id in spared} <= {1}
    if not lost:
        assert rig.ledger.creates == PROMPTS // LINES
        rig.check_books()


@tried(8)
@given(st.lists(strikes, min_size=1, max_size=3))
def test_no_alteration_of_replies_loses_a_prompt_or_pays_one_twice(empty_queue, struck):
    lived(empty_queue, struck)


@pytest.mark.parametrize("route", ROUTES)
@tried(3)
@given(st.data())
def test_no_alteration_of_one_route_loses_a_prompt_or_pays_one_twice(empty_queue, route, data):
    strike = Strike(route, 0, 2, data.draw(damages(route)))
    lost = [Strike(LOOKED_FOR[route], 0, 1, Status(503, b""))] if route in LOOKED_FOR else []
    lived(empty_queue, [strike, *lost])
    assert strike.seen
