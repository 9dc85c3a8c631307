"""F1 to F3: whatever happens to a reply, a file is stored and a batch is created once, and paid for once."""

import json

import pytest
from rig import admit, pack, submit

from orchestrator.sandbox import Options, serve

COMMITTED = ("create-lost-reply", "create-500-made", "create-502-made", "malformed-json:route=create")
NOT_COMMITTED = (
    "reset-before:route=create",
    "html-error:route=create",
    "status-500:route=create",
    "status-503:route=create",
    "status-408:route=create",
    "redirect:route=create",
)
UPLOADED = ("upload-lost-reply", "malformed-json:route=upload")
NOT_UPLOADED = (
    "reset-before:route=upload",
    "html-error:route=upload",
    "status-500:route=upload",
    "status-503:route=upload",
    "redirect:route=upload",
)


def paid_once(rig, prompts):
    assert rig.count() == {"done": prompts}
    assert set(rig.ledger.executions.values()) == {1}
    assert rig.ledger.creates == 1


@pytest.mark.parametrize("fault", COMMITTED)
async def test_a_batch_whose_creation_got_no_reply_is_adopted(rig, fault):
    rig.faults.add(fault, times=1)
    rig.ask_many(3)
    await rig.submitted()
    assert rig.batch()["status"] == "creating"
    await rig.until_idle()
    paid_once(rig, 3)
    (adopted,) = rig.told("submit.adopted")
    assert (adopted["what"], adopted["remote_id"]) == ("batch", rig.ledger.batches[0].id)


@pytest.mark.parametrize("fault", COMMITTED[:1])
async def test_a_batch_is_adopted_although_the_listing_lags(rig, fault):
    rig.faults.add(fault, times=1)
    rig.faults.add("replica-lag:route=create", seconds=80, times=1)
    rig.ask_many(3)
    await rig.until_idle()
    paid_once(rig, 3)
    assert len(rig.told("submit.not_found_yet")) >= 2


@pytest.mark.parametrize("fault", COMMITTED[:1])
async def test_a_batch_is_adopted_although_the_listing_fails_for_an_hour(rig, fault):
    rig.faults.add(fault, times=1)
    failing = rig.faults.add("status-503:route=list-batches")
    rig.ask_many(3)
    await rig.submitted()
    until = rig.clock() + 3600
    await rig.until(lambda: rig.clock() >= until)
    assert failing.fired >= 5
    assert rig.batch()["empty_looks"] == 0
    rig.faults.remove(failing)
    await rig.until_idle()
    paid_once(rig, 3)


@pytest.mark.parametrize("fault", COMMITTED[:1])
async def test_a_batch_is_adopted_from_a_listing_that_ignores_search_and_is_longer_than_a_page(rig, fault):
    rig.ask("first")
    await rig.until_idle()
    source, client = rig.ledger.batches[0].input_file_id, rig.context.clients["doubleword"]
    rig.faults.add(fault, times=1)
    rig.ask("second")
    await rig.submitted()
    assert rig.batch()["status"] == "creating"
    for number in range(130):
        await client.create_batch(source, "/v1/chat/completions", "24h", f"foreign-{number}")
    rig.faults.add("bad-list")
    await rig.until(lambda: rig.batch()["status"] == "submitted")
    assert rig.ledger.creates == 132
    assert rig.batch()["remote_batch_id"] == rig.ledger.batches[1].id


@pytest.mark.parametrize("fault", NOT_COMMITTED)
async def test_a_creation_that_never_arrived_is_repeated_only_after_several_looks_over_time(rig, fault):
    rig.faults.add(fault, times=1)
    rig.ask_many(3)
    await rig.submitted()
    began = rig.clock()
    await rig.until(lambda: rig.ledger.creates == 1)
    checks, interval = rig.context.config.submission.adopt_checks, rig.context.config.submission.adopt_interval_seconds
    assert rig.clock() - began >= checks * interval
    assert rig.ledger.requests["list-batches"] == checks
    assert rig.told("submit.sent_again")
    await rig.until_idle()
    paid_once(rig, 3)


async def test_a_creation_slower_than_the_timeout_is_adopted(start):
    rig = await start(provider={"request_timeout_seconds": 0.3}, through_proxy=True)
    held = rig.proxy.hold("POST", "/batches$", "after")
    rig.ask("one")
    await rig.submitted()
    assert held.reached.is_set()
    assert rig.batch()["status"] == "creating"
    await rig.until_idle()
    paid_once(rig, 1)


async def test_every_second_create_loses_its_reply_and_each_batch_is_created_once(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 2})
    rig.faults.add("create-lost-reply", rate=0.5)
    rig.faults.add("create-502-made", rate=0.3)
    rig.ask_many(20)
    await rig.until_idle()
    assert rig.count() == {"done": 20}
    assert set(rig.ledger.executions.values()) == {1}
    assert rig.ledger.creates == len(rig.batches()) == 10


