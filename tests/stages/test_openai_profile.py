"""The `openai` profile against a server that speaks OpenAI's dialect: the whole loop, and what differs there."""

import json

import pytest
from rig import admit, collect, pack, poll, settle, submit

OPENAI = {"sandbox": {"dialect": "openai"}, "profile": "openai"}


def openai(**more):
    """Settings of a rig; `sandbox` adds to the server's options."""
    return {**OPENAI, **more, "sandbox": {**OPENAI["sandbox"], **more.get("sandbox", {})}}


@pytest.fixture
async def rig(start):
    return await start(**OPENAI)


def models_of(rig):
    """The models named in each file that was uploaded."""
    files = [file for file in rig.sandbox.provider.files.values() if file.batch is None]
    return [{template.model for template in file.templates} for file in files]


def of(rig, status):
    return {name for name, found in rig.statuses().items() if found == status}


# ---------------------------------------------------------------- the plain walk


async def test_a_batch_is_walked_from_upload_to_answers_with_its_output_read_once_at_the_end(start):
    rig = await start(**openai(sandbox={"latency_seconds": 300}))
    rig.ask_many(10)
    rig.ask("twice", model="m+sandbox-fail-once")
    await rig.submitted()
    while not rig.told("poll.ended"):
        assert rig.ledger.requests.get("content", 0) == 0
        assert rig.count() == {"batched": 11}
        await rig.later()
    await rig.until_idle()
    assert rig.count() == {"done": 11}
    assert rig.ledger.executions == {"twice": 2, **{f"q-{number}": 1 for number in range(1, 11)}}
    assert rig.ledger.requests["content"] == 3


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions"])
async def test_every_endpoint_of_the_profile_is_answered(rig, endpoint):
    body = {"model": "sandbox-embedding" if endpoint.endswith("embeddings") else "m"}
    body |= {"messages": [{"role": "user", "content": "Why?"}]} if "chat" in endpoint else {}
    body |= {"prompt": "Why?"} if endpoint == "/v1/completions" else {}
    body |= {"input": "Why?"} if endpoint in {"/v1/responses", "/v1/embeddings"} else {}
    rig.ask("one", endpoint=endpoint, body=json.dumps(body))
    await rig.until_idle()
    assert rig.count() == {"done": 1}
    assert rig.result("one")["status_code"] == 200
    assert endpoint.endswith("embeddings") or "You asked: Why?" in rig.result("one")["answer"]


async def test_each_model_has_files_of_its_own(rig):
    for number in range(12):
        rig.ask(f"q-{number}", model=("a", "b", "c")[number % 3])
    await rig.until_idle()
    assert rig.count() == {"done": 12}
    assert sorted(models_of(rig), key=sorted) == [{"a"}, {"b"}, {"c"}]
    assert rig.ledger.creates == 3


async def test_prompts_for_several_endpoints_and_models_never_share_a_file(rig):
    for number in range(4):
        rig.ask(f"chat-{number}", model=("a", "b")[number % 2])
        rig.ask(f"text-{number}", model=("a", "b")[number % 2], endpoint="/v1/completions")
    await rig.until_idle()
    assert rig.count() == {"done": 8}
    assert rig.ledger.creates == 4
    assert not [batch for batch in rig.ledger.batches if batch.status != "completed"]


# ---------------------------------------------------------------- lines that failed


@pytest.mark.parametrize(
    ("behaviour", "fault", "status"),
    [
        ("bad-request", "invalid", 400),
        ("no-model", "invalid", 404),
        ("context-length", "invalid", 400),
        ("content-filter", "refused", 400),
        ("forbidden", "refused", 403),
    ],
)
async def test_a_line_refused_with_a_status_in_the_error_file_fails_at_once(rig, behaviour, fault, status):
    rig.ask("bad", model=f"m+sandbox-{behaviour}")
    await rig.until_idle()
    found = rig.result("bad")
    assert (found["status"], found["fault"], found["status_code"]) == ("failed", fault, status)
    assert "The sandbox answers" in found["error_message"]
    assert rig.ledger.creates == 1


