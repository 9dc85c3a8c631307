"""F4 to F6, F12 to F15, F30 to F32, F36 to F38: what a provider shows of a batch, and what it must not lead to."""

import dataclasses
import importlib
import itertools

import pytest
from rig import admit, collect, pack, poll, submit

from orchestrator.api.client import Client
from orchestrator.store.database import Database

ODD = (
    "unknown-status",
    "upper-case-status",
    "null-counts",
    "zero-counts",
    "counts-backwards",
    "errors-list",
    "errors-text",
    "iso-dates",
    "no-nulls",
    "empty-error-file-id",
    "wrapped-reply",
    "file-uploaded",
    "long-ids",
    "colliding-ids",
    "empty-error-file",
    "long-finalizing:seconds=200",
    "null-output-id:seconds=200",
    "gzip",
)


OPENAI_TOO = (
    "no-nulls",
    "empty-error-file",
    "long-finalizing:seconds=200",
    "null-output-id:seconds=200",
    "zero-counts",
)


@pytest.mark.parametrize(
    ("fault", "dialect"),
    [*((fault, "doubleword") for fault in ODD), *((fault, "openai") for fault in OPENAI_TOO)],
)
async def test_an_odd_looking_batch_is_answered_like_any_other(start, fault, dialect):
    seldom = {"min_seconds": 300.0, "max_seconds": 600.0}  # one of them is given up after six hours only
    rig = await start(sandbox={"dialect": dialect}, profile=dialect, polling=seldom)
    rig.faults.add(fault)
    rig.ask_many(4)
    rig.ask("twice", model="m+sandbox-fail-once")
    await rig.until_idle()
    assert rig.count() == {"done": 5}
    assert rig.ledger.executions == {"q-1": 1, "q-2": 1, "q-3": 1, "q-4": 1, "twice": 2}
    assert rig.ledger.creates == (2 if dialect == "doubleword" else 3)


@pytest.mark.parametrize("dialect", ["doubleword", "openai"])
async def test_when_every_line_failed_the_error_file_alone_settles_the_batch(start, dialect):
    rig = await start(sandbox={"dialect": dialect}, profile=dialect, retry={"max_attempts": 1})
    for number in range(3):
        rig.ask(f"q-{number}", model="m+sandbox-fail-always")
    await rig.until_idle()
    assert rig.count() == {"failed": 3}
    assert {row["fault"] for row in rig.results().values()} == {"server"}
    assert rig.ledger.creates == 1


POLL_ERRORS = (
    "html-error:route=retrieve",
    "status-503:route=retrieve",
    "status-500:route=retrieve",
    "status-429:route=retrieve",
    "status-404:route=retrieve",
    "status-410:route=retrieve",
    "status-401:route=retrieve",
    "status-403:route=retrieve",
    "reset-before:route=retrieve",
    "malformed-json:route=retrieve",
    "redirect:route=retrieve",
    "batch-gone",
)


@pytest.mark.parametrize("fault", POLL_ERRORS)
async def test_a_poll_that_fails_changes_nothing_but_the_time_of_the_next(rig, fault):
    rig.ask_many(3)
    before = await rig.submitted()
    rig.faults.add(fault)
    for number in range(1, 4):
        await rig.later(poll, seconds=100)
        after = dict(rig.batch())
        assert after.pop("tries") == number
        assert after.pop("next_try_at_ms") > rig.clock() * 1000
        assert after.pop("last_error")
        assert after.pop("last_error_at_ms")
        changed = {name for name, value in after.items() if value != before[name]} - {"fence"}
        assert changed == set()
    assert [told["tries"] for told in rig.told("poll.failed")] == [1, 2]
    rig.faults.clear()
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1


async def test_a_provider_that_is_down_for_a_day_loses_nothing(rig):
    rig.ask_many(3)
    await rig.submitted()
    rig.faults.add("html-error:route=any")
    rig.ask("meanwhile")
    end = rig.clock() + 86_000
    while rig.clock() < end:
        await rig.later(seconds=8000)
    rig.faults.clear()
    await rig.until_idle()
    assert rig.count() == {"done": 4}
    assert set(rig.ledger.executions.values()) == {1}


