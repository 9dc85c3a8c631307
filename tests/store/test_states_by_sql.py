"""What the triggers make of a user's plain SQL."""

import importlib
import itertools
import time

import pytest

from orchestrator.core.model import PromptStatus
from orchestrator.core.states import PROMPT_MOVES, pairs

LEGAL = {(str(before), str(after)) for before, after in pairs(PROMPT_MOVES)}
STATUSES = [str(status) for status in PromptStatus]
HOUR_MS = 3600 * 1000


def test_a_state_appears_with_its_prompt(user):
    before_ms = int(time.time() * 1000) - 1
    prompt_id = user.insert(prompt="é", system="ab", body='{"a":1}', priority=7)
    state = user.state(prompt_id)
    assert before_ms <= state.pop("due_at_ms") <= int(time.time() * 1000) + 1
    expected = {"prompt_id": prompt_id, "status": "queued", "priority": 7, "line_bytes": 2 + 2 + 7}
    nothing = dict.fromkeys(state, 0) | dict.fromkeys(["lane_id", "batch_id", "model", "finished_at_ms"])
    assert state == nothing | expected


def test_prompt_and_state_come_in_one_transaction(user):
    user.run("BEGIN")
    user.insert()
    assert user.value("SELECT count(*) FROM prompt_states") == 1
    user.run("ROLLBACK")
    assert user.value("SELECT count(*) FROM prompt_states") == 0


def test_a_refused_row_leaves_no_state(user):
    with pytest.raises(user.refused):
        user.connection.execute("INSERT INTO prompts (custom_id, prompt) VALUES ('a', 'x'), ('b', 'x'), ('a', 'x')")
    assert user.value("SELECT count(*) FROM prompt_states") == 0


@pytest.mark.parametrize(
    ("not_before", "due"),
    [
        ("2027-01-15 08:00:00", 1_800_000_000_000),
        ("2027-01-15 08:00", 1_800_000_000_000),
        ("2027-01-15T08:00:00Z", 1_800_000_000_000),
        ("2027-01-15T09:00:00+01:00", 1_800_000_000_000),
        ("2027-01-15 08:00:00.250", 1_800_000_000_250),
    ],
)
def test_not_before_is_read_as_utc_in_every_usual_spelling(user, not_before, due):
    assert abs(user.state(user.insert(not_before=not_before))["due_at_ms"] - due) <= 1


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(STATUSES, 2)))
def test_a_state_moves_only_along_the_table(user, before, after):
    prompt_id = user.insert()
    user.put(prompt_id, before)
    batch_id = 8 if after == "batched" else None
    move = ("UPDATE prompt_states SET status = ?, batch_id = ? WHERE prompt_id = ?", after, batch_id, prompt_id)
    if (before, after) in LEGAL:
        user.run(*move)
        assert user.state(prompt_id)["status"] == after
    else:
        with pytest.raises(user.refused, match="no such move"):
            user.run(*move)
        assert user.state(prompt_id)["status"] == before


@pytest.mark.parametrize("status", ["Queued", "", "deleted", "queued>failed", " "])
@pytest.mark.parametrize("before", STATUSES)
def test_no_other_word_is_a_status(user, before, status):
    prompt_id = user.insert()
    user.put(prompt_id, before)
    with pytest.raises(user.refused):
        user.run("UPDATE prompt_states SET status = ? WHERE prompt_id = ?", status, prompt_id)


def test_null_is_no_status(user):
    with pytest.raises(user.refused, match=r"(?i)not.null"):
        user.run("UPDATE prompt_states SET status = NULL WHERE prompt_id = ?", user.insert())


@pytest.mark.parametrize("change", ["status = 'batched'", "batch_id = 7", "status = 'cancelled', batch_id = 7"])
def test_a_prompt_is_batched_exactly_when_it_names_its_batch(user, change):
    with pytest.raises(user.refused, match="batched_has_batch"):
        user.run(f"UPDATE prompt_states SET {change} WHERE prompt_id = ?", user.insert())


def test_a_user_cannot_cancel_what_is_batched_by_a_plain_update(user):
    prompt_id = user.insert()
    user.put(prompt_id, "batched")
    with pytest.raises(user.refused):
        user.run("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = ?", prompt_id)


def test_the_same_status_again_changes_nothing(user):
    prompt_id = user.insert()
    user.put(prompt_id, "failed")
    before = user.state(prompt_id)
    user.run("UPDATE prompt_states SET status = 'failed' WHERE prompt_id = ?", prompt_id)
    assert user.state(prompt_id) == before


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_a_requeued_prompt_starts_anew_and_is_forgiven_what_it_spent(user, ended):
    prompt_id = user.insert()
    user.run("UPDATE prompt_states SET attempts = 5, returns = 3, lane_id = 1 WHERE prompt_id = ?", prompt_id)
    user.put(prompt_id, ended)
    user.run("UPDATE prompt_states SET finished_at_ms = 9, waiting = 1, due_at_ms = 0 WHERE prompt_id = ?", prompt_id)
    user.run("UPDATE prompt_states SET status = 'queued' WHERE prompt_id = ?", prompt_id)
    state = user.state(prompt_id)
    assert (state["attempts"], state["forgiven"], state["returns"]) == (5, 5, 0)
    assert (state["lane_id"], state["waiting"], state["finished_at_ms"]) == (None, 0, None)
    assert abs(state["due_at_ms"] - time.time() * 1000) < HOUR_MS


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_a_requeued_prompt_still_waits_for_its_time(user, ended):
    prompt_id = user.insert(not_before="2100-01-01 00:00:00")
    due = user.state(prompt_id)["due_at_ms"]
    user.put(prompt_id, ended)
    user.run("UPDATE prompt_states SET status = 'queued' WHERE prompt_id = ?", prompt_id)
    assert user.state(prompt_id)["due_at_ms"] == due