@pytest.mark.parametrize("fault", [None, "status-500:route=cancel"])
async def test_a_surplus_batch_under_our_key_is_cancelled_and_said(start, fault):
    rig = await start(sandbox={"latency_seconds": 300, "order": "input"})
    if fault:
        rig.faults.add(fault)
    rig.faults.add("create-lost-reply", times=1)
    rig.ask_many(3)
    batch = await rig.submitted()
    source = rig.ledger.batches[0].input_file_id
    await rig.context.clients["doubleword"].create_batch(source, "/v1/chat/completions", "24h", batch["key"])
    await rig.until_idle()
    (surplus,) = rig.told("submit.surplus_cancelled")
    assert surplus["log_level"] == "error"
    states = {b.id: b.status for b in rig.ledger.batches}
    assert fault or states[surplus["remote_batch_id"]] == "cancelled"
    assert rig.count() == {"done": 3}


async def test_of_two_batches_under_our_key_the_one_that_failed_is_not_the_one_that_is_taken(start):
    submission = {"adopt_checks": 1, "adopt_interval_seconds": 1}
    rig = await start(through_proxy=True, sandbox={"latency_seconds": 20}, submission=submission)
    rig.faults.add("population-failed", times=1)
    rig.faults.add("create-500-made", times=2)
    rig.ask_many(4)
    lagging = [True]

    def change(status, headers, body):
        told = json.loads(body)
        told["data"] = [] if lagging else told["data"]
        for shown in told["data"]:
            shown["request_counts"]["completed"] = 0
        return status, headers, json.dumps(told).encode()

    rig.proxy.rewrite("GET", "/batches$", change)
    await rig.submitted()
    await rig.later(submit, seconds=31)
    lagging.clear()
    await rig.later(submit, seconds=31)
    rig.proxy.rewrites.clear()
    assert rig.told("submit.surplus_cancelled")
    await rig.until_idle()
    assert set(rig.ledger.executions.values()) == {1}


async def test_where_the_listing_cannot_show_our_key_a_lost_creation_waits_for_a_person(start):
    rig = await start(provider={"searchable_batches": False})
    rig.faults.add("create-lost-reply", times=1)
    rig.ask("one")
    await rig.submitted()
    for _ in range(5):
        await rig.later(seconds=700)
    assert rig.ledger.creates == 1
    assert rig.batch()["status"] == "creating"
    assert all(told["log_level"] == "error" for told in rig.told("submit.undecided"))
    assert len(rig.told("submit.undecided")) >= 4


# ---------------------------------------------------------------- uploads


@pytest.mark.parametrize("other", [{"filename": "orc-another.jsonl"}, {"bytes": 7}], ids=["name", "size"])
async def test_an_upload_that_is_answered_with_another_file_is_looked_up(start, other):
    rig = await start(through_proxy=True)
    answered = []

    def another(status, headers, body):
        if answered:
            return status, headers, body
        answered.append(body)
        return status, headers, json.dumps(json.loads(body) | {"id": "file-another"} | other).encode()

    rig.proxy.rewrite("POST", "/files$", another)
    rig.ask("one")
    await rig.until_idle()
    assert answered
    assert rig.batch()["input_file_id"] != "file-another"
    assert rig.ledger.executions == {"one": 1}
    assert rig.statuses() == {"one": "done"}


@pytest.mark.parametrize("fault", UPLOADED)
async def test_a_file_whose_upload_got_no_reply_is_adopted(rig, fault):
    rig.faults.add(fault, times=1)
    rig.ask_many(3)
    await rig.until_idle()
    paid_once(rig, 3)
    assert rig.ledger.uploads == 1
    assert [told["what"] for told in rig.told("submit.adopted")] == ["file"]


@pytest.mark.parametrize("fault", NOT_UPLOADED)
async def test_an_upload_that_never_arrived_is_repeated_after_a_look(rig, fault):
    rig.faults.add(fault, times=1)
    rig.ask_many(3)
    await rig.until_idle()
    paid_once(rig, 3)
    assert rig.ledger.uploads == 1
    assert rig.ledger.requests["list-files"] == 2


async def test_a_file_of_our_name_and_another_size_is_not_adopted(rig):
    rig.faults.add("reset-before:route=upload", times=1)
    rig.ask_many(3)
    batch = await rig.submitted()

    async def other():
        yield b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}\n'

    await rig.context.clients["doubleword"].upload(f"{batch['key']}.jsonl", 84, other())
    await rig.until_idle()
    paid_once(rig, 3)
    assert "x" not in rig.ledger.executions


async def test_a_proxy_that_breaks_the_upload_is_no_verdict_on_its_lines(rig):
    rig.faults.add("status-400:route=upload", times=1, text="Failed to read multipart upload: connection closed")
    rig.ask_many(3)
    await rig.until_idle()
    paid_once(rig, 3)


LONG = "x" * 450_000


