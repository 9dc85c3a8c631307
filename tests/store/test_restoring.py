"""Several daemons may start on a restored queue: what one of them has decided, another does not decide again."""

import pytest
from users import NOW_MS

from orchestrator.core.model import BatchStatus
from orchestrator.store.home import settle_in
from orchestrator.store.restoring import (
    Restored,
    dissolve_unsent,
    find_known,
    forget_backup,
    note_look,
    read_restored,
    take_back,
    update_known,
)

SENT = {"remote_batch_id": "r-1", "created_at_ms": NOW_MS}


@pytest.fixture
def restored(user):
    user.run("UPDATE queue_state SET backed_up_at_ms = 5")


async def taken(daemon, prompt_id, known=None, **values):
    row = {**SENT, "key": "orc-1", "lane_id": 1, **values}
    return await daemon.write(lambda c: take_back(c, known, row, [prompt_id]))


async def test_once_one_daemon_is_done_another_dissolves_and_takes_back_nothing(user, daemon):
    prompt_id = user.insert()
    await daemon.admit(prompt_id)
    await daemon.batch(prompt_id)
    known = await daemon.read(lambda c: find_known(c, "orc-1"))
    assert await daemon.write(dissolve_unsent) == 0
    assert await taken(daemon, prompt_id, key="orc-2") is None
    await daemon.write(lambda c: update_known(c, known, remote_batch_id="other"))
    assert user.values("SELECT status FROM batch_states") == ["packing"]
    assert user.state(prompt_id)["status"] == "batched"


async def test_while_it_is_restored_what_was_not_sent_is_dissolved(user, daemon, restored):
    prompt_id = user.insert()
    await daemon.admit(prompt_id)
    await daemon.batch(prompt_id)
    assert await daemon.write(dissolve_unsent) == 1
    assert user.state(prompt_id)["status"] == "queued"


async def test_a_batch_that_another_daemon_took_back_meanwhile_is_left_to_it(user, daemon, restored):
    prompt_id = user.insert()
    await daemon.admit(prompt_id)
    assert await taken(daemon, prompt_id) == (1, 1)
    assert await taken(daemon, prompt_id) is None
    known = await daemon.read(lambda c: find_known(c, "orc-1"))
    assert (known.status, known.remote_batch_id) == (BatchStatus.SUBMITTED, "r-1")
    user.run("UPDATE batch_states SET remote_batch_id = 'r-2'")
    await daemon.write(lambda c: update_known(c, known, remote_batch_id="r-3"))
    assert user.values("SELECT remote_batch_id FROM batch_states") == ["r-2"]
    assert user.value("SELECT lines_resent FROM batch_states") == 0


async def test_a_prompt_that_a_later_batch_took_back_stays_there(user, daemon, restored):
    prompt_id = user.insert()
    await daemon.admit(prompt_id)
    assert await taken(daemon, prompt_id, key="orc-2") == (1, 1)
    row = {**SENT, "key": "orc-1", "lane_id": 1}
    assert await daemon.write(lambda c: take_back(c, None, row, [prompt_id], later=["orc-2"])) == (2, 0)
    assert user.state(prompt_id)["batch_id"] == 1
    assert user.values("SELECT lines_resent FROM batch_states ORDER BY id") == [0, 0]
    assert await taken(daemon, prompt_id, key="orc-3") == (3, 1)
    assert user.values("SELECT lines_resent FROM batch_states ORDER BY id") == [1, 0, 0]


async def test_a_look_that_another_one_overtook_neither_counts_nor_ends_it(daemon, restored):
    before = Restored(5, 0, 0)
    await daemon.write(lambda c: note_look(c, before, looks=1, look_at_ms=7))
    await daemon.write(lambda c: note_look(c, before, looks=1, look_at_ms=9))
    assert not await daemon.write(lambda c: forget_backup(c, before))
    assert await daemon.read(read_restored) == Restored(5, 1, 7)
    await daemon.write(lambda c: note_look(c, before, looks=0, look_at_ms=8))
    assert await daemon.read(read_restored) == Restored(5, 0, 8)
    assert await daemon.write(lambda c: forget_backup(c, Restored(5, 0, 8)))
    assert await daemon.read(read_restored) is None


@pytest.mark.postgresql
@pytest.mark.parametrize("already", [None, 3])
async def test_a_queue_that_lived_elsewhere_is_a_backup_of_its_last_sign_of_life(user, daemon, already):
    await daemon.admit(user.insert())
    batch = await daemon.batch(1)
    await daemon.write(settle_in)
    assert await daemon.read(read_restored) is None
    home = user.value("SELECT home FROM queue_state")
    user.run("UPDATE queue_state SET home = '1/2/3', backed_up_at_ms = ?", already)
    user.run("UPDATE batch_states SET polled_at_ms = ?", NOW_MS + 7)
    await daemon.write(settle_in)
    assert await daemon.read(read_restored) == Restored(already or NOW_MS + 7, 0, 0)
    assert user.value("SELECT home FROM queue_state") == home
    assert user.value("SELECT lease_until_ms FROM batch_states") == 0 < batch.fence + 1


@pytest.mark.postgresql
async def test_a_queue_without_batches_may_have_sent_anything_since(user, daemon):
    user.run("UPDATE queue_state SET home = '1/2/3'")
    await daemon.write(settle_in)
    assert await daemon.read(read_restored) == Restored(0, 0, 0)


@pytest.mark.sqlite
async def test_a_file_has_no_home(user, daemon):
    await daemon.write(settle_in)
    assert user.value("SELECT home FROM queue_state") is None
