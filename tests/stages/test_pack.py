"""Which prompts share a batch, in which order they go, and when a batch is sealed."""

import dataclasses
import sys

import pytest
from rig import admit, pack, submit


def lines_of(rig, batch_id):
    rows = rig.sql(
        "SELECT p.custom_id FROM prompts p JOIN prompt_states s ON s.prompt_id = p.id WHERE s.batch_id = ?"
        " ORDER BY p.id",
        batch_id,
    )
    return [row["custom_id"] for row in rows]


async def test_a_batch_is_sealed_when_its_oldest_prompt_has_lingered(start):
    rig = await start(packing={"linger_seconds": 4000})
    rig.ask("one")
    await rig.run(admit, pack)
    assert rig.batches() == []
    await rig.later(admit, pack, seconds=4001)
    assert lines_of(rig, 1) == ["one"]
    assert rig.told("pack.sealed")[0]["why"] == "lingered"


def ask_at_once(rig, count):
    rig.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO prompts (model, prompt) SELECT 'm', 'What?' FROM n",
        count,
    )


@pytest.fixture
async def behind(start, monkeypatch):
    """A rig of which admission has seen one page of the rows that are there, all of them old."""
    monkeypatch.setattr(sys.modules["orchestrator.stages.admit"], "LOOKS_PER_TICK", 1)
    rig = await start(packing={"linger_seconds": 10})
    ask_at_once(rig, 1001)
    rig.clock.advance(100)
    assert (await admit(rig.context)).more
    return rig


async def test_a_lane_that_has_lingered_waits_for_rows_that_are_being_admitted(behind):
    tick = await pack(behind.context)
    assert (tick.moved, tick.due_ms) == (0, behind.context.in_ms(1))
    assert not (await admit(behind.context)).more
    await pack(behind.context)
    assert [batch["lines"] for batch in behind.batches()] == [1001]


async def test_rows_that_are_admitted_for_ever_hold_nobody_up(behind):
    later = behind.context.steady() + 300
    await pack(dataclasses.replace(behind.context, steady=lambda: later))
    assert [batch["lines"] for batch in behind.batches()] == [1000]


async def test_a_full_batch_does_not_wait_for_rows_that_are_being_admitted(start, monkeypatch):
    monkeypatch.setattr(sys.modules["orchestrator.stages.admit"], "LOOKS_PER_TICK", 1)
    rig = await start(packing={"linger_seconds": 10, "max_lines": 600})
    ask_at_once(rig, 1001)
    await admit(rig.context)
    await pack(rig.context)
    assert [batch["lines"] for batch in rig.batches()] == [600]


async def test_a_full_batch_does_not_linger(start):
    rig = await start(packing={"linger_seconds": 80_000, "max_lines": 3})
    rig.ask_many(7)
    await rig.run(admit, pack)
    assert [batch["lines"] for batch in rig.batches()] == [3, 3]
    assert {told["why"] for told in rig.told("pack.sealed")} == {"full"}


async def test_batches_stay_under_max_bytes_as_they_stand_on_the_wire(start):
    rig = await start(packing={"linger_seconds": 0, "max_bytes": 2000})
    for number in range(40):
        rig.ask(f"q-{number}", prompt="é\n" * (number * 3))
    await rig.submitted()
    assert rig.ledger.uploads == len(rig.batches()) > 3
    for batch, file in zip(rig.batches(), rig.ledger.files, strict=True):
        assert batch["nbytes"] == file.nbytes <= 2000
        assert batch["lines"] == file.lines


async def test_a_line_longer_than_max_bytes_goes_alone(start):
    rig = await start(packing={"linger_seconds": 0, "max_bytes": 1024})
    rig.ask("small")
    rig.ask("long", prompt="x" * 5000)
    rig.ask("other")
    await rig.until_idle()
    assert rig.count() == {"done": 3}


