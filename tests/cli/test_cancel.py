import re

import pytest


@pytest.fixture
def running(queue):
    """Two waiting prompts, one in a sealed batch, two in a submitted one, and one that is done."""
    for number, tag in enumerate(("a", "b", "a", "a", "b", "a"), 1):
        queue.add(f"q-{number}", tag=tag)
    queue.sql(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('doubleword', '/v1/x', '1h', '')"
    )
    queue.sql("INSERT INTO batch_states (key, lane_id, status, created_at_ms) VALUES ('k-1', 1, 'sealed', 1)")
    queue.sql(
        "INSERT INTO batch_states (key, lane_id, status, created_at_ms, remote_batch_id)"
        " VALUES ('k-2', 1, 'submitted', 1, 'r-2')"
    )
    for prompt, batch in ((3, 1), (4, 2), (5, 2)):
        queue.sql("UPDATE prompt_states SET status = 'batched', batch_id = ? WHERE prompt_id = ?", batch, prompt)
    queue.end("q-6")
    return queue


def cancelled(queue):
    return [name for name, status in queue.statuses().items() if status == "cancelled"]


def marked(queue):
    rows = queue.sql("SELECT prompt_id FROM prompt_states WHERE cancelling = 1 AND status = 'batched'")
    return [f"q-{row['prompt_id']}" for row in rows]


def asked_for(queue):
    return [row["id"] for row in queue.sql("SELECT id FROM batch_states WHERE cancel_requested")]


@pytest.mark.parametrize(
    ("words", "at_once", "recalled", "batches", "shared"),
    [
        (("--custom-id", "q-1"), ["q-1"], 0, [], 0),
        (("--custom-id", "q-1", "--custom-id", "q-2"), ["q-1", "q-2"], 0, [], 0),
        (("--tag", "a"), ["q-1", "q-3"], 0, [], 1),
        (("--tag", "b"), ["q-2"], 0, [], 1),
        (("--custom-id", "q-3"), ["q-3"], 0, [], 0),
        (("--custom-id", "q-4", "--custom-id", "q-5"), [], 2, [2], 0),
        (("--all",), ["q-1", "q-2", "q-3"], 2, [2], 0),
        (("--tag", "a", "--custom-id", "q-2"), [], 0, [], 0),
        (("--custom-id", "q-6"), [], 0, [], 0),
    ],
)
def test_waiting_prompts_end_at_once_and_sent_ones_are_recalled_only_as_whole_batches(
    command, running, words, at_once, recalled, batches, shared
):
    assert command("cancel", *words, "--json").json == {
        "cancelled": len(at_once),
        "being_cancelled": recalled,
        "batches": batches,
        "not_recalled": shared,
        "unknown": [],
    }
    assert cancelled(running) == at_once
    assert asked_for(running) == batches
    assert len(marked(running)) == recalled + shared


def test_the_fault_it_was_last_resent_for_chooses(command, running):
    running.sql("INSERT INTO replies (prompt_id, seq, fault, received_at_ms) VALUES (1, 1, 'server', 1)")
    running.sql("UPDATE prompt_states SET replies = 1 WHERE prompt_id = 1")
    assert command("cancel", "--fault", "server", "--json").json["cancelled"] == 1
    assert cancelled(running) == ["q-1"]


def test_the_last_of_a_batch_recalls_it_with_those_cancelled_before(command, running):
    assert command("cancel", "--custom-id", "q-4", "--json").json["not_recalled"] == 1
    assert command("cancel", "--custom-id", "q-5", "--json").json == {
        "cancelled": 0,
        "being_cancelled": 2,
        "batches": [2],
        "not_recalled": 0,
        "unknown": [],
    }


def test_an_ended_prompt_is_left_as_it_is(command, running):
    command("cancel", "--all")
    assert running.statuses()["q-6"] == "done"


def test_a_cancelled_prompt_has_an_end_and_no_batch(command, running):
    command("cancel", "--custom-id", "q-3")
    (state,) = running.sql("SELECT * FROM prompt_states WHERE prompt_id = 3")
    assert state["finished_at_ms"] is not None
    assert state["batch_id"] is None


def test_more_prompts_than_one_transaction_takes_are_all_cancelled(command, queue):
    values = ", ".join(f"('q-{at}', 'p')" for at in range(2345))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    assert command("cancel", "--all").out == "2345 cancelled: not at the provider now\n"
    assert set(queue.statuses().values()) == {"cancelled"}


def test_a_name_that_no_prompt_has_is_told_with_exit_code_1(command, queue):
    queue.add("q-1")
    said = command("cancel", "--custom-id", "q-1", "--custom-id", "typo", "--json")
    assert (said.code, said.json["cancelled"], said.json["unknown"]) == (1, 1, ["typo"])
    assert command("cancel", "--custom-id", "typo").err == "typo: no prompt has this custom_id\n"


def test_ids_that_users_chose_may_lie_at_and_below_zero(command, queue):
    for number, prompt_id in enumerate((-7, 0, 1)):
        queue.add(f"q-{number}", id=prompt_id)
    assert command("cancel", "--all", "--json").json["cancelled"] == 3


def test_a_pipe_is_told_what_ended_what_is_recalled_and_what_is_not(command, running):
    assert command("cancel", "--tag", "a").out.splitlines() == [
        "2 cancelled: not at the provider now",
        "1 sent together with other prompts: they cannot be recalled, only not resent",
        "what the provider answers by then is kept and billed",
    ]
    assert command("cancel", "--all").out.splitlines() == [
        "1 cancelled: not at the provider now",
        "2 sent: the daemon cancels their batch at the provider (2)",
        "what the provider answers by then is kept and billed",
    ]


def test_what_is_at_the_provider_is_not_told_as_never_sent(command, running):
    assert command("cancel", "--custom-id", "q-4").out.splitlines()[0].startswith("1 sent together with other prompts")
    running.sql("UPDATE prompt_states SET attempts = 1 WHERE prompt_id = 1")
    assert command("cancel", "--custom-id", "q-1").out == "1 cancelled: not at the provider now\n"


def test_that_nothing_is_cancelled_is_said(command, running):
    for words in (("--custom-id", "q-6"), ("--tag", "typo")):
        said = command("cancel", *words)
        assert (said.code, said.err) == (0, "")
        assert said.out == "nothing cancelled: no prompt that was asked for waits or is at the provider\n"


@pytest.mark.parametrize("words", [(), ("--json",), ("--all", "--tag", "a"), ("--all", "--custom-id", "q-1")])
def test_without_a_selector_or_with_all_beside_one_nothing_is_done(command, running, words):
    said = command("cancel", *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "say which prompts" in said.err
    assert cancelled(running) == []


def test_every_key_that_json_prints_is_in_the_help(command, running):
    help_text = command("cancel", "--help").out
    told = command("cancel", "--all", "--json").json
    assert {key for key in told if not re.search(rf"\b{key}\b", help_text)} == set()
