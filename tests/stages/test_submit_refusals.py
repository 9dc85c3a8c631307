"""F9, F22, F35: a file or batch that is refused for what it says. The lines to blame fail, the rest is sent at once."""

import asyncio
import re

import aiohttp
import pytest
from rig import admit, collect, pack, poll, submit


def of(rig, status):
    return {name for name, found in rig.statuses().items() if found == status}


@pytest.mark.parametrize(("status", "fault"), [(400, "invalid"), (403, "refused"), (413, "invalid"), (422, "invalid")])
async def test_the_line_a_refusal_names_fails_and_the_rest_is_sent_at_once(rig, status, fault):
    rig.faults.add("reject-line", line=3, status=status, reason="no such thing", times=1)
    rig.ask_many(5)
    await rig.submitted()
    assert rig.batch()["status"] == "submitted"
    await rig.until_idle()
    assert of(rig, "failed") == {"q-3"}
    assert rig.count() == {"done": 4, "failed": 1}
    found = rig.result("q-3")
    assert (found["fault"], found["status_code"], found["attempts"]) == (fault, status, 0)
    assert "no such thing" in found["error_message"]
    assert rig.ledger.creates == 1
    assert rig.ledger.executions.keys() == {"q-1", "q-2", "q-4", "q-5"}


async def test_one_bad_line_of_thousands_is_quarantined_and_all_others_are_sent_in_one_go(rig):
    rig.faults.add("reject-line", line=1500, times=1)
    count = 2000
    rig.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO prompts (custom_id, model, prompt) SELECT 'q-' || i, 'm', 'What about q-' || i || '?' FROM n",
        count,
    )
    await rig.until_idle()
    assert rig.count() == {"done": count - 1, "failed": 1}
    assert of(rig, "failed") == {"q-1500"}
    assert (rig.ledger.creates, rig.ledger.uploads) == (1, 1)


async def test_several_bad_lines_fail_one_after_the_other(rig):
    for earlier in range(3):
        rig.faults.add("reject-line", line=2, times=1, after=earlier)
    rig.ask_many(6)
    await rig.until_idle()
    assert rig.count() == {"done": 3, "failed": 3}
    assert rig.ledger.creates == 1


def unnumbered(rig):
    """The server refuses the same lines and does not say which."""

    def forget(status, headers, body):
        return status, headers, re.sub(rb"^Line \d+: ", b"", body)

    rig.proxy.rewrite("POST", "/files$", forget)


@pytest.mark.parametrize("culprits", [{1}, {8}, {5}, {2, 7}, {1, 2, 3}, set(range(1, 9))])
async def test_without_a_line_number_the_batch_is_halved_until_each_culprit_stands_alone(start, culprits):
    rig = await start(through_proxy=True, sandbox={"max_body_bytes": 400})
    unnumbered(rig)
    for number in range(1, 9):
        rig.ask(f"q-{number}", prompt="x" * 500 if number in culprits else "")
    await rig.until_idle()
    assert of(rig, "failed") == {f"q-{number}" for number in culprits}
    assert {rig.result(f"q-{number}")["fault"] for number in culprits} == {"invalid"}
    assert set(rig.ledger.executions.values()) <= {1}
    assert rig.ledger.executions.keys() == of(rig, "done")
    assert rig.told("submit.split")


async def test_a_line_refused_by_a_crash_safe_split_keeps_every_prompt_in_exactly_one_batch(start):
    rig = await start(through_proxy=True, sandbox={"max_body_bytes": 400})
    unnumbered(rig)
    rig.ask("bad", prompt="x" * 500)
    rig.ask_many(7)
    await rig.submitted()
    held = rig.sql("SELECT batch_id, count(*) AS lines FROM prompt_states WHERE status = 'batched' GROUP BY 1")
    by_batch = {row["batch_id"]: row["lines"] for row in held}
    sent = {b["id"]: b["lines"] for b in rig.batches() if b["status"] == "submitted"}
    assert by_batch == sent
    assert sum(sent.values()) == 7


async def test_a_model_unknown_at_one_line_drops_all_lines_of_that_model_in_one_go(rig):
    for number in range(1, 11):
        rig.ask(f"q-{number}", model="unknown-x" if number % 2 else "m")
    await rig.until_idle()
    assert of(rig, "failed") == {f"q-{number}" for number in (1, 3, 5, 7, 9)}
    assert {rig.result(name)["fault"] for name in of(rig, "failed")} == {"refused"}
    assert rig.ledger.requests["upload"] == 2
    assert rig.count()["done"] == 5