async def test_higher_priority_goes_first_then_the_older(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 2})
    for number, priority in enumerate([0, 0, 5, -1, 5, 0, 9]):
        rig.ask(f"q-{number}", priority=priority)
    await rig.run(admit, pack)
    assert [set(lines_of(rig, batch["id"])) for batch in rig.batches()] == [
        {"q-6", "q-2"},
        {"q-4", "q-0"},
        {"q-1", "q-5"},
        {"q-3"},
    ]


async def test_a_prompt_is_not_sent_before_its_time(rig):
    rig.ask("now")
    rig.ask("later", not_before="2199-12-31 23:59:59")
    rig.ask("iso", not_before="2199-12-31T23:59:59.000Z")
    rig.ask("past", not_before="2001-01-01 00:00:00")
    await rig.until(lambda: rig.count()["done"] == 2)
    assert rig.statuses() == {"now": "done", "later": "queued", "iso": "queued", "past": "done"}
    rig.clock.now = 7_258_118_400.0 + 10
    await rig.until_idle()
    assert rig.count() == {"done": 4}


async def test_a_lane_has_its_cap_on_active_batches(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 1}, provider={"max_active_batches_per_lane": 2})
    rig.ask_many(5)
    rig.ask("other", completion_window="1h")
    await rig.run(admit, pack)
    assert len(rig.batches()) == 3
    await rig.until_idle()
    assert rig.count() == {"done": 6}


async def test_a_lane_that_was_emptied_since_it_was_looked_at_gets_no_batch(start, monkeypatch):
    rig = await start(packing={"linger_seconds": 0})
    rig.ask("one")
    await rig.run(admit)
    stage = sys.modules["orchestrator.stages.pack"]
    look = stage.list_ready_lanes

    async def looked(*given):
        found = await look(*given)
        rig.sql("UPDATE prompt_states SET status = 'cancelled'")
        return found

    monkeypatch.setattr(stage, "list_ready_lanes", looked)
    await rig.run(pack)
    assert rig.value("SELECT count(*) FROM batch_states") == 0


async def test_a_provider_has_its_cap_on_active_batches(start):
    most = 0
    rig = await start(packing={"linger_seconds": 0, "max_lines": 1}, provider={"max_active_batches": 3})
    rig.ask_many(9)

    def capped():
        nonlocal most
        active = rig.value("SELECT count(*) FROM batch_states WHERE status NOT IN ('settled', 'discarded')")
        most = max(most, active)
        return rig.is_idle()

    await rig.until(capped)
    assert most == 3
    assert rig.count() == {"done": 9}


async def test_many_lanes_do_not_starve_each_other(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 5}, provider={"mix_models": False})
    rig.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
        " INSERT INTO prompts (model, prompt) SELECT 'big', 'x' FROM n"
    )
    for number in range(150):
        rig.ask(f"q-{number}", model=f"tiny-{number}")
    await rig.run(admit)
    await pack(rig.context)
    await pack(rig.context)
    packed = rig.value("SELECT count(DISTINCT lane_id) FROM batch_states")
    assert packed == 151


async def test_lanes_are_told_apart_by_provider_endpoint_window_and_where_models_may_not_mix_model(start):
    rig = await start(other={"mix_models": False})
    rig.ask("a")
    rig.ask("b", model="n")
    rig.ask("c", completion_window="1h")
    rig.ask("d", endpoint="/v1/responses")
    rig.ask("e", provider="other")
    rig.ask("f", provider="other", model="n")
    await rig.run(admit, pack)
    assert sorted(lines_of(rig, batch["id"]) for batch in rig.batches()) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    await rig.until_idle()
    assert rig.count() == {"done": 6}