@pytest.mark.parametrize(
    ("behaviour", "fault", "status"),
    [
        ("rate-limited", "throttled", 429),
        ("fail", "server", 500),
        ("status-503", "server", 503),
        ("status-408", "timeout", 408),
        ("network", "server", None),
        ("timeout", "server", None),
    ],
)
async def test_a_line_that_may_yet_succeed_is_resent(rig, behaviour, fault, status):
    rig.ask("once", model=f"m+sandbox-{behaviour}-once")
    await rig.until_idle()
    assert rig.history("once") == [fault, None]
    (row,) = rig.sql("SELECT status_code FROM attempts WHERE fault IS NOT NULL")
    assert row["status_code"] == status


async def test_a_line_without_quota_pauses_the_provider_and_harms_no_line(start):
    rig = await start(**openai(retry={"max_attempts": 1}))
    rig.ask("poor", model="m+sandbox-no-quota-once")
    await rig.until_idle()
    assert rig.history("poor") == ["account", None]
    assert rig.result("poor")["attempts"] == 1
    assert len(rig.told("provider.paused")) == len(rig.told("provider.resumed")) == 1


# ---------------------------------------------------------------- batches that end early


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
async def test_expired_lines_come_back_without_an_attempt_and_paid_answers_stay(start, share):
    rig = await start(**openai(retry={"max_attempts": 1}))
    rig.faults.add("expired", share=share, times=2)
    rig.ask_many(10)
    await rig.until_idle()
    assert rig.count() == {"done": 10}
    assert set(rig.ledger.successes.values()) == {1}
    assert {row["attempts"] for row in rig.results().values()} == {1}
    assert max(rig.state(name)["returns"] for name in rig.results()) == 2
    codes = rig.sql("SELECT DISTINCT error_code FROM attempts WHERE fault = 'expired'")
    assert [row["error_code"] for row in codes] == ["batch_expired"]
    assert not rig.told("settle.missing")


async def test_expiry_for_ever_ends_with_max_returns(start):
    rig = await start(**openai(retry={"max_returns": 2}))
    rig.faults.add("expired", share=0.0)
    rig.ask("never")
    await rig.until_idle()
    assert rig.history("never") == ["expired"] * 3
    assert (rig.result("never")["status"], rig.result("never")["attempts"]) == ("failed", 0)


@pytest.mark.parametrize("who", ["we", "the provider"])
async def test_the_output_of_a_cancelled_batch_is_harvested_and_the_rest_resent(start, who):
    rig = await start(**openai(sandbox={"latency_seconds": 400, "abort_seconds": 40}))
    if who == "the provider":
        rig.faults.add("cancelled-by-provider", share=0.5, times=1)
    rig.ask_many(20)
    await rig.submitted()
    await rig.later(seconds=100)
    if who == "we":
        await rig.context.clients["doubleword"].cancel_batch(rig.batch()["remote_batch_id"])
    await rig.until_idle()
    assert rig.count() == {"done": 20}
    assert rig.ledger.batches[0].status == "cancelled"
    assert set(rig.ledger.successes.values()) == {1}
    again = [name for name in rig.results() if rig.history(name) == ["cancelled_remotely", None]]
    assert 1 < len(again) < 19
    assert {row["attempts"] for row in rig.results().values()} == {1}


# ---------------------------------------------------------------- files that fail their validation


async def test_lines_named_by_the_validation_fail_and_the_others_are_sent_again_at_once_and_unharmed(rig):
    rig.faults.add("validation-failed", lines="2,5", code="invalid_request", times=1)
    rig.ask_many(6)
    await rig.ended()
    await rig.turn()
    await rig.turn()
    assert of(rig, "failed") == {"q-2", "q-5"}
    assert rig.ledger.creates == 2
    assert {rig.result(name)["error_code"] for name in of(rig, "failed")} == {"invalid_request"}
    await rig.until_idle()
    assert rig.count() == {"done": 4, "failed": 2}
    assert all(rig.history(name) == [None] for name in of(rig, "done"))
    assert all(rig.state(name)["returns"] == 0 for name in of(rig, "done"))