async def test_polls_are_30_to_60_seconds_apart_drawn_for_each_batch_and_look(start):
    throws = iter([0.0, 0.5, 0.999] * 200)
    rig = await start(sandbox={"latency_seconds": 3000}, dice=lambda: next(throws))
    rig.ask("one")
    await rig.submitted()
    waits = set()
    for _ in range(12):
        wait_ms = rig.batch()["next_try_at_ms"] - rig.context.now_ms()
        assert 30_000 <= wait_ms <= 60_000
        waits.add(wait_ms)
        await rig.later(poll, seconds=wait_ms / 1000 + 0.01)
    assert len(waits) > 2


@pytest.fixture
async def many(start):
    """Five batches whose polls are due, and which go on for long."""
    rig = await start(packing={"max_lines": 1, "linger_seconds": 0}, sandbox={"latency_seconds": 5000.0})
    rig.ask_many(5)
    await rig.run(admit, pack, submit)
    rig.clock.advance(60)
    return rig


def polled(rig):
    return [batch["polled_at_ms"] is not None for batch in rig.batches()]


async def test_batches_that_are_due_together_are_claimed_and_noted_together(many, monkeypatch):
    written, inner = [], Database.write

    async def counted(self, work):
        written.append(work)
        return await inner(self, work)

    monkeypatch.setattr(Database, "write", counted)
    await poll(many.context)
    assert polled(many) == [True] * 5
    assert len(written) == 3  # their claim, what was seen, the end of the claim


async def test_a_poll_that_crashes_holds_up_no_other(many, monkeypatch):
    broken, inner = many.batches()[1]["remote_batch_id"], Client.get_batch

    async def get_batch(self, remote_id):
        if remote_id == broken:
            raise RuntimeError("a bug")
        return await inner(self, remote_id)

    monkeypatch.setattr(Client, "get_batch", get_batch)
    with pytest.raises(RuntimeError, match="a bug"):
        await poll(many.context)
    assert polled(many) == [True, False, True, True, True]
    times = [batch["next_try_at_ms"] - many.context.now_ms() for batch in many.batches()]
    assert min(times) >= 30_000
    assert not (await poll(many.context)).more
    many.clock.advance(60)
    with pytest.raises(RuntimeError, match="a bug"):
        await poll(many.context)


async def test_where_calls_take_long_a_claim_ends_after_some_of_them(many):
    seconds = itertools.count(step=6.0)
    slow = dataclasses.replace(many.context, steady=lambda: next(seconds))
    assert (await poll(slow)).more
    assert 1 <= polled(many).count(True) < 5
    await many.run(poll)
    assert polled(many) == [True] * 5


async def test_polls_due_within_seconds_are_made_together(many):
    await many.run(poll)
    due_ms = min(batch["next_try_at_ms"] for batch in many.batches())
    now_ms = many.context.now_ms()
    assert (await poll(many.context)).due_ms == due_ms
    many.clock.advance((due_ms - now_ms) / 1000 - 0.01)
    assert (await poll(many.context)).due_ms == many.context.now_ms() + 5000


@pytest.fixture
async def crowd(start):
    """A dozen batches whose polls are due, and which were seen to run; dice that have the listing believed."""
    throws = itertools.cycle([0.5, 0.6, 0.7])
    rig = await start(
        packing={"max_lines": 1, "linger_seconds": 0}, sandbox={"latency_seconds": 5000.0}, dice=lambda: next(throws)
    )
    rig.ask_many(12)
    await rig.run(admit, pack, submit)
    rig.clock.advance(60)
    await rig.run(poll)
    rig.clock.advance(60)
    return rig


async def calls_of_a_poll(rig):
    """How many listings were read, and how many batches asked for one by one."""
    before = rig.ledger.requests
    await rig.run(poll)
    after = rig.ledger.requests
    return tuple(after.get(route, 0) - before.get(route, 0) for route in ("list-batches", "retrieve"))


async def test_one_listing_tells_of_many_batches_that_nothing_is_new(crowd):
    before = crowd.batches()
    assert await calls_of_a_poll(crowd) == (1, 0)
    after = crowd.batches()
    for old, new in zip(map(dict, before), map(dict, after), strict=True):
        changed = {name for name in new if new[name] != old[name]}
        assert changed == {"polled_at_ms", "next_try_at_ms", "fence"}
    assert len({batch["next_try_at_ms"] for batch in after}) == 1  # so that they are listed together again


async def test_what_a_listing_shows_anew_is_asked_for_by_itself(crowd):
    await crowd.context.clients["doubleword"].cancel_batch(crowd.batches()[3]["remote_batch_id"])
    assert await calls_of_a_poll(crowd) == (1, 1)
    assert [batch["id"] for batch in crowd.batches() if batch["status"] == "ended"] == [crowd.batches()[3]["id"]]