async def test_a_file_that_does_not_get_through_while_the_provider_answers_is_halved_until_it_does(start):
    rig = await start(through_proxy=True)
    rig.proxy.most_bytes = 1_100_000
    names = [rig.ask(f"q-{number}", prompt=f"{LONG}{number}") for number in range(6)]
    await rig.until_idle()
    assert rig.count() == {"done": 6}
    assert rig.ledger.executions == dict.fromkeys(names, 1)
    assert [told["lines"] for told in rig.told("submit.split")] == [6, 3, 3]
    assert all(rig.history(name) == [None] for name in names)
    assert rig.ledger.requests["list-files"] == 3 * 6 * 2


@pytest.mark.parametrize(("lines", "prompt"), [(1, LONG * 3), (3, "short")], ids=["one line", "a small file"])
async def test_what_is_one_line_or_small_is_sent_again_as_it_is(rig, lines, prompt):
    rig.faults.add("reset-before:route=upload", times=9)
    for number in range(lines):
        rig.ask(f"q-{number}", prompt=prompt)
    await rig.until_idle()
    assert rig.count() == {"done": lines}
    assert not rig.told("submit.split")
    assert rig.ledger.creates == 1


async def test_uploads_fail_in_vain_only_while_the_listing_answers(rig):
    rig.faults.add("reset-before:route=upload", times=9)
    rig.faults.add("status-503:route=list-files", times=1, after=9)
    for number in range(3):
        rig.ask(f"q-{number}", prompt=f"{LONG}{number}")
    await rig.until_idle()
    assert not rig.told("submit.split")
    assert rig.ledger.creates == 1


@pytest.mark.parametrize(("times", "uploads"), [(1, 1), (3, 1), (5, 2), (7, 2)])
async def test_a_file_not_visible_yet_is_waited_for_and_then_sent_again(rig, times, uploads):
    rig.faults.add("file-not-found-on-create", times=times)
    rig.ask_many(3)
    await rig.until_idle()
    paid_once(rig, 3)
    assert rig.ledger.uploads == uploads


async def test_a_file_that_a_replica_shows_late_is_waited_for(rig):
    rig.faults.add("replica-lag:route=upload", seconds=60, times=1)
    rig.ask_many(3)
    await rig.until_idle()
    paid_once(rig, 3)
    assert rig.ledger.uploads == 1


# ---------------------------------------------------------------- the intent stands before the call


async def test_the_intent_to_upload_and_to_create_is_committed_before_each_call(start):
    rig = await start(through_proxy=True)
    seen = {}

    def note(path):
        def change(status, headers, body):
            seen[path] = rig.value("SELECT status FROM batch_states")
            return status, headers, body

        return change

    rig.proxy.rewrite("POST", "/files$", note("files"))
    rig.proxy.rewrite("POST", "/batches$", note("batches"))
    rig.ask("one")
    await rig.run(admit, pack, submit)
    assert seen == {"files": "uploading", "batches": "creating"}
    assert rig.batch()["status"] == "submitted"


async def test_our_key_is_the_files_name_and_stands_in_the_batchs_metadata(rig):
    rig.ask("one")
    batch = await rig.submitted()
    (entry,) = rig.ledger.batches
    assert entry.filename == f"{batch['key']}.jsonl"
    assert batch["key"] in entry.metadata.values()


async def test_a_provider_that_cannot_be_reached_costs_nothing_but_time(start):
    rig = await start(provider={"base_url": "http://127.0.0.1:9/v1"})
    rig.ask("one")
    await rig.submitted()
    assert rig.batch()["status"] == "sealed"
    assert rig.batch()["tries"] == 1
    before = rig.batch()["next_try_at_ms"]
    await rig.later(seconds=3600)
    assert rig.batch()["next_try_at_ms"] > before
    assert rig.batch()["tries"] == 2
    assert "cannot reach" in rig.batch()["last_error"]
    assert rig.history("one") == []


# ---------------------------------------------------------------- ids that are known already


async def test_two_providers_may_give_their_batches_the_same_id(start):
    async with serve(Options(seed=7, clock=lambda: rig.clock())) as second:  # noqa: PLW0108 - rig comes later
        rig = await start(other={"base_url": second.url})
        rig.ask("here")
        rig.ask("there", provider="other")
        await rig.until_idle()
    here, there = rig.batches()
    assert here["remote_batch_id"] == there["remote_batch_id"]
    assert (rig.ledger.creates, second.ledger.creates) == (1, 1)
    assert rig.count() == {"done": 2}


async def test_a_creation_answered_with_an_earlier_batch_is_looked_for_and_paid_once(start):
    rig = await start(through_proxy=True)
    said = []

    def repeat_the_first(status, headers, body):
        said.append(body)
        return status, headers, said[0]

    rig.proxy.rewrite("POST", "/batches$", repeat_the_first)
    for custom_id in ("first", "second", "third"):
        rig.ask(custom_id)
        await rig.until_idle()
    assert [told["remote_id"] for told in rig.told("submit.adopted")] == [b.id for b in rig.ledger.batches[1:]]
    assert rig.count() == {"done": 3}
    assert (rig.ledger.creates, set(rig.ledger.successes.values())) == (3, {1})