async def test_a_model_the_account_lacks_fails_its_own_prompts_only(rig):
    for number in range(6):
        rig.ask(f"q-{number}", model="unknown-x" if number % 2 else "m")
    await rig.until_idle()
    assert of(rig, "failed") == {"q-1", "q-3", "q-5"}
    assert {rig.result(name)["fault"] for name in of(rig, "failed")} == {"invalid"}
    assert {rig.result(name)["error_code"] for name in of(rig, "failed")} == {"model_not_found"}
    assert rig.ledger.creates == 2


async def test_a_file_rejected_without_a_line_gives_its_prompts_the_providers_words(start):
    rig = await start(**openai(retry={"max_returns": 1}))
    rig.faults.add("validation-failed", lines="none", code="model_not_batchable", message="Not in batches.")
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"failed": 3}
    found = rig.result("q-1")
    assert "Not in batches." in found["error_message"]
    assert found["error_code"] == "model_not_batchable"
    assert rig.history("q-1") == ["missing", "missing"]


async def test_a_file_rejected_for_want_of_money_pauses_the_provider_and_harms_no_line(start):
    rig = await start(**openai(retry={"max_returns": 0}))
    rig.faults.add(
        "validation-failed",
        lines="none",
        code="billing_hard_limit_reached",
        message="Billing hard limit has been reached",
        times=1,
    )
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert all(rig.history(name) == [None] for name in rig.results())
    assert "Billing hard limit" in rig.told("provider.paused")[0]["reason"]
    assert rig.told("provider.resumed")


@pytest.mark.sqlite  # INSERT OR REPLACE
async def test_a_line_replaced_by_its_user_meanwhile_moves_no_blame_to_its_neighbour(rig):
    rig.faults.add("validation-failed", lines="3", times=1)
    rig.ask_many(5)
    await rig.submitted()
    rig.sql("INSERT OR REPLACE INTO prompts (custom_id, model, prompt) VALUES ('q-1', 'm', 'Another question')")
    await rig.until_idle()
    assert of(rig, "failed") == {"q-3"}
    assert rig.count() == {"done": 4, "failed": 1}


# ---------------------------------------------------------------- the quota of enqueued tokens


async def test_a_batch_over_the_quota_goes_back_unharmed_and_its_lane_alone_is_held(start):
    rig = await start(**openai(retry={"max_attempts": 1, "max_returns": 0}))
    rig.faults.add("token-limit", seconds=120, times=1)
    rig.ask_many(5)
    await rig.submitted()
    await rig.later(poll, collect, settle, seconds=50)
    assert rig.count() == {"batched": 5}
    await rig.later(poll, collect, settle, seconds=100)
    assert rig.count() == {"queued": 5}
    assert all(rig.history(name) == [] for name in rig.results())
    (held,) = rig.told("settle.held")
    assert held["lines"] == 5
    assert 150 <= held["pause_seconds"] <= 300
    rig.ask("other", model="another")
    await rig.turn()
    assert rig.ledger.creates == 2
    assert rig.statuses()["other"] == "batched"
    await rig.until_idle()
    assert rig.count() == {"done": 6}
    assert {row["attempts"] for row in rig.results().values()} == {1}


QUOTA_TEXT = "Enqueued token limit reached for m in organization org-1. Limit: 90000 enqueued tokens."


@pytest.mark.parametrize("status", [400, 429])
async def test_a_creation_refused_for_the_quota_fails_no_prompt_and_holds_its_lane_alone(start, status):
    rig = await start(**openai(retry={"max_attempts": 1, "max_returns": 0}))
    rig.faults.add(f"status-{status}:route=create", text=QUOTA_TEXT, times=1)
    rig.ask_many(5)
    await rig.run(admit, pack, submit)
    assert rig.count() == {"queued": 5}
    (held,) = rig.told("submit.held")
    assert (held["lines"], QUOTA_TEXT in held["reason"]) == (5, True)
    assert 150 <= held["pause_seconds"] <= 300
    rig.ask("other", model="another")
    await rig.turn()
    assert rig.statuses()["other"] == "batched"
    await rig.until_idle()
    assert rig.count() == {"done": 6}
    assert all(rig.history(name) == [None] for name in rig.results())