async def test_a_batch_that_goes_on_in_another_way_is_asked_for_by_itself(crowd):
    crowd.faults.add("unknown-status:route=list-batches")
    assert await calls_of_a_poll(crowd) == (1, 12)


async def test_a_batch_with_which_something_is_to_be_done_is_asked_for_by_itself(crowd):
    crowd.sql("UPDATE batch_states SET cancel_requested = (1 = 1) WHERE id = (SELECT min(id) FROM batch_states)")
    assert await calls_of_a_poll(crowd) == (1, 1)
    assert crowd.told("poll.cancelling")


async def test_a_listing_is_not_believed_for_ever(crowd):
    crowd.faults.add("old-list", seconds=6000)
    crowd.clock.advance(6000)
    await crowd.run(poll)
    assert {batch["status"] for batch in crowd.batches()} == {"submitted"}
    throws = itertools.cycle([0.5] * 9 + [0.0])
    lucky = dataclasses.replace(crowd.context, dice=lambda: next(throws))
    for _ in range(30):
        crowd.clock.advance(60)
        await poll(lucky)
    assert {batch["status"] for batch in crowd.batches()} == {"ended"}


@pytest.mark.parametrize("fault", ["html-error:route=list-batches", "malformed-json:route=list-batches", "bad-list"])
async def test_a_listing_that_fails_costs_a_call_each(crowd, fault):
    crowd.faults.add(fault)
    assert await calls_of_a_poll(crowd) == (1, 0 if fault == "bad-list" else 12)
    assert all(batch["last_error"] is None for batch in crowd.batches())


async def test_a_few_batches_are_asked_for_one_by_one(many):
    assert await calls_of_a_poll(many) == (0, 5)


async def test_of_a_listing_no_more_is_read_than_the_calls_would_cost(crowd, monkeypatch):
    monkeypatch.setattr(importlib.import_module("orchestrator.stages.poll"), "LISTED_PER_CALL", 0.5)
    assert await calls_of_a_poll(crowd) == (1, 6)


async def test_a_provider_that_cannot_be_searched_is_not_listed(start):
    rig = await start(
        packing={"max_lines": 1, "linger_seconds": 0}, sandbox={"latency_seconds": 5000.0},
        provider={"searchable_batches": False},
    )  # fmt: skip
    rig.ask_many(12)
    await rig.run(admit, pack, submit)
    rig.clock.advance(60)
    assert await calls_of_a_poll(rig) == (0, 12)


async def test_a_429_on_a_poll_waits_as_long_as_asked(rig):
    rig.ask("one")
    await rig.submitted()
    rig.faults.add("status-429:route=retrieve", times=1, retry_after=500)
    await rig.later(poll)
    assert rig.batch()["next_try_at_ms"] >= (rig.clock() + 500) * 1000


async def test_expired_at_on_a_batch_that_completed_late_is_no_loss(start):
    rig = await start(sandbox={"windows": {"24h": 20.0}, "latency_seconds": 100})
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1


async def test_a_batch_long_past_its_window_is_cancelled_harvested_and_the_rest_resent(start):
    rig = await start(polling={"overdue_seconds": 600}, sandbox={"windows": {"24h": 60.0, "1h": 60.0}})
    rig.faults.add("stuck-in-progress", share=0.5, times=1)
    rig.ask_many(10)
    await rig.until(lambda: rig.count()["done"] == 5)
    await rig.until_idle()
    assert rig.count() == {"done": 10}
    assert set(rig.ledger.successes.values()) == {1}
    (overdue,) = rig.told("poll.overdue")
    assert overdue["remote_batch_id"] == rig.ledger.batches[0].id
    assert rig.ledger.batches[0].status == "cancelled"


async def test_a_cancel_that_never_ends_does_not_hold_its_lines_for_ever(start):
    rig = await start(polling={"overdue_seconds": 600}, sandbox={"windows": {"24h": 60.0, "1h": 60.0}})
    rig.faults.add("stuck-in-progress", share=0.5, times=1)
    rig.faults.add("stuck-cancelling", times=1)
    rig.ask_many(10)
    await rig.until_idle()
    assert rig.count() == {"done": 10}
    assert set(rig.ledger.successes.values()) == {1}


