"""F7, F11, F18, F22: a batch that is over accounts for each of its lines before it is closed."""

import json

import pytest


async def test_one_poll_that_wrongly_says_completed_ends_nothing(start):
    rig = await start(through_proxy=True, sandbox={"latency_seconds": 600})
    lied = []

    def completed(status, headers, body):
        told = json.loads(body)
        if told.get("status") == "in_progress" and not lied:
            lied.append(told["id"])
            return status, headers, json.dumps(told | {"status": "completed"}).encode()
        return status, headers, body

    rig.proxy.rewrite("GET", "/batches/[^/]+$", completed)
    rig.ask_many(5)
    await rig.until_idle()
    assert lied
    assert rig.ledger.creates == 1
    assert set(rig.ledger.executions.values()) == {1}
    assert rig.batch()["lines_done"] == 5


@pytest.mark.parametrize("minutes", [5, 50])
async def test_answers_that_are_counted_and_not_there_yet_are_waited_for(start, minutes):
    rig = await start(through_proxy=True)
    begun = []

    def short(status, headers, body):
        begun.append(rig.clock())
        late = rig.clock() - begun[0] < minutes * 60
        return status, headers, b"".join(body.splitlines(keepends=True)[:2]) if late else body

    rig.proxy.rewrite("GET", "/content", short)
    rig.ask_many(5)
    await rig.until_idle()
    assert len(begun) < 20
    assert rig.ledger.creates == 1


async def test_answers_that_are_counted_and_never_come_are_given_up(start):
    rig = await start(through_proxy=True)
    rig.proxy.rewrite("GET", "/content", lambda status, headers, body: (status, headers, body[: body.find(b"\n") + 1]))
    rig.ask_many(2)
    await rig.until(lambda: rig.batches()[0]["status"] == "settled")
    rig.proxy.rewrites.clear()
    await rig.until_idle()
    assert rig.ledger.creates == 2
    assert rig.count() == {"done": 2}


def hide_error_file(rig, seconds):
    """The ended batch counts its failed lines and names no file with them, for so long."""
    since = []

    def unnamed(status, headers, body):
        told = json.loads(body)
        if told.get("status") != "completed":
            return status, headers, body
        since.append(rig.clock())
        hidden = {"error_file_id": None} if rig.clock() - since[0] < seconds else {}
        return status, headers, json.dumps(told | hidden).encode()

    rig.proxy.rewrite("GET", "/batches/[^/]+$", unnamed)
    return since


@pytest.mark.parametrize("minutes", [5, 50])
async def test_failures_that_are_counted_and_whose_file_is_not_named_yet_are_waited_for(start, minutes):
    rig = await start(through_proxy=True, sandbox={"dialect": "openai"}, profile="openai")
    looks = hide_error_file(rig, minutes * 60)
    rig.ask("bad", model="m+sandbox-bad-request")
    rig.ask_many(3)
    await rig.until_idle()
    assert len(looks) < 20
    assert rig.count() == {"done": 3, "failed": 1}
    assert rig.history("bad") == ["invalid"]
    assert set(rig.ledger.executions.values()) == {1}


async def test_failures_that_are_counted_and_never_named_are_given_up(start):
    rig = await start(through_proxy=True, sandbox={"dialect": "openai"}, profile="openai")
    hide_error_file(rig, 10**9)
    rig.ask("once", model="m+sandbox-fail-once")
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 4}
    assert rig.history("once") == ["missing", None]


async def test_a_cancelled_batch_whose_first_look_named_no_file_has_its_answers_read(start):
    rig = await start(through_proxy=True, sandbox={"dialect": "openai"}, profile="openai")
    rig.faults.add("cancelled-by-provider:share=0.5")
    since = []

    def bare(status, headers, body):
        told = json.loads(body)
        if told.get("status") != "cancelled":
            return status, headers, body
        since.append(rig.clock())
        hidden = {"output_file_id": None, "request_counts": None} if rig.clock() - since[0] < 30 else {}
        return status, headers, json.dumps(told | hidden).encode()

    rig.proxy.rewrite("GET", "/batches/[^/]+$", bare)
    rig.ask_many(6)
    await rig.until_idle()
    assert since
    assert set(rig.ledger.successes.values()) == {1}


