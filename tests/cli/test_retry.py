import pytest


@pytest.fixture
def ended(queue):
    for number, (status, tag, fault) in enumerate(
        [
            ("failed", "a", "server"),
            ("failed", "a", "invalid"),
            ("failed", "b", "server"),
            ("done", "a", None),
            ("cancelled", "a", None),
        ],
        1,
    ):
        queue.add(f"q-{number}", tag=tag)
        if status == "cancelled":
            queue.sql("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = ?", number)
        else:
            queue.end(f"q-{number}", status, fault=fault)
    queue.before = queue.statuses()
    return queue


def queued(queue):
    return [name for name, status in queue.statuses().items() if status == "queued" and queue.before[name] != "queued"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--all",), ["q-1", "q-2", "q-3"]),
        (("--all", "--cancelled"), ["q-1", "q-2", "q-3", "q-5"]),
        (("--tag", "a"), ["q-1", "q-2"]),
        (("--tag", "a", "--cancelled"), ["q-1", "q-2", "q-5"]),
        (("--fault", "server"), ["q-1", "q-3"]),
        (("--fault", "server", "--fault", "invalid"), ["q-1", "q-2", "q-3"]),
        (("--tag", "a", "--fault", "server"), ["q-1"]),
        (("--custom-id", "q-1", "--custom-id", "q-3"), ["q-1", "q-3"]),
        (("--custom-id", "q-1", "--custom-id", "q-3", "--tag", "b"), ["q-3"]),
        (("--tag", "nobody"), []),
    ],
)
def test_what_is_selected_is_queued_and_nothing_else(command, ended, words, expected):
    said = command("retry", *words)
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{len(expected)} prompt{'' if len(expected) == 1 else 's'} queued again\n"
    assert queued(ended) == expected


def test_a_retried_prompt_has_all_its_attempts_before_it(command, ended):
    command("retry", "--custom-id", "q-1")
    (state,) = ended.sql("SELECT * FROM prompt_states WHERE prompt_id = 1")
    assert (state["forgiven"], state["attempts"], state["finished_at_ms"]) == (1, 1, None)


def test_the_last_fault_counts(command, ended):
    ended.sql("INSERT INTO replies (prompt_id, seq, fault, received_at_ms) VALUES (1, 2, 'timeout', 1)")
    ended.sql("UPDATE prompt_states SET replies = 2 WHERE prompt_id = 1")
    command("retry", "--fault", "server")
    assert queued(ended) == ["q-3"]


@pytest.mark.parametrize(
    ("custom_id", "told"),
    [
        ("q-4", "q-4: done: only what failed can be retried"),
        ("q-5", "q-5: cancelled: pass --cancelled to retry it"),
        ("q-9", "q-9: no prompt has this custom_id"),
    ],
)
def test_a_named_prompt_that_is_not_retried_is_told_with_exit_code_1(command, ended, custom_id, told):
    said = command("retry", "--custom-id", custom_id, "--custom-id", "q-1")
    assert (said.code, said.out, said.err) == (1, "1 prompt queued again\n", f"{told}\n")


def test_json_is_one_object(command, ended):
    assert command("retry", "--all", "--json").json == {"queued": 3, "not_queued": {}}
    assert command("retry", "--custom-id", "q-9", "--json").json == {
        "queued": 0,
        "not_queued": {"q-9": "no prompt has this custom_id"},
    }


def test_more_prompts_than_one_transaction_takes_are_all_queued(command, queue):
    values = ", ".join(f"('q-{at}', 'p')" for at in range(2345))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    queue.sql("UPDATE prompt_states SET status = 'failed'")
    assert command("retry", "--all").out == "2345 prompts queued again\n"
    assert set(queue.statuses().values()) == {"queued"}


def test_ids_that_users_chose_may_lie_at_and_below_zero(command, queue):
    for number, prompt_id in enumerate((-7, 0, 1)):
        queue.add(f"q-{number}", id=prompt_id)
        queue.end(f"q-{number}", "failed", fault="server")
    assert command("retry", "--all", "--json").json["queued"] == 3


def test_a_prompt_that_fails_again_meanwhile_is_not_retried_for_ever(process, ended):
    ended.sql(
        "CREATE TRIGGER failing AFTER UPDATE OF status ON prompt_states WHEN NEW.status = 'queued' BEGIN"
        " UPDATE prompt_states SET status = 'failed' WHERE prompt_id = NEW.prompt_id; END"
    )
    assert process("retry", "--all").communicate(timeout=20)[0] == b"3 prompts queued again\n"


@pytest.mark.parametrize("words", [(), ("--cancelled",), ("--all", "--tag", "a"), ("--json",)])
def test_without_a_selector_or_with_all_beside_one_nothing_is_done(command, ended, words):
    said = command("retry", *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "say which prompts" in said.err
    assert queued(ended) == []


def test_an_unknown_fault_is_refused(command, ended):
    said = command("retry", "--fault", "nope")
    assert (said.code, said.err.count("\n")) == (2, 1)