async def test_two_unknown_models_take_one_upload_each(rig):
    for number in range(1, 10):
        rig.ask(f"q-{number}", model=("unknown-x", "unknown-y", "m")[number % 3])
    await rig.until_idle()
    assert rig.count() == {"done": 3, "failed": 6}
    assert rig.ledger.requests["upload"] == 3


async def test_a_model_whose_name_begins_like_the_unknown_one_is_spared(rig):
    rig.ask("bad", model="unknown-x")
    rig.ask("near", model="not-unknown-x")
    rig.ask("nearer", model="x")
    await rig.until_idle()
    assert of(rig, "failed") == {"bad"}


@pytest.mark.parametrize(
    "text",
    [
        "Model 'b' does not support batch processing.",
        "The following model(s) are no longer available: b",
        "Model 'b' does not support completion window '24h'. Allowed: 1h",
    ],
)
async def test_a_create_refused_for_a_model_drops_that_models_lines_and_sends_the_rest(start, text):
    rig = await start(through_proxy=True)
    rig.faults.add("status-400:route=create", times=1, text=text.replace(":", ";"))
    for number in range(1, 7):
        rig.ask(f"q-{number}", model="b" if number > 4 else "m")
    await rig.until_idle()
    assert of(rig, "failed") == {"q-5", "q-6"}
    assert rig.count()["done"] == 4
    assert set(rig.ledger.executions.values()) == {1}


async def test_a_window_the_provider_does_not_sell_fails_the_lane_with_its_words(start):
    rig = await start(sandbox={"windows": {"1h": 3600.0}})
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"failed": 3}
    assert "completion_window" in rig.result("q-1")["error_message"]


# ---------------------------------------------------------------- size


async def test_a_file_over_the_providers_limit_lowers_the_limit_and_is_packed_anew(start):
    rig = await start(sandbox={"max_file_bytes": 4000})
    rig.ask_many(100)
    await rig.until_idle()
    assert rig.count() == {"done": 100}
    assert all(rig.history(name) == [None] for name in ("q-1", "q-50", "q-100"))
    assert set(rig.ledger.executions.values()) == {1}
    assert all(file.nbytes <= 4000 for file in rig.ledger.files)
    assert len(rig.told("submit.limit_lowered")) == 1
    assert rig.provider()["max_file_bytes"] <= 4000


async def test_a_413_that_names_no_size_halves_the_file_until_it_is_taken(start):
    rig = await start()
    rig.faults.add("status-413:route=upload", times=2, text="Payload Too Large")
    rig.ask_many(40)
    await rig.until_idle()
    assert rig.count() == {"done": 40}
    assert set(rig.ledger.executions.values()) == {1}
    assert len(rig.told("submit.limit_lowered")) == 2


async def test_a_proxys_413_page_lowers_the_limit_too(rig):
    rig.faults.add("html-error:route=upload", status=413, times=1)
    rig.ask_many(10)
    await rig.until_idle()
    assert rig.count() == {"done": 10}
    assert rig.told("submit.limit_lowered")


async def test_a_413_for_a_single_line_fails_that_prompt(start):
    rig = await start(sandbox={"max_file_bytes": 1000})
    rig.ask("giant", prompt="x" * 30_000)
    rig.ask("small")
    await rig.until_idle()
    assert rig.statuses() == {"giant": "failed", "small": "done"}
    found = rig.result("giant")
    assert (found["fault"], found["status_code"]) == ("invalid", 413)


async def test_a_file_of_too_many_lines_lowers_the_limit_of_lines(start):
    rig = await start(sandbox={"max_file_lines": 7})
    rig.ask_many(30)
    await rig.until_idle()
    assert rig.count() == {"done": 30}
    assert max(file.lines for file in rig.ledger.files) == 7
    assert rig.provider()["max_lines"] == 7
    assert rig.ledger.creates == 5


# ---------------------------------------------------------------- throttled


@pytest.mark.parametrize("route", ["upload", "create"])
@pytest.mark.parametrize(("header", "body", "longest"), [(600, 300, 600), (300, 900, 900), ("none", 700, 700)])
async def test_429_waits_for_the_longer_of_header_and_body(rig, route, header, body, longest):
    rig.faults.add(f"status-429:route={route}", times=1, retry_after=header, body_retry_after=body)
    rig.ask("one")
    await rig.submitted()
    await rig.later(seconds=longest - 1)
    assert rig.ledger.requests[route] == 1
    await rig.later(seconds=2)
    assert rig.ledger.requests[route] == 2
    await rig.until_idle()
    assert rig.history("one") == [None]
    assert rig.ledger.creates == 1