async def test_a_prompt_that_alone_is_always_refused_for_the_quota_fails_in_the_end(start):
    rig = await start(**openai(retry={"max_returns": 2}))
    rig.faults.add("status-400:route=create", text=QUOTA_TEXT, times=1000)
    rig.ask("giant")
    await rig.until_idle()
    assert rig.history("giant") == ["missing"] * 3
    assert QUOTA_TEXT in rig.result("giant")["error_message"]


async def test_a_file_over_the_whole_quota_is_halved_until_it_fits(start):
    rig = await start(**openai(sandbox={"enqueued_tokens": 150}))
    rig.ask_many(25)
    await rig.until_idle(turns=3000)
    assert rig.count() == {"done": 25}
    assert set(rig.ledger.executions.values()) == {1}
    assert all(rig.history(name) == [None] for name in rig.results())


async def test_a_prompt_that_alone_is_over_the_quota_fails_in_the_end_and_the_others_are_answered(start):
    rig = await start(**openai(sandbox={"enqueued_tokens": 150}, retry={"max_attempts": 1, "max_returns": 3}))
    rig.ask_many(4)
    rig.ask("giant", prompt="x" * 1000)
    await rig.until_idle(turns=3000)
    assert rig.count() == {"done": 4, "failed": 1}
    found = rig.result("giant")
    assert (found["status"], found["fault"], found["attempts"]) == ("failed", "missing", 0)
    assert found["error_code"] == "token_limit_exceeded"
    assert "Enqueued token limit reached" in found["error_message"]
    assert rig.history("giant") == ["missing"] * 4
    assert all(rig.history(f"q-{number}") == [None] for number in range(1, 5))
    assert rig.told("settle.gave_up")


async def test_a_prompt_turned_away_because_others_hold_the_quota_is_charged_nothing(start):
    rig = await start(
        **openai(
            sandbox={"enqueued_tokens": 150, "latency_seconds": 600}, packing={"linger_seconds": 0, "max_lines": 2}
        ),
        retry={"max_returns": 0},
    )
    rig.ask_many(2)
    await rig.submitted()
    await rig.later(poll)
    rig.ask("late", prompt="x" * 460)
    await rig.until_idle(turns=3000)
    assert rig.told("settle.held")
    assert rig.count() == {"done": 3}


async def test_a_held_lane_is_freed_by_the_end_of_another_of_its_batches(start):
    rig = await start(**openai(sandbox={"latency_seconds": 100}))
    rig.ask("first")
    await rig.submitted()
    rig.faults.add("token-limit", seconds=10, times=1)
    rig.ask_many(4)
    await rig.submitted()
    await rig.later(seconds=45)
    assert len(rig.told("settle.held")) == 1
    assert rig.value("SELECT held_until_ms FROM lanes") > rig.clock() * 1000
    await rig.until(lambda: rig.statuses()["first"] == "done")
    assert rig.value("SELECT held_until_ms FROM lanes") == 0
    await rig.turn()
    assert rig.ledger.creates == 3


async def test_rejections_of_files_sent_before_the_hold_count_as_one(start):
    rig = await start(**openai(packing={"linger_seconds": 0, "max_lines": 2}))
    rig.faults.add("token-limit", seconds=10, times=6)
    rig.ask_many(12)
    await rig.ended()
    await rig.turn()
    assert rig.count() == {"queued": 12}
    assert rig.value("SELECT holds FROM lanes") == 1
    assert rig.value("SELECT held_until_ms FROM lanes") / 1000 - rig.clock() <= 300


async def test_a_small_file_turned_away_by_a_full_quota_does_not_make_all_later_files_small(start):
    rig = await start(**openai(sandbox={"enqueued_tokens": 800, "latency_seconds": 300}))
    rig.ask_many(40)
    await rig.submitted()
    rig.ask("straggler", prompt="x" * 1000)
    await rig.until_idle()
    assert rig.told("settle.held")
    for number in range(40):
        rig.ask(f"later-{number}")
    creates = rig.ledger.creates
    await rig.until_idle()
    assert rig.count() == {"done": 81}
    assert rig.ledger.creates - creates == 1