async def test_a_batch_left_half_packed_by_a_crash_is_sealed_with_what_it_holds(rig):
    rig.ask_many(4)
    await rig.run(admit)
    rig.sql(
        "INSERT INTO batch_states (key, lane_id, status, lease_owner, lease_until_ms, fence, created_at_ms)"
        " VALUES ('orc-half', 1, 'packing', 'dead', ?, 1, 1)",
        int((rig.clock() + 100) * 1000),
    )
    rig.sql("UPDATE prompt_states SET status = 'batched', batch_id = 1 WHERE prompt_id <= 2")
    await rig.later(admit, pack, seconds=101)
    assert lines_of(rig, 1) == ["q-1", "q-2"]
    await rig.until_idle()
    assert rig.count() == {"done": 4}
    assert set(rig.ledger.executions.values()) == {1}


async def test_nothing_is_packed_for_a_paused_provider(rig):
    rig.faults.add("no-credit")
    rig.ask("one")
    await rig.submitted()
    rig.ask("two")
    await rig.run(admit, pack)
    assert rig.statuses() == {"one": "batched", "two": "queued"}


async def test_prompts_of_a_provider_that_left_the_settings_fail_with_its_name(start):
    rig = await start(other={})
    rig.ask("orphan", provider="other")
    await rig.run(admit)
    rig.context.config.providers.pop("other")
    await rig.until_idle()
    assert rig.result("orphan")["status"] == "failed"
    assert "other" in rig.result("orphan")["error_message"]


async def test_text_over_what_any_provider_takes_fails_without_being_read(start, monkeypatch):
    limits = {"max_line_bytes": 2000, "max_file_bytes": 100_000}
    rig = await start(provider=limits, other=limits | {"max_line_bytes": 5000})
    rig.ask("short")
    rig.ask("long", "x" * 5001)
    rig.ask("longer", "x" * 100_000)
    admit_stage = sys.modules["orchestrator.stages.admit"]
    judged, place = [], admit_stage.place
    monkeypatch.setattr(
        admit_stage, "place", lambda prompt, *rest: judged.append(prompt.custom_id) or place(prompt, *rest)
    )
    await rig.until_idle()
    assert judged == ["short", "long"]
    assert rig.statuses() == {"short": "done", "long": "failed", "longer": "failed"}
    assert rig.result("longer")["error_message"].startswith("text of 100000 bytes is over the 5000 bytes")
    assert rig.result("longer")["fault"] == "invalid"


BAD = {
    "not json": {"body": "{"},
    "no object": {"body": "[1]"},
    "both": {"prompt": "x", "body": '{"messages": []}'},
    "provider": {"prompt": "x", "provider": "nobody"},
    "endpoint": {"prompt": "x", "endpoint": "/v1/images"},
    "window": {"prompt": "x", "completion_window": "5m"},
    "model": {"prompt": "x", "model": None},
}


@pytest.mark.parametrize("columns", BAD.values(), ids=BAD.keys())
async def test_a_bad_row_fails_with_its_mistake_and_holds_up_nothing(rig, columns):
    await _fails_alone(rig, columns)


@pytest.mark.sqlite
async def test_a_time_that_is_none_fails_its_row_alone(rig):
    await _fails_alone(rig, {"prompt": "x", "not_before": "tomorrow"})


async def _fails_alone(rig, columns):
    rig.ask("bad", **columns)
    rig.ask("good")
    await rig.run(admit, pack, submit)
    found = rig.result("bad")
    assert (found["status"], found["fault"], found["attempts"]) == ("failed", "invalid", 0)
    assert found["error_message"]
    assert rig.statuses()["good"] == "batched"
    assert rig.told("admit.rejected")[0]["prompts"] == 1
    await rig.until_idle()
    assert "bad" not in rig.ledger.executions


async def test_a_line_over_the_providers_limit_fails_before_it_is_sent(start):
    rig = await start(provider={"max_line_bytes": 500})
    rig.ask("long", prompt="x" * 600)
    rig.ask("good")
    await rig.until_idle()
    assert rig.statuses() == {"long": "failed", "good": "done"}
    assert "500 bytes" in rig.result("long")["error_message"]
