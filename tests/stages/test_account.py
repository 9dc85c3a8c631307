"""F34: an account that is refused pauses its provider, harms no line, and resumes by itself."""

import pytest

FULL = {
    "upload": "The quota for files without expiry is reached. The maximum is 500.",
    "create": "Batch queue limit reached for this organization",
}


@pytest.mark.parametrize("route", FULL)
async def test_a_400_about_the_whole_account_pauses_the_provider_and_fails_no_line(rig, route):
    fault = rig.faults.add(f"status-400:route={route}", text=FULL[route])
    rig.ask_many(8)
    await rig.until(lambda: fault.fired >= 3)
    assert FULL[route] in rig.told("provider.paused")[0]["reason"]
    assert not rig.told("submit.split")
    assert rig.count() == {"batched": 8}
    rig.faults.clear()
    await rig.until_idle()
    assert rig.count() == {"done": 8}
    assert all(rig.history(f"q-{number}") == [None] for number in range(1, 9))
    assert (rig.ledger.creates, len(rig.told("provider.resumed"))) == (1, 1)


async def test_a_file_rejected_whole_because_the_storage_is_full_pauses_the_provider_and_fails_no_line(start):
    rig = await start(sandbox={"dialect": "openai"}, profile="openai", retry={"max_returns": 0})
    full = "You have exceeded your file storage quota; projects are limited to 2.5TB of files"
    rig.faults.add("validation-failed", lines="none", code="invalid_request", message=full, times=2)
    rig.ask_many(4)
    await rig.until_idle()
    assert full in rig.told("provider.paused")[0]["reason"]
    assert rig.count() == {"done": 4}


@pytest.mark.parametrize("route", ["upload", "create"])
@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_refused_account_pauses_the_provider_loudly_and_keeps_every_line_unharmed(rig, route, status):
    fault = rig.faults.add(f"status-{status}:route={route}")
    rig.ask_many(3)
    await rig.submitted()
    (paused,) = rig.told("provider.paused")
    assert paused["log_level"] == "error"
    assert str(status) in paused["reason"]
    assert rig.count() == {"batched": 3}
    before = rig.clock()
    await rig.until(lambda: fault.fired >= 3)
    assert rig.clock() - before > 60
    rig.faults.clear()
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert all(rig.history(f"q-{number}") == [None] for number in (1, 2, 3))
    assert (rig.ledger.creates, len(rig.told("provider.resumed"))) == (1, 1)


async def test_pauses_grow_up_to_their_cap(start):
    rig = await start(submission={"pause_seconds": 10, "pause_max_seconds": 60})
    rig.faults.add("no-credit")
    rig.ask("one")
    await rig.until(lambda: len(rig.told("provider.paused")) == 4)
    told = [(told["pauses"], told["pause_seconds"]) for told in rig.told("provider.paused")]
    assert told == [(1, 7.5), (2, 15), (4, 45), (8, 45)]


async def test_while_paused_nothing_is_submitted_and_running_batches_are_collected(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 2})
    rig.ask_many(2)
    await rig.submitted()
    rig.faults.add("no-credit")
    rig.ask("poor")
    await rig.turn()
    assert rig.told("provider.paused")
    rig.clock.advance(45)
    await rig.turn()
    assert rig.statuses() == {"q-1": "done", "q-2": "done", "poor": "batched"}
    assert rig.ledger.creates == 1


async def test_while_paused_no_further_batch_is_tried_and_at_the_end_only_one(start):
    rig = await start(packing={"linger_seconds": 0, "max_lines": 1})
    rig.faults.add("no-credit")
    rig.ask_many(6)
    await rig.turn()
    assert rig.ledger.requests["create"] == 1
    await rig.later(seconds=70)
    assert rig.ledger.requests["create"] == 2
    rig.faults.clear()
    await rig.until_idle()
    assert rig.count() == {"done": 6}


async def test_another_provider_goes_on_while_one_is_paused(start):
    rig = await start(other={})
    rig.faults.add("no-credit", times=1)
    rig.ask("poor")
    await rig.submitted()
    rig.ask("rich", provider="other")
    await rig.until(lambda: rig.statuses()["rich"] == "done")
    assert rig.statuses()["poor"] in ("batched", "queued")
    await rig.until_idle()