async def test_a_queue_of_many_times_the_quota_is_worked_off_and_paid_once(start):
    rig = await start(
        **openai(
            sandbox={"enqueued_tokens": 250}, packing={"linger_seconds": 0, "max_lines": 5}, retry={"max_returns": 0}
        )
    )
    rig.ask_many(60)
    await rig.until_idle(turns=4000)
    assert rig.count() == {"done": 60}
    assert set(rig.ledger.executions.values()) == {1}
    turned_away = [batch for batch in rig.ledger.batches if batch.status == "failed"]
    assert len(turned_away) <= rig.context.config.providers["doubleword"].max_active_batches_per_lane


# ---------------------------------------------------------------- calls


async def test_a_lost_creation_is_adopted_from_pages_of_other_peoples_batches(rig):
    client = rig.context.clients["doubleword"]

    async def row():
        yield b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}\n'

    foreign = await client.upload("foreign.jsonl", 84, row())
    rig.faults.add("create-lost-reply", times=1)
    rig.ask_many(3)
    await rig.submitted()
    assert rig.batch()["status"] == "creating"
    rig.clock.advance(1)
    for _ in range(230):
        await client.create_batch(foreign.id, "/v1/chat/completions", "24h", "somebody else's")
    pages = rig.ledger.requests.get("list-batches", 0)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.executions["q-1"] == 1
    assert rig.ledger.requests["list-batches"] - pages >= 3
    (adopted,) = rig.told("submit.adopted")
    assert adopted["remote_id"] == rig.ledger.batches[0].id


@pytest.mark.parametrize("fault", ["create-lost-reply", "create-500-made", "reset-before:route=create"])
async def test_a_creation_without_a_reply_is_paid_once(rig, fault):
    rig.faults.add(fault, times=1)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert (rig.ledger.creates, set(rig.ledger.executions.values())) == (1, {1})


async def test_a_file_whose_upload_got_no_reply_is_found_by_its_name(rig):
    rig.faults.add("upload-lost-reply", times=1)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.uploads == 1


@pytest.mark.parametrize("route", ["upload", "create"])
@pytest.mark.parametrize("fault", ["status-401", "no-credit", "status-403"])
async def test_a_refused_account_in_json_pauses_the_provider(rig, route, fault):
    rig.faults.add(f"{fault}:route={route}", times=1)
    rig.ask("one")
    await rig.until_idle()
    assert rig.history("one") == [None]
    assert len(rig.told("provider.paused")) == len(rig.told("provider.resumed")) == 1
    assert not rig.told("provider.paused")[0]["reason"].startswith("{")


@pytest.mark.parametrize("status", [400, 429])
async def test_a_spent_budget_is_the_accounts_fault_under_any_status(rig, status):
    text = "billing_hard_limit_reached Billing hard limit has been reached"
    rig.faults.add(f"status-{status}:route=create", times=1, text=text)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert all(rig.history(name) == [None] for name in rig.results())
    assert rig.told("provider.paused")


async def test_a_rate_limit_that_advertises_a_bigger_account_is_only_a_rate_limit(rig):
    advice = "Rate limit reached. Add a payment method at https://platform.openai.com/account/billing"
    rig.faults.add("status-429:route=create", times=1, text=advice)
    rig.ask("one")
    await rig.until_idle()
    assert rig.count() == {"done": 1}
    assert not rig.told("provider.paused")


async def test_a_file_over_the_providers_limit_is_packed_anew(start):
    rig = await start(**openai(sandbox={"max_file_bytes": 4000}))
    rig.ask_many(60)
    await rig.until_idle()
    assert rig.count() == {"done": 60}
    assert rig.told("submit.limit_lowered")


async def test_polls_that_fail_in_json_change_nothing(rig):
    rig.ask("one")
    await rig.submitted()
    for fault in ("status-500", "status-404", "status-401", "status-429", "batch-gone"):
        rig.faults.add(f"{fault}:route=retrieve", times=1)
        await rig.later(poll, seconds=100)
    await rig.until_idle()
    assert rig.count() == {"done": 1}
    assert rig.ledger.creates == 1