async def test_a_line_in_neither_file_goes_back_after_a_full_reading_some_time_later(rig):
    rig.ask("lost", model="m+sandbox-missing-once")
    rig.ask_many(4)
    await rig.collected()
    first = rig.ledger.requests["content"]
    await rig.turn()
    (again,) = rig.told("settle.rereading")
    assert again["missing"] == 1
    assert rig.statuses()["lost"] == "batched"
    await rig.later(seconds=59)
    assert rig.ledger.requests["content"] == first
    await rig.until_idle()
    assert rig.count() == {"done": 5}
    assert rig.history("lost") == ["missing", None]
    (missing,) = rig.told("settle.missing")
    assert (missing["lines"], missing["fault"], missing["resent"]) == (1, "missing", 1)


async def test_a_result_that_lands_after_the_cancel_is_taken_and_not_paid_twice(start):
    rig = await start(sandbox={"latency_seconds": 400, "abort_seconds": 40})
    rig.ask_many(20)
    await rig.submitted()
    await rig.later(seconds=100)
    await rig.context.clients["doubleword"].cancel_batch(rig.batch()["remote_batch_id"])
    await rig.until_idle()
    assert rig.count() == {"done": 20}
    assert set(rig.ledger.successes.values()) == {1}
    assert 1 < len([name for name in rig.results() if len(rig.history(name)) == 2]) < 19


@pytest.mark.parametrize("share", [0.2, 0.8])
async def test_an_expired_batch_is_harvested_and_its_rest_resent_without_an_attempt(start, share):
    rig = await start(sandbox={"dialect": "openai"}, profile="openai", retry={"max_attempts": 1})
    rig.faults.add("expired", share=share, times=1)
    rig.ask_many(10)
    await rig.until_idle()
    assert rig.count() == {"done": 10}
    assert set(rig.ledger.successes.values()) == {1}
    assert {row["attempts"] for row in rig.results().values()} == {1}
    assert {fault for name in rig.results() for fault in rig.history(name)} == {"expired", None}


async def test_a_token_limit_at_validation_puts_every_line_back_without_an_attempt(start):
    rig = await start(sandbox={"dialect": "openai"}, profile="openai", retry={"max_attempts": 1})
    rig.faults.add("token-limit", seconds=100, times=2)
    rig.ask_many(5)
    await rig.until_idle()
    assert rig.count() == {"done": 5}
    assert {row["attempts"] for row in rig.results().values()} == {1}
    assert set(rig.ledger.executions.values()) == {1}
    assert rig.told("settle.held")


@pytest.mark.parametrize("dialect", ["doubleword", "openai"])
async def test_lines_named_by_a_failed_validation_fail_and_the_rest_is_sent(start, dialect):
    rig = await start(sandbox={"dialect": dialect}, profile=dialect)
    rig.faults.add("validation-failed", lines="2,5", times=1)
    rig.ask_many(6)
    await rig.until_idle()
    failed = {name for name, status in rig.statuses().items() if status == "failed"}
    assert failed == {"q-2", "q-5"}
    assert rig.count() == {"done": 4, "failed": 2}
    assert rig.result("q-2")["fault"] == "invalid"
    assert "parseable" in rig.result("q-2")["error_message"]
    assert set(rig.ledger.executions.values()) == {1}


async def test_a_failed_validation_that_names_no_line_puts_all_lines_back(start):
    rig = await start(sandbox={"dialect": "openai"}, profile="openai")
    rig.faults.add("validation-failed", lines="none", times=1)
    rig.ask_many(6)
    await rig.until_idle()
    assert rig.count() == {"done": 6}
    assert set(rig.ledger.executions.values()) == {1}


async def test_every_settled_batch_says_what_became_of_its_lines(rig):
    rig.ask("done")
    rig.ask("again", model="m+sandbox-fail-once")
    rig.ask("bad", model="m+sandbox-bad-request")
    rig.ask("lost", model="m+sandbox-missing-once")
    rig.ask("double", model="m+sandbox-duplicate")
    await rig.until_idle()
    told = {facts["batch"]: facts for facts in rig.told("settle.settled")}
    first = told[1]
    assert (first["lines"], first["done"], first["failed"], first["resent"]) == (5, 2, 1, 2)
    for batch in rig.sql("SELECT * FROM batches"):
        assert batch["lines"] == batch["lines_received"]
        assert batch["status"] == "settled"
        for column in ("created_at", "uploaded_at", "submitted_at", "ended_at", "settled_at", "remote_batch_id"):
            assert batch[column], column
    assert rig.batches()[0]["duplicates"] == 1
