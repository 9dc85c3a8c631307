import re

import pytest


@pytest.fixture
def failed(queue):
    """Three prompts that failed alike, one otherwise, one without a reply of its own, and one that is done."""
    for number in (1, 2, 3):
        queue.add(f"q-{number}", tag="a" if number < 3 else "b")
        queue.end(f"q-{number}", "failed", fault="server", status_code=500, error_message="upstream broke", batch_id=7)
    queue.add("q-4", tag="a")
    queue.end("q-4", "failed", fault="invalid", status_code=404, error_code="model_not_found", error_message="no m")
    queue.add("q-5", tag="a")
    queue.end("q-5")
    return queue


def test_groups_come_by_reason_the_largest_first_with_an_example(command, failed):
    assert command("failures", "--json").json == {
        "failures": [
            {
                "prompts": 3,
                "fault": "server",
                "status_code": 500,
                "error_code": None,
                "message": "upstream broke",
                "custom_id": "q-1",
                "batch_id": 7,
            },
            {
                "prompts": 1,
                "fault": "invalid",
                "status_code": 404,
                "error_code": "model_not_found",
                "message": "no m",
                "custom_id": "q-4",
                "batch_id": None,
            },
        ]
    }


def test_groups_reach_over_windows_of_the_queue(command, failed, monkeypatch):
    at_once = command("failures", "--json").out
    monkeypatch.setattr("orchestrator.store.windows.WINDOW_ROWS", 2)
    assert command("failures", "--json").out == at_once


def test_a_tag_narrows(command, failed):
    groups = command("failures", "--tag", "b", "--json").json["failures"]
    assert [(group["prompts"], group["custom_id"]) for group in groups] == [(1, "q-3")]
    said = command("failures", "--tag", "nobody", "--json")
    assert (said.code, said.json, said.err) == (0, {"failures": []}, "nobody: no prompt has this tag\n")
    said = command("failures", "--tag", "nobody")
    assert (said.code, said.out, said.err) == (0, "", "nobody: no prompt has this tag\n")
    failed.add("q-6", tag="c")
    assert command("failures", "--tag", "c").out == "no failed prompts\n"


def test_the_last_reason_counts(command, failed):
    failed.sql("INSERT INTO replies (prompt_id, seq, fault, received_at_ms) VALUES (1, 2, 'timeout', 1)")
    failed.sql("UPDATE prompt_states SET replies = 2 WHERE prompt_id = 1")
    groups = command("failures", "--json").json["failures"]
    assert [(group["fault"], group["prompts"]) for group in groups] == [("server", 2), ("timeout", 1), ("invalid", 1)]


def test_a_prompt_that_is_queued_again_is_no_failure(command, failed):
    failed.sql("UPDATE prompt_states SET status = 'queued' WHERE status = 'failed'")
    said = command("failures")
    assert (said.code, said.out, said.err) == (0, "no failed prompts\n", "")


def test_a_pipe_gets_one_plain_line_per_reason_and_what_to_do(command, failed):
    said = command("failures")
    assert (said.code, said.err) == (0, "")
    assert re.search(r"^ +3 +server +500 +upstream broke +q-1$", said.out, re.MULTILINE)
    assert re.search(r"^ +1 +invalid +404 +no m +q-4$", said.out, re.MULTILINE)
    assert "orchestrator retry --fault FAULT" in said.out


def test_control_characters_in_a_message_cannot_spoil_the_screen(command, queue):
    queue.add("q-1")
    queue.end("q-1", "failed", fault="server", error_message="\x1b[2Jboo\nboo")
    said = command("failures")
    assert "\x1b" not in said.out
    assert "boo\\nboo" in said.out


def test_every_key_that_json_prints_is_in_the_help(command, failed):
    help_text = command("failures", "--help").out
    (group, _) = command("failures", "--json").json["failures"]
    assert {key for key in ("failures", *group) if not re.search(rf"\b{key}\b", help_text)} == set()
