"""Which prompts are ready, in which order, and how they get into a batch and out again."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.model import Lane
from orchestrator.store.batches import insert_batch
from orchestrator.store.lanes import Hold, find_or_make_lane, free_lane, get_hold, hold_lane, note_packed
from orchestrator.store.queue import (
    PAGE_BYTES,
    PAGE_LINES,
    Line,
    Oversized,
    admit_again,
    cancel_lines,
    list_batched_of_models,
    list_lines,
    list_oversized,
    list_ready,
    list_ready_lanes,
    list_unadmitted,
    model_of,
    models_in,
    move_lines,
    pages,
    read_batched,
    read_unadmitted,
    return_lines,
    take_into_batch,
    wake_due,
)
from orchestrator.store.reports import count_by_status, is_idle, take_pulse

NOW_MS = 1_800_000_000_000
A, B = (Lane("p", "/v1/chat/completions", "24h", model) for model in "ab")


async def ready_lanes(daemon, count_to=100, now_ms=NOW_MS):
    return await daemon.read(lambda c: list_ready_lanes(c, count_to, now_ms))


async def ready(daemon, lane_id=1, count=100):
    return [line.prompt_id for line in await daemon.read(lambda c: list_ready(c, lane_id, count))]


# ---------------------------------------------------------------- admission


async def test_new_rows_are_listed_in_order_with_the_size_of_what_was_written(user, daemon):
    user.insert(prompt="x" * 7)
    user.insert(prompt="é", system="y")
    assert await daemon.read(list_unadmitted) == [Line(1, 7), Line(2, 3)]


async def test_a_page_of_new_rows_is_no_longer_than_a_page(user, daemon):
    user.insert_many(PAGE_LINES + 1)
    assert len(await daemon.read(list_unadmitted)) == PAGE_LINES


@pytest.mark.sqlite
async def test_text_is_read_as_the_bytes_that_were_stored(user, daemon):
    user.run("INSERT INTO prompts (prompt, body, custom_id) VALUES (CAST(x'ff00' AS TEXT), 'é', 'a')")
    ((row, _due),) = await daemon.read(lambda c: read_unadmitted(c, [1], 1000))
    assert (row.custom_id, row.prompt, row.body, row.system, row.model) == ("a", b"\xff\x00", "é".encode(), None, None)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("not_before", "readable"),
    [
        *(
            (text, True)
            for text in (None, "2027-01-15 08:00:00", "2027-01-15T08:00:00Z", "2027-01-15 08:00+02:00", "2027-01-15")
        ),
        *(
            (text, False)
            for text in ("soon", "", "12:00", "2099", "20270115", "2461374.5", "now", "2027-13-01", "2027-1-15")
        ),
    ],
)
async def test_a_time_that_is_none_is_seen(user, daemon, not_before, readable):
    user.insert(not_before=not_before)
    ((row, _due),) = await daemon.read(lambda c: read_unadmitted(c, [1], 1000))
    assert row.not_before_readable is readable


async def test_a_row_with_too_much_text_is_listed_and_not_read(user, daemon):
    short = user.insert(prompt="x" * 10)
    long = user.insert(custom_id="long", prompt="x" * 5, system="é", body='{"a": 1}')
    ids = [short, long]
    assert [row.id for row, _ in await daemon.read(lambda c: read_unadmitted(c, ids, 14))] == [short]
    assert await daemon.read(lambda c: list_oversized(c, ids, 14)) == [Oversized(long, "long", 15)]
    assert await daemon.read(lambda c: list_oversized(c, ids, 15)) == []
    await daemon.admit(*ids)
    assert await daemon.read(lambda c: list_oversized(c, ids, 14)) == []


async def test_only_rows_nobody_looked_at_are_read(user, daemon):
    queued, admitted, cancelled = user.insert_many(3)
    await daemon.admit(admitted)
    user.put(cancelled, "cancelled")
    assert [row.id for row, _ in await daemon.read(lambda c: read_unadmitted(c, [*range(100)], 1000))] == [queued]


async def test_admission_does_not_touch_what_a_user_cancelled_meanwhile(user, daemon):
    prompt_id = user.insert()
    user.put(prompt_id, "cancelled")
    await daemon.admit(prompt_id)
    assert (user.state(prompt_id)["status"], user.state(prompt_id)["lane_id"]) == ("cancelled", None)


async def test_a_lane_is_made_once(daemon):
    first = await daemon.write(lambda c: find_or_make_lane(c, A))
    assert await daemon.write(lambda c: find_or_make_lane(c, B)) != first
    assert await daemon.write(lambda c: find_or_make_lane(c, A)) == first


async def test_a_waiting_prompt_is_not_ready_until_it_is_woken(user, daemon):
    prompt_id = user.insert(not_before="2027-01-15 08:00:00")
    await daemon.admit(prompt_id, waiting=True)
    assert await ready(daemon) == []
    assert await daemon.write(lambda c: wake_due(c, NOW_MS - 1)) == 0
    assert await daemon.write(lambda c: wake_due(c, NOW_MS)) == 1
    assert await ready(daemon) == [prompt_id]


# ---------------------------------------------------------------- order


async def test_higher_priority_goes_first_then_older(user, daemon):
    for priority in (0, 5, -3, 5, 0):
        user.insert(priority=priority)
    await daemon.admit(1, 2, 3, 4, 5)
    assert await ready(daemon) == [2, 4, 1, 5, 3]
    assert await ready(daemon, count=2) == [2, 4]


async def test_taken_prompts_are_taken_once(user, daemon):
    prompt_ids = user.insert_many(4)
    await daemon.admit(*prompt_ids)
    user.put(prompt_ids[0], "cancelled")
    user.run("DELETE FROM prompts WHERE id = ?", prompt_ids[1])
    lines = [Line(prompt_id, 10) for prompt_id in prompt_ids]
    assert await daemon.write(lambda c: take_into_batch(c, 7, lines)) == 2
    assert await daemon.write(lambda c: take_into_batch(c, 8, lines)) == 0
    assert user.values("SELECT batch_id FROM prompt_states WHERE status = 'batched'") == [7, 7]
    assert await ready(daemon) == []


async def test_a_lane_tells_what_waits_in_it_counted_no_further_than_asked(user, daemon):
    prompt_ids = user.insert_many(5, not_before="2027-01-15 08:00:00")
    await daemon.admit(*prompt_ids, lane=A, nbytes=10)
    user.run("UPDATE prompt_states SET due_at_ms = 5 WHERE prompt_id = ?", prompt_ids[1])
    for count_to, lines in ((100, 5), (5, 5), (3, 3)):
        (found,) = await ready_lanes(daemon, count_to)
        assert (found.lane, found.max_bytes) == (A, None)
        assert (found.waiting.lines, found.waiting.nbytes, found.waiting.oldest_ms) == (lines, lines * 10, 5)


async def test_a_lane_without_ready_prompts_is_not_listed(user, daemon):
    prompt_id = user.insert()
    await daemon.admit(prompt_id, waiting=True)
    assert await ready_lanes(daemon) == []


async def test_a_held_lane_is_not_listed_until_its_time_or_until_it_is_free(user, daemon):
    lane_id = await daemon.admit(*user.insert_many(1))
    await daemon.write(lambda c: hold_lane(c, lane_id, Hold(NOW_MS + 5, times=1, max_bytes=60)))
    assert (await daemon.read(lambda c: get_hold(c, lane_id))).max_bytes == 60
    assert await ready_lanes(daemon) == []
    (found,) = await ready_lanes(daemon, now_ms=NOW_MS + 5)
    assert found.max_bytes == 60
    await daemon.write(lambda c: free_lane(c, lane_id, 100))
    (found,) = await ready_lanes(daemon)
    assert found.max_bytes >= 100


async def test_the_lane_packed_longest_ago_comes_first(user, daemon):
    ids = [await daemon.admit(*user.insert_many(1), lane=Lane("p", "/v1/x", "24h", model)) for model in "abc"]
    await daemon.write(lambda c: note_packed(c, ids[0], NOW_MS))
    await daemon.write(lambda c: note_packed(c, ids[1], NOW_MS - 1))
    assert [lane.id for lane in await ready_lanes(daemon)] == [ids[2], ids[1], ids[0]]


async def test_none_of_ten_thousand_lanes_starves(user, daemon):
    """Lanes that were served go behind all others, although they fill up again at once."""
    count, per_pass = 10_000, 200
    user.run("BEGIN")
    user.run_many("INSERT INTO prompts (prompt) VALUES (?)", [("x",)] * count)
    user.run_many(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('p', '/v1/x', '24h', ?)",
        [(f"m-{number}",) for number in range(count)],
    )
    user.run("UPDATE prompt_states SET lane_id = prompt_id")
    user.run("COMMIT")
    served, seconds = [], []
    for number in range(3):
        start = time.perf_counter()
        lanes = [lane.id for lane in await ready_lanes(daemon, 50_000, NOW_MS)]
        seconds.append(time.perf_counter() - start)
        assert len(lanes) == count
        assert not {*lanes[:-per_pass]} & {*served[-per_pass:]}
        assert lanes[len(lanes) - len(served) :] == served

        async def serve(connection, lanes=lanes, number=number):
            batch_id = await insert_batch(connection, f"orc-{number}", 1, "me", NOW_MS, NOW_MS)
            for lane_id in lanes[:per_pass]:
                assert await take_into_batch(connection, batch_id, await list_ready(connection, lane_id, 9)) == 1
                await note_packed(connection, lane_id, NOW_MS + number)
            assert await return_lines(connection, batch_id) == per_pass

        await daemon.write(serve)
        served += lanes[:per_pass]
    assert len({*served}) == 3 * per_pass
    assert min(seconds) < 2


# ---------------------------------------------------------------- what a batch holds


@pytest.fixture
async def batch(user, daemon):
    """A batch of four prompts, two each of the models m and n."""
    prompt_ids = user.insert_many(4)
    await daemon.admit(*prompt_ids)
    user.run("UPDATE prompt_states SET model = 'n' WHERE prompt_id IN (2, 4)")
    return await daemon.batch(*prompt_ids)


async def test_lines_stand_in_the_order_of_their_rows_whatever_their_priority(user, daemon):
    for priority in (0, 9, 5):
        user.insert(priority=priority)
    await daemon.admit(1, 2, 3)
    batch = await daemon.batch(2, 3, 1)
    assert await daemon.read(lambda c: list_lines(c, batch.id)) == [Line(1, 10), Line(2, 10), Line(3, 10)]


async def test_rows_of_a_batch_are_read_with_the_model_they_were_admitted_with(user, daemon, batch):
    user.insert()
    rows = await daemon.read(lambda c: read_batched(c, batch.id, 2, 99))
    found = [(prompt.id, prompt.prompt, prompt.model) for prompt in rows]
    assert found == [(2, b"hi", b"n"), (3, b"hi", b"m"), (4, b"hi", b"n")]


async def test_lines_are_found_by_their_model(daemon, batch):
    assert await daemon.read(lambda c: list_batched_of_models(c, batch.id, ["n", "x"])) == [2, 4]
    assert sorted(await daemon.read(lambda c: models_in(c, batch.id))) == ["m", "n"]
    assert await daemon.read(lambda c: model_of(c, 2)) == "n"
    assert await daemon.read(lambda c: model_of(c, 99)) is None


async def test_a_split_moves_the_later_lines(daemon, batch):
    assert await daemon.write(lambda c: move_lines(c, batch.id, 3, 55)) == 2
    assert [line.prompt_id for line in await daemon.read(lambda c: list_lines(c, batch.id))] == [1, 2]
    assert [line.prompt_id for line in await daemon.read(lambda c: list_lines(c, 55))] == [3, 4]


async def test_returned_lines_are_unharmed_and_ready_at_once(user, daemon, batch):
    before = user.state(1)
    assert await daemon.write(lambda c: return_lines(c, batch.id)) == 4
    assert user.state(1) == before | {"status": "queued", "batch_id": None}
    assert await ready(daemon) == [1, 2, 3, 4]


async def test_lines_of_a_batch_that_was_never_created_are_cancelled_where_that_is_wanted(user, daemon, batch):
    user.run("UPDATE prompt_states SET cancelling = 1 WHERE prompt_id < 4")
    assert await daemon.write(lambda c: cancel_lines(c, batch.id, NOW_MS)) == 3
    assert user.rows("SELECT DISTINCT status, batch_id, finished_at_ms FROM prompt_states WHERE prompt_id < 4") == [
        {"status": "cancelled", "batch_id": None, "finished_at_ms": NOW_MS}
    ]
    assert user.state(4)["status"] == "batched"


async def test_returned_lines_can_be_sent_through_admission_again(daemon, batch):
    await daemon.write(lambda c: return_lines(c, batch.id, readmit=True))
    assert [line.prompt_id for line in await daemon.read(list_unadmitted)] == [1, 2, 3, 4]


async def test_a_lane_whose_provider_is_gone_goes_back_to_admission_page_by_page(user, daemon):
    lane_id = await daemon.admit(*user.insert_many(PAGE_LINES + 5))
    moved = [await daemon.write(lambda c: admit_again(c, lane_id)) for _ in range(3)]
    assert moved == [PAGE_LINES, 5, 0]
    assert await ready_lanes(daemon) == []


async def test_the_pulse_counts_what_is_still_to_do(user, daemon):
    assert await daemon.read(is_idle)
    prompt_ids = user.insert_many(6)
    await daemon.admit(*prompt_ids[1:3])
    await daemon.admit(prompt_ids[3], waiting=True)
    await daemon.batch(prompt_ids[1])
    user.put(prompt_ids[4], "failed")
    user.put(prompt_ids[5], "cancelled")
    user.run("UPDATE prompt_states SET finished_at_ms = 1000 WHERE status = 'failed'")
    user.run("INSERT INTO provider_states (name, pauses) VALUES ('p', 1), ('q', 0)")
    pulse = await daemon.read(lambda c: take_pulse(c, since_ms=1000, until_ms=2000))
    assert (pulse.queued, pulse.batched, pulse.active_batches) == (3, 1, 1)
    assert (pulse.done, pulse.failed, pulse.paused) == (0, 1, ["p"])
    assert (await daemon.read(lambda c: take_pulse(c, since_ms=0, until_ms=1000))).failed == 0
    assert not await daemon.read(is_idle)
    counted = await daemon.read(count_by_status)
    assert counted == {"queued": 3, "batched": 1, "done": 0, "failed": 1, "cancelled": 1}


@pytest.mark.parametrize("status", ["queued", "batched"])
async def test_an_open_prompt_keeps_the_queue_busy_and_an_ended_one_does_not(user, daemon, status):
    prompt_id = user.insert()
    user.put(prompt_id, status)
    assert not await daemon.read(is_idle)
    user.run("UPDATE prompt_states SET status = 'failed', batch_id = NULL")
    assert await daemon.read(is_idle)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, PAGE_BYTES), max_size=40), st.integers(0, 2 * PAGE_LINES))
def test_pages_lose_no_line_and_stay_within_both_bounds(sizes, small):
    lines = [Line(number, size) for number, size in enumerate(sizes + [1] * small)]
    found = pages(lines)
    assert [line for start, stop in found for line in lines[start:stop]] == lines
    for start, stop in found:
        assert 1 <= stop - start <= PAGE_LINES
        assert sum(line.nbytes for line in lines[start:stop]) <= PAGE_BYTES or stop - start == 1