async def test_a_batch_that_validates_for_ever_where_none_can_be_deleted_is_cancelled_when_it_is_overdue(start):
    windows = {"24h": 60.0, "1h": 60.0}
    rig = await start(
        polling={"overdue_seconds": 600}, sandbox={"dialect": "openai", "windows": windows}, profile="openai"
    )
    rig.faults.add("stuck-validating", times=1)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert set(rig.ledger.executions.values()) == {1}


async def test_a_batch_within_its_window_is_never_cancelled(start):
    rig = await start(sandbox={"latency_seconds": 85_000})
    rig.ask_many(3)
    await rig.submitted()
    for _ in range(8):
        await rig.later(seconds=9000)
    assert rig.ledger.requests.get("cancel", 0) == 0
    rig.clock.advance(20_000)
    await rig.until_idle()
    assert rig.ledger.creates == 1


async def test_answers_are_visible_while_their_batch_still_runs(start):
    rig = await start(sandbox={"latency_seconds": 300})
    rig.ask_many(10)
    await rig.submitted()
    await rig.until(lambda: 0 < rig.count()["done"] < 10)
    assert rig.batch()["status"] == "submitted"
    assert rig.ledger.batches[0].status == "in_progress"
    assert rig.result("q-1")["answer"]


async def test_a_batch_whose_lines_all_have_answers_ends_although_it_still_finalizes(start):
    rig = await start()
    rig.faults.add("long-finalizing", seconds=10**7)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}


async def test_a_provider_that_left_the_settings_keeps_its_batches_until_it_is_back(start):
    rig = await start(other={})
    rig.ask("there", provider="other")
    await rig.submitted()
    gone = rig.context.clients.pop("other")
    for _ in range(3):
        await rig.later(seconds=1000)
    assert rig.batch()["status"] == "submitted"
    rig.context.clients["other"] = gone
    await rig.until_idle()
    assert rig.count() == {"done": 1}
    assert rig.ledger.creates == 1


async def of_another_account(rig):
    """A submitted batch that this key does not see any more."""
    rig.ask_many(2)
    await rig.submitted()
    rig.sandbox.provider.batches.clear()
    rig.sandbox.provider.files.clear()


async def test_a_batch_that_the_provider_does_not_know_is_held(rig):
    await of_another_account(rig)
    for _ in range(60):
        await rig.later(seconds=60)
    assert rig.batch()["status"] == "submitted"
    assert rig.ledger.creates == 1


async def test_it_is_given_up_long_after_its_window(start):
    rig = await start(polling={"overdue_seconds": 3600})
    await of_another_account(rig)
    await rig.later(seconds=26 * 3600)
    await rig.until_idle()
    assert rig.count() == {"done": 2}
    assert rig.history("q-1") == ["missing", None]
    assert rig.told("poll.gone")[0]["log_level"] == "error"


@pytest.mark.parametrize("searchable", [True, False])
async def test_it_is_given_up_when_it_is_cancelled(start, searchable):
    rig = await start(provider={"searchable_batches": searchable})
    await of_another_account(rig)
    rig.sql("UPDATE prompt_states SET cancelling = 1")
    rig.sql("UPDATE batch_states SET cancel_requested = true")
    await rig.until_idle()
    assert rig.count() == {"cancelled": 2}
    assert rig.ledger.creates == 1


async def test_404s_of_an_outage_end_no_batch_that_is_listed(start):
    rig = await start(polling={"overdue_seconds": 3600}, sandbox={"latency_seconds": 27 * 3600})
    rig.ask_many(2)
    await rig.submitted()
    gone = rig.faults.add("batch-gone")
    await rig.later(seconds=25.5 * 3600)
    for _ in range(40):
        await rig.later(seconds=60)
    assert gone.fired > 20
    assert not rig.told("poll.gone")
    assert rig.batch()["status"] == "submitted"


async def test_a_poll_that_is_answered_with_another_batch_ends_nothing(start):
    settings = {"packing": {"linger_seconds": 0, "max_lines": 2}, "sandbox": {"latency_seconds": 300}}
    rig = await start(through_proxy=True, **settings)
    rig.ask_many(2)
    await rig.collected(400)
    first = rig.batches()[0]["remote_batch_id"]
    rig.ask("x-1")
    rig.ask("x-2")
    await rig.submitted()
    second = rig.batches()[1]["remote_batch_id"]
    misled = []

    def target(request):
        if misled or request.method != "GET" or not request.path.endswith(second):
            return request.path_qs
        misled.append(request.path)
        return request.path_qs.replace(second, first)

    rig.proxy.target = target
    await rig.until_idle()
    assert misled
    assert rig.ledger.creates == 2
    assert set(rig.ledger.executions.values()) == {1}
    assert "another batch" in rig.told("poll.failed")[0]["reason"]