def test_a_cancelled_prompt_knows_when(user):
    prompt_id = user.insert()
    user.put(prompt_id, "cancelled")
    assert abs(user.state(prompt_id)["finished_at_ms"] - time.time() * 1000) < HOUR_MS


@pytest.mark.parametrize("status", ["queued", "done", "failed", "cancelled"])
def test_a_deleted_prompt_takes_its_state_and_replies_along(user, status):
    prompt_id, other = user.insert_many(2)
    user.put(prompt_id, status)
    for one in (prompt_id, other):
        user.run("INSERT INTO replies (prompt_id, seq, received_at_ms) VALUES (?, 1, 0)", one)
    user.run("DELETE FROM prompts WHERE id = ?", prompt_id)
    assert user.values("SELECT prompt_id FROM prompt_states") == [other]
    assert user.values("SELECT prompt_id FROM replies") == [other]


def test_a_batched_prompt_cannot_be_deleted(user):
    batched, queued = user.insert_many(2)
    user.put(batched, "batched")
    with pytest.raises(user.refused, match="in a batch and may be paid for"):
        user.run("DELETE FROM prompts")
    assert user.values("SELECT id FROM prompts ORDER BY id") == [batched, queued]
    assert user.value("SELECT count(*) FROM prompt_states") == 2


SENT = {
    "custom_id": "b",
    "prompt": "other",
    "system": "be",
    "body": "{}",
    "model": "m",
    "endpoint": "/v1/x",
    "completion_window": "1h",
    "provider": "openai",
    "id": 99,
}


@pytest.mark.parametrize("status", ["batched", "done"])
@pytest.mark.parametrize("column", SENT)
def test_what_was_sent_stands_as_it_was_sent(user, column, status):
    prompt_id = user.insert()
    user.put(prompt_id, status)
    with pytest.raises(user.refused, match=r"was sent as it stands|\"id\" can only be updated to DEFAULT"):
        user.run(f"UPDATE prompts SET {column} = ? WHERE id = ?", SENT[column], prompt_id)


@pytest.mark.parametrize("status", STATUSES)
def test_the_users_own_data_may_change_at_any_time(user, status):
    prompt_id = user.insert()
    user.put(prompt_id, status)
    before = user.state(prompt_id)
    user.run("UPDATE prompts SET tag = 'x', metadata = '{}' WHERE id = ?", prompt_id)
    assert user.state(prompt_id) == before


def test_an_id_never_changes(user):
    with pytest.raises(user.refused):
        user.run("UPDATE prompts SET id = 99 WHERE id = ?", user.insert())


@pytest.mark.sqlite
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", ["rowid", "_rowid_", "oid"])
def test_an_id_never_changes_by_another_name(user, status, name):
    prompt_id = user.insert()
    user.put(prompt_id, status)
    with pytest.raises(user.refused, match="insert a new one"):
        user.run(f"UPDATE prompts SET {name} = 99 WHERE id = ?", prompt_id)
    user.run(f"UPDATE prompts SET {name} = id, tag = 'x'")


@pytest.mark.parametrize("column", [column for column in SENT if column != "id"])
def test_an_edited_prompt_is_admitted_anew(user, column):
    prompt_id = user.insert(custom_id="a", prompt="hi")
    user.run("UPDATE prompt_states SET lane_id = 1, line_bytes = 500, waiting = 1 WHERE prompt_id = ?", prompt_id)
    user.run(f"UPDATE prompts SET {column} = ? WHERE id = ?", SENT[column], prompt_id)
    state = user.state(prompt_id)
    nbytes = sum(len(SENT[name]) if name == column else 2 * (name == "prompt") for name in ("prompt", "system", "body"))
    assert (state["lane_id"], state["waiting"], state["line_bytes"]) == (None, 0, nbytes)


def test_a_new_priority_and_a_new_time_reach_the_state(user):
    prompt_id = user.insert()
    user.run("UPDATE prompts SET priority = 5, not_before = '2027-01-15 08:00:00' WHERE id = ?", prompt_id)
    state = user.state(prompt_id)
    assert (state["priority"], state["due_at_ms"]) == (5, 1_800_000_000_000)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_an_ended_prompt_may_be_corrected_before_it_is_queued_again(user, status):
    prompt_id = user.insert()
    user.put(prompt_id, status)
    user.run("UPDATE prompts SET prompt = 'better', priority = 3, provider = 'x' WHERE id = ?", prompt_id)
    assert user.state(prompt_id)["status"] == status
    user.run("UPDATE prompt_states SET status = 'queued' WHERE prompt_id = ?", prompt_id)
    state = user.state(prompt_id)
    assert (state["lane_id"], state["priority"]) == (None, 3)


def test_the_triggers_move_along_the_same_table_as_the_stages():
    migration = importlib.import_module("orchestrator.migrations.versions.0001_queue")
    assert sorted(migration.LEGAL_MOVES.split()) == sorted(f"{before}>{after}" for before, after in LEGAL)


@pytest.mark.parametrize("status", STATUSES)
def test_a_new_priority_counts_whenever_it_is_given(user, status):
    prompt_id = user.insert()
    user.put(prompt_id, status)
    before = user.state(prompt_id)
    user.run("UPDATE prompts SET priority = 5 WHERE id = ?", prompt_id)
    after = user.state(prompt_id)
    assert after["priority"] == 5
    assert status not in ("batched", "done") or after == before | {"priority": 5}
