"""Product, section 3: who is to blame decides what happens. Every row, with the sandbox as the provider."""

import pytest

INVALID = {
    "bad-request": 400,
    "no-model": 404,
    "too-large": 413,
    "unprocessable": 422,
    "context-length": 400,
    "status-405": 405,
    "builder-error": None,
}
REFUSED = {"content-filter": 400, "forbidden": 403}
RESENT = {
    "rate-limited": "throttled",
    "error-shape-response": "throttled",
    "error-shape-code": "throttled",
    "status-408": "timeout",
    "timeout": "timeout",
    "status-504": "timeout",
    "fail": "server",
    "status-502": "server",
    "status-503": "server",
    "network": "server",
    "terminated": "server",
    "status-in-output": "server",
    "status-zero": "server",
}
RETURNED = {"batch-expired": "expired", "missing": "missing", "missing-counted": "missing"}
UNREADABLE = ("bad-utf8", "bad-json", "not-object", "torn")
ACCOUNT = {"unauthorized": 401, "no-credit": 402, "no-quota": 429}


def marked(behaviour):
    return f"m+sandbox-{behaviour}"


async def test_lines_to_blame_themselves_fail_at_once_and_are_never_resent(rig):
    for behaviour in (*INVALID, *REFUSED):
        rig.ask(behaviour, model=marked(behaviour))
    rig.ask("good")
    await rig.until_idle()
    found = rig.results()
    assert found.pop("good")["status"] == "done"
    assert {row["status"] for row in found.values()} == {"failed"}
    assert {name: row["status_code"] for name, row in found.items()} == {**INVALID, **REFUSED}
    assert {name for name, row in found.items() if row["fault"] == "invalid"} == set(INVALID)
    assert {name for name, row in found.items() if row["fault"] == "refused"} == set(REFUSED)
    assert all(row["error_message"] for row in found.values())
    assert set(rig.ledger.executions.values()) == {1}
    assert rig.ledger.creates == 1


async def test_faults_of_the_server_are_resent_and_cost_an_attempt_each(rig):
    for behaviour in RESENT:
        rig.ask(behaviour, model=marked(f"{behaviour}-once"))
    rig.ask("good")
    await rig.until_idle()
    assert {name: rig.history(name) for name in RESENT} == {name: [fault, None] for name, fault in RESENT.items()}
    assert {rig.result(name)["attempts"] for name in RESENT} == {2}
    assert rig.count() == {"done": len(RESENT) + 1}
    assert rig.ledger.executions == {**dict.fromkeys(RESENT, 2), "good": 1}
    billed = {name for name in RESENT if name.startswith("status-") and not name[7:].isdigit()}  # "done" by their file
    assert {name for name, count in rig.ledger.successes.items() if count > 1} == billed


async def test_faults_of_the_server_fail_for_good_after_max_attempts_with_their_whole_history(start):
    rig = await start(retry={"max_attempts": 3})
    for behaviour in RESENT:
        rig.ask(behaviour, model=marked(f"{behaviour}-always"))
    await rig.until_idle()
    assert {name: rig.history(name) for name in RESENT} == {name: [fault] * 3 for name, fault in RESENT.items()}
    for name, fault in RESENT.items():
        found = rig.result(name)
        assert (found["status"], found["fault"], found["attempts"]) == ("failed", fault, 3)
    assert set(rig.ledger.executions.values()) == {3}
    rows = rig.sql("SELECT DISTINCT custom_id, batch_id, attempt FROM attempts WHERE error_message IS NOT NULL")
    assert len(rows) == 3 * len(RESENT)


async def test_lines_that_came_back_unanswered_are_resent_and_cost_no_attempt(rig):
    for behaviour in RETURNED:
        rig.ask(behaviour, model=marked(f"{behaviour}-once"))
    rig.ask("good")
    await rig.until_idle()
    assert {name: rig.history(name) for name in RETURNED} == {name: [fault, None] for name, fault in RETURNED.items()}
    assert {row["attempts"] for row in rig.results().values()} == {1}
    assert {rig.state(name)["returns"] for name in RETURNED} == {1}
    assert rig.count() == {"done": len(RETURNED) + 1}


async def test_returns_are_bounded_by_max_returns_and_leave_attempts_alone(start):
    rig = await start(retry={"max_attempts": 1, "max_returns": 2})
    for behaviour in RETURNED:
        rig.ask(behaviour, model=marked(f"{behaviour}-always"))
    await rig.until_idle()
    assert {name: rig.history(name) for name in RETURNED} == {name: [fault] * 3 for name, fault in RETURNED.items()}
    for name, fault in RETURNED.items():
        found = rig.result(name)
        assert (found["status"], found["fault"], found["attempts"]) == ("failed", fault, 0)


async def test_max_returns_of_zero_means_none(start):
    rig = await start(retry={"max_returns": 0})
    rig.ask("lost", model=marked("missing-always"))
    await rig.until_idle()
    assert rig.history("lost") == ["missing"]