@pytest.mark.parametrize("route", ["upload", "create"])
async def test_503_waits_as_asked_and_looks_before_it_sends_again(rig, route):
    rig.faults.add(f"status-503:route={route}", times=1, retry_after=500, body_retry_after=400)
    rig.ask("one")
    await rig.submitted()
    await rig.later(seconds=499)
    assert rig.ledger.requests.get("list-files", 0) + rig.ledger.requests.get("list-batches", 0) == 0
    await rig.until_idle()
    assert (rig.ledger.uploads, rig.ledger.creates) == (1, 1)


async def test_a_throttled_lane_leaves_the_others_alone(rig):
    rig.faults.add("status-429:route=create", times=1, retry_after=3600)
    rig.ask("slow", completion_window="1h")
    await rig.submitted()
    rig.ask("quick")
    await rig.until(lambda: rig.statuses()["quick"] == "done")
    assert rig.statuses()["slow"] == "batched"
    await rig.until_idle()


async def test_throttling_that_lasts_makes_the_pauses_grow(start):
    rig = await start(retry={"base_seconds": 10})
    rig.faults.add("status-429:route=create", times=5, retry_after="none", body_retry_after="none")
    rig.ask("one")
    await rig.until_idle()
    delays = [(told["tries"], told["pause_seconds"]) for told in rig.told("submit.delayed")]
    assert delays == [(1, 7.5), (2, 15), (4, 60)]


async def test_a_line_number_blames_nobody_once_a_late_success_has_taken_a_line_away(start):
    rig = await start(through_proxy=True, sandbox={"latency_seconds": 2000.0})
    rig.ask("up", model="m+sandbox-fail-once")
    rig.ask_many(9)
    await rig.submitted()
    rig.clock.advance(260)
    await rig.run(poll, collect)
    earlier = rig.batch()["remote_batch_id"]
    for name in "abcd":
        rig.ask(name)
    rig.clock.advance(61)
    await rig.run(admit, pack)
    object.__setattr__(rig.sandbox.provider.options, "latency_seconds", 100.0)
    async with aiohttp.ClientSession() as client:
        await client.post(f"{rig.sandbox.url}/batches/{earlier}/retry", headers={"Authorization": "Bearer x"})
    rig.clock.advance(900)
    rig.faults.add("reject-line", line=3, status=422, times=1)  # of up, a, b, c and d
    gate = rig.proxy.hold("POST", "/files$", "after")
    sending = asyncio.create_task(rig.run(submit))
    await gate.reached.wait()
    await rig.run(poll, collect)
    assert rig.result("up")["status"] == "done"
    gate.open.set()
    await sending
    await rig.until_idle()
    assert {*rig.statuses().values()} == {"done"}
    assert {*rig.ledger.successes.values()} == {1}


@pytest.mark.parametrize("status", [409, 423, 425])
async def test_a_refusal_that_says_nothing_of_what_was_sent_fails_no_prompt_and_splits_no_batch(rig, status):
    rig.faults.add(f"status-{status}:route=create", times=3)
    rig.ask_many(8)
    await rig.until_idle()
    assert rig.count() == {"done": 8}
    assert set(rig.ledger.executions.values()) == {1}
    assert len(rig.batches()) == 1


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "The model m does not exist or you do not have access to it"),
        (404, "The model m has been deprecated"),
        (410, "The model m is no longer available"),
    ],
)
async def test_a_model_that_is_not_there_fails_by_whatever_status(rig, status, text):
    rig.ask_many(2)
    rig.faults.add(f"status-{status}:route=create", text=text)
    await rig.until_idle()
    assert rig.count() == {"failed": 2}
    assert rig.ledger.uploads == 1


async def test_a_file_that_this_account_may_not_use_is_sent_anew_and_stops_nobody(rig):
    rig.ask("old")
    denied = rig.faults.add("status-403:route=create", times=5)
    await rig.until(lambda: rig.told("provider.paused"))
    rig.ask_many(3)
    await rig.until_idle()
    assert denied.fired == 5
    assert rig.ledger.uploads == 3
    assert rig.count() == {"done": 4}
    assert set(rig.ledger.executions.values()) == {1}