async def test_credit_that_ends_within_a_batch_brings_every_line_back_and_answers_them_after_topping_up(start):
    rig = await start(sandbox={"credit_lines": 5}, retry={"max_attempts": 1})
    rig.ask_many(12)
    await rig.until(lambda: rig.count()["done"] == 5)
    assert rig.count() == {"done": 5, "queued": 7}
    assert rig.told("provider.paused")
    rig.sandbox.provider.simulation.credit = None
    await rig.until_idle()
    assert rig.count() == {"done": 12}
    assert set(rig.ledger.successes.values()) == {1}
    assert {row["attempts"] for row in rig.results().values()} == {1}
    assert rig.told("provider.resumed")


async def test_credit_that_never_comes_back_sends_no_flood_of_batches(start):
    rig = await start(sandbox={"credit_lines": 0})
    rig.ask_many(20)
    end = rig.clock() + 3600 * 2
    await rig.until(lambda: rig.clock() > end)
    assert rig.ledger.creates < 7200 / (rig.context.config.submission.pause_max_seconds / 2) + 10
    assert rig.count()["failed"] == 0
    assert {row["attempts"] for row in rig.results().values()} == {0}


async def test_an_unverified_accounts_429_is_a_pause_and_no_delay(rig):
    text = "Unverified accounts may send 1000 requests per hour"
    rig.faults.add("status-429:route=create", times=1, text=text)
    rig.ask("one")
    await rig.submitted()
    assert "Unverified" in rig.told("provider.paused")[0]["reason"]
    await rig.until_idle()
    assert rig.history("one") == [None]


async def test_a_key_that_is_missing_pauses_and_is_taken_up_when_it_is_there(rig, monkeypatch):
    monkeypatch.delenv("DOUBLEWORD_API_KEY")
    rig.ask("one")
    await rig.submitted()
    assert "DOUBLEWORD_API_KEY" in rig.told("provider.paused")[0]["reason"]
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    await rig.until_idle()
    assert rig.count() == {"done": 1}


async def test_a_line_that_alone_is_refused_while_others_are_answered_fails_in_the_end(start):
    rig = await start(retry={"max_returns": 2})
    rig.ask("poison", model="m+sandbox-no-credit-always", completion_window="1h")
    for number in range(8):
        name = rig.ask(f"q-{number}")
        await rig.until(lambda name=name: rig.statuses()[name] == "done")
    await rig.until_idle()
    found = rig.result("poison")
    assert (found["status"], found["fault"], found["status_code"], found["attempts"]) == ("failed", "account", 402, 0)
    assert "status 402" in found["error_message"]
    assert set(rig.history("poison")) == {"account"}
    assert rig.state("poison")["returns"] == 3
    assert rig.count() == {"done": 8, "failed": 1}


async def test_a_line_that_alone_is_refused_in_each_of_its_batches_fails_in_the_end(start):
    rig = await start(retry={"max_returns": 2})
    rig.ask("poison", model="m+sandbox-unauthorized-always")
    for number in range(6):
        name = rig.ask(f"q-{number}")
        await rig.until(lambda name=name: rig.statuses()[name] == "done")
    await rig.until_idle()
    assert rig.count() == {"done": 6, "failed": 1}
    assert rig.result("poison")["fault"] == "account"


async def test_a_line_that_is_refused_while_nothing_is_sent_after_it_costs_nothing_for_ever(start):
    rig = await start(retry={"max_returns": 0})
    rig.ask("before")
    await rig.until_idle()
    rig.ask("poor", model="m+sandbox-no-credit-always", completion_window="1h")
    rig.ask("beside")
    end = rig.clock() + 3600 * 3
    await rig.until(lambda: rig.clock() > end)
    assert len(rig.history("poor")) > 5
    assert (rig.result("poor")["status"] != "failed", rig.state("poor")["returns"]) == (True, 0)


async def test_credit_that_lasts_for_a_few_lines_each_time_costs_the_others_nothing(start):
    rig = await start(sandbox={"credit_lines": 5}, retry={"max_returns": 0})
    rig.ask_many(20)
    await rig.until(lambda: rig.count()["done"] == 5)
    for _ in range(2):
        end = rig.clock() + 3600
        await rig.until(lambda end=end: rig.clock() > end)
        rig.sandbox.provider.simulation.credit = 4
    await rig.until(lambda: rig.count()["done"] == 13)
    assert rig.count()["failed"] == 0
    rig.sandbox.provider.simulation.credit = None
    await rig.until_idle()
    assert rig.count() == {"done": 20}


async def test_a_401_on_a_poll_or_a_download_drops_nothing(rig):
    rig.faults.add("unauthorized:route=retrieve", times=3)
    rig.faults.add("unauthorized:route=content", times=2)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 1