async def test_attempts_and_returns_are_counted_apart(rig):
    rig.ask("mixed", model=marked("missing-2"))
    await rig.until(lambda: rig.state("mixed")["returns"] == 2)
    assert rig.state("mixed")["attempts"] == 0
    await rig.until_idle()
    assert (rig.result("mixed")["attempts"], rig.result("mixed")["status"]) == (1, "done")


async def test_lines_cancelled_by_the_provider_go_back_and_its_paid_answers_are_kept(rig):
    rig.faults.add("cancelled-by-provider", share=0.5, times=1)
    rig.ask_many(10)
    await rig.until_idle()
    assert rig.count() == {"done": 10}
    cancelled = {name for name in rig.results() if rig.history(name)[0] == "cancelled_remotely"}
    assert 0 < len(cancelled) < 10
    assert set(rig.ledger.successes.values()) == {1}
    assert {rig.result(name)["attempts"] for name in cancelled} == {1}


@pytest.mark.parametrize(("behaviour", "status"), ACCOUNT.items())
async def test_an_account_fault_pauses_the_provider_and_harms_no_line(start, behaviour, status):
    rig = await start(retry={"max_attempts": 1})
    rig.ask("poor", model=marked(f"{behaviour}-once"))
    await rig.collected()
    assert rig.state("poor")["status"] == "queued"
    assert (rig.state("poor")["attempts"], rig.state("poor")["returns"]) == (0, 0)
    assert rig.sql("SELECT status_code FROM attempts WHERE fault = 'account'")[0][0] == status
    (paused,) = rig.told("provider.paused")
    assert str(status) in paused["reason"]
    assert paused["log_level"] == "error"
    rig.ask("next")
    await rig.turn()
    assert rig.ledger.creates == 1
    await rig.until_idle()
    assert rig.count() == {"done": 2}
    assert rig.told("provider.resumed")


async def test_unreadable_lines_are_kept_as_bytes_and_resent_alone(rig):
    for behaviour in UNREADABLE:
        rig.ask(behaviour, model=marked(f"{behaviour}-once"))
    others = rig.ask_many(5)
    await rig.until_idle()
    assert rig.count() == {"done": len(UNREADABLE) + 5}
    assert rig.ledger.executions == {**dict.fromkeys(UNREADABLE, 2), **dict.fromkeys(others, 1)}
    assert {name: rig.history(name) for name in UNREADABLE} == {name: ["unreadable", None] for name in UNREADABLE}
    assert {rig.result(name)["attempts"] for name in UNREADABLE} == {2}
    kept = rig.sql("SELECT raw FROM replies WHERE raw IS NOT NULL")
    assert sorted(len(row["raw"]) > 5 for row in kept) == [True] * len(UNREADABLE)
    assert rig.told("collect.unreadable")


async def test_a_line_over_the_cap_is_unreadable_and_alone(start):
    rig = await start(collection={"max_line_bytes": 5000}, sandbox={"huge_bytes": 100_000})
    rig.ask("huge", model=marked("huge-once"))
    others = rig.ask_many(5)
    await rig.until_idle()
    assert rig.count() == {"done": 6}
    assert rig.history("huge") == ["unreadable", None]
    assert all(rig.history(name) == [None] for name in others)


async def test_an_unreadable_line_fails_for_good_after_max_attempts(start):
    rig = await start(retry={"max_attempts": 2})
    rig.ask("poison", model=marked("bad-json-always"))
    await rig.until_idle()
    assert rig.history("poison") == ["unreadable", "unreadable"]
    assert rig.result("poison")["status"] == "failed"
    assert rig.value("SELECT count(*) FROM attempts WHERE raw IS NOT NULL") == 2


async def test_the_delay_before_a_retry_grows_and_stays_under_its_cap(start):
    rig = await start(retry={"max_attempts": 7, "base_seconds": 10, "max_seconds": 100})
    rig.ask("slow", model=marked("fail-always"))
    delays = []
    while True:
        known = len(rig.history("slow"))
        await rig.until(lambda known=known: len(rig.history("slow")) > known)
        state = rig.state("slow")
        if state["status"] == "failed":
            break
        received = rig.value("SELECT max(received_at_ms) FROM replies")
        delays.append((state["due_at_ms"] - received) / 1000)
    assert delays == [7.5, 15, 30, 60, 75, 75]


async def test_a_resent_prompt_waits_its_delay_before_it_is_packed(start):
    rig = await start(retry={"base_seconds": 1000})
    rig.ask("later", model=marked("fail-once"))
    await rig.collected()
    await rig.later(seconds=700)
    assert rig.ledger.creates == 1
    await rig.later(seconds=100)
    assert rig.ledger.creates == 2


async def test_of_twenty_lines_the_failed_ones_are_resent_and_no_other(rig):
    rig.faults.add("lines", behaviour="fail-once", share=0.3, times=1)
    rig.ask_many(20)
    await rig.until_idle()
    assert rig.count() == {"done": 20}
    again = {name for name, runs in rig.ledger.executions.items() if runs == 2}
    assert 0 < len(again) < 20
    assert {name for name in rig.results() if rig.history(name) == ["server", None]} == again
    assert set(rig.ledger.successes.values()) == {1}