# ---------------------------------------------------------------- a batch that nobody waits for any more


def batches_take(rig, seconds):
    simulation = rig.sandbox.provider.simulation
    simulation.options = dataclasses.replace(simulation.options, latency_seconds=seconds)


@pytest.fixture
async def resent(start):
    """A line that failed in the first batch, which a slow one keeps open, is sent again in a second one."""
    rig = await start(sandbox={"slow_seconds": 1200, "validate_seconds": 100}, retry={"base_seconds": 0})
    rig.ask("both", model="m+sandbox-fail-once")
    rig.ask("slow", model="m+sandbox-slow")
    await rig.submitted()
    await rig.until(lambda: len(rig.batches()) == 2 and rig.batch()["status"] == "submitted")
    batches_take(rig, 700)
    return rig


async def answered_by_the_first(rig):
    remote = rig.sandbox.provider.batches[rig.batches()[0]["remote_batch_id"]]
    failed = [line for line in remote.lines if line.template.custom_id == "both"]
    batches_take(rig, 1)
    rig.sandbox.provider.simulation.retry(remote, failed, rig.clock())
    batches_take(rig, 700)
    rig.clock.advance(2)
    rig.sql("UPDATE batch_states SET next_try_at_ms = 0 WHERE id = 1")
    await rig.run(poll, collect)
    assert rig.statuses() == {"both": "done", "slow": "batched"}


@pytest.mark.parametrize("seconds", [0, 200], ids=["validating", "running"])
async def test_a_batch_whose_last_line_was_answered_by_an_earlier_one_is_cancelled(resent, seconds):
    rig = resent
    await rig.later(poll, seconds=seconds)
    await answered_by_the_first(rig)
    assert rig.batch()["remote_status"] == ("in_progress" if seconds else "validating")
    await rig.until_idle()
    (told,) = rig.told("poll.cancelling")
    assert told["batch"] == 2
    assert rig.ledger.successes == {"both": 1, "slow": 1}
    assert rig.ledger.requests["cancel"] == 1
    assert not rig.told("settle.rereading")


async def test_its_cancel_is_tried_again_until_it_arrives(resent):
    rig = resent
    await rig.later(poll, seconds=200)
    await answered_by_the_first(rig)
    fault = rig.faults.add("status-503:route=cancel", times=3)
    await rig.until_idle()
    assert fault.fired == 3
    assert rig.ledger.successes == {"both": 1, "slow": 1}
    assert len(rig.told("poll.cancelling")) == 4


async def test_it_is_not_cancelled_for_a_line_that_is_still_wanted(start):
    rig = await start(sandbox={"latency_seconds": 600})
    rig.ask_many(3)
    await rig.submitted()
    await rig.until(lambda: rig.count()["done"])
    rig.sql("UPDATE prompt_states SET cancelling = 1 WHERE status = 'batched' AND prompt_id <> 3")
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert not rig.told("poll.cancelling")


async def test_when_only_cancelled_prompts_are_left_their_batch_is_cancelled(start):
    rig = await start(sandbox={"latency_seconds": 600})
    rig.ask_many(3)
    await rig.submitted()
    rig.sql("UPDATE prompt_states SET cancelling = 1 WHERE prompt_id <> 1")
    await rig.until_idle()
    assert rig.statuses() == {"q-1": "done", "q-2": "cancelled", "q-3": "cancelled"}
    assert rig.ledger.successes == {"q-1": 1}
    assert rig.ledger.requests["cancel"] == 1


@pytest.mark.sqlite
async def test_when_only_replaced_rows_are_left_their_batch_is_cancelled(start):
    rig = await start(sandbox={"latency_seconds": 600})
    rig.ask_many(2)
    await rig.submitted()
    await rig.later(poll, seconds=60)
    rig.sql("INSERT OR REPLACE INTO prompts (custom_id, model, prompt) VALUES ('q-1', 'm', 'x'), ('q-2', 'm', 'y')")
    await rig.until_idle()
    assert rig.count() == {"done": 2}
    assert rig.told("poll.cancelling")[0]["batch"] == 1
    assert rig.ledger.successes == {"q-1": 1, "q-2": 1}
