"""What foreign text and long work do to a terminal."""

import json
import re

import pytest

from orchestrator.core.telling import harmless

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202etxt\x7f"
SPELLED = r"\u001b[2J\u001b]0;title\u0007\u009b31m\u202etxt\u007f"
ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("text", ["plain", "日本語のタグ", "h\u00e9 e\u0301 👩🏽", "[bold]x[/]", ""])
def test_text_that_only_shows_itself_is_left_alone(text):
    assert harmless(text) == text


def test_what_a_terminal_would_act_on_is_spelled_out():
    assert harmless(HOSTILE) == SPELLED
    beyond = "日本\n\U000e0001"
    assert json.loads(f'"{harmless(beyond)}"') == beyond


def test_only_the_characters_that_act_are_spelled_out():
    assert harmless("日本\x1b語") == r"日本\u001b語"


def test_what_is_kept_stays():
    assert harmless("a\n\x1b\n", keep="\n") == "a\n\\u001b\n"


@pytest.fixture
def hostile(queue):
    """A queue in which everything a provider or a user can write is hostile."""
    queue.add("q-1", tag=HOSTILE, metadata=json.dumps({"a": HOSTILE}, ensure_ascii=False))
    queue.end("q-1", answer=HOSTILE, response=json.dumps({"a": HOSTILE}, ensure_ascii=False), model=HOSTILE)
    queue.add("q-2")
    queue.end("q-2", "failed", fault="server", error_code=HOSTILE, error_message=HOSTILE)
    queue.sql(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('doubleword', '/v1/x', '24h', ?)",
        HOSTILE,
    )
    queue.sql(
        "INSERT INTO batch_states (key, lane_id, status, remote_batch_id, remote_status, created_at_ms, last_error,"
        " last_error_at_ms) VALUES ('k', 1, 'submitted', ?, ?, 1, ?, 1)",
        *[HOSTILE] * 3,
    )
    queue.sql(
        "INSERT INTO provider_states (name, pauses, pause_reason, paused_at_ms) VALUES ('doubleword', 1, ?, 1)", HOSTILE
    )
    return queue


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "--json"),
        ("batches",),
        ("batches", "1"),
        ("batches", "1", "--json"),
        ("batches", f"no{HOSTILE}"),
        ("failures",),
        ("failures", "--json"),
        ("results",),
        ("results", "--format", "csv"),
        ("results", "--format", "openai"),
        ("retry", "--custom-id", f"no{HOSTILE}"),
        ("enqueue", f"no{HOSTILE}.jsonl"),
    ],
    ids=lambda words: " ".join(words).partition("no\x1b")[0],
)
def test_nothing_hostile_reaches_a_terminal(on_terminal, hostile, words):
    drawn = on_terminal(*words).out
    assert re.search(r"\\(u001b|x1b)\[2J", drawn)
    assert ACTING.findall(drawn) == []


def test_what_is_told_of_a_file_is_harmless_too(on_terminal, queue, write):
    write(f"a{HOSTILE}.jsonl", json.dumps({HOSTILE: 1}) + '\n{"prompt": "p"}\n')
    drawn = on_terminal("enqueue", f"a{HOSTILE}.jsonl").out
    drawn += on_terminal("enqueue", f"a{HOSTILE}.jsonl").out
    assert f"a{SPELLED}.jsonl:1: unknown key" in drawn
    assert f"note: a{SPELLED}.jsonl: was enqueued before" in drawn
    assert ACTING.findall(drawn) == []


def test_json_on_a_terminal_says_the_same_as_in_a_pipe(on_terminal, command, hostile):
    assert json.loads(on_terminal("failures", "--json").out) == command("failures", "--json").json
    assert json.loads(on_terminal("results", "--status", "done").out) == command("results", "--status", "done").json


def test_a_pipe_gets_the_bytes_as_they_are(command, hostile):
    assert HOSTILE in command("results", "--format", "csv").out


# ---------------------------------------------------------------- what takes long


def test_an_export_shows_how_far_it_is(on_terminal, queue, folder):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
    queue.sql(f"INSERT INTO prompts (prompt) {numbers} SELECT 'p' FROM n")
    said = on_terminal("results", "-o", "out.jsonl", impatient=True)
    assert re.search(r"━.* \d+% .* \d+ results", said.out)
    assert said.out.endswith("3000 results written to out.jsonl\n")
    assert len((folder / "out.jsonl").read_text().splitlines()) == 3000


def test_an_export_into_a_pipe_shows_it_on_stderr_only(on_terminal, queue):
    queue.add("q-1")
    said = on_terminal("results", streams=("stderr",), impatient=True)
    assert json.loads(said.err)["custom_id"] == "q-1"
    assert "━" in said.out


def test_results_on_the_screen_are_not_drawn_over(on_terminal, queue):
    queue.add("q-1")
    assert json.loads(on_terminal("results", impatient=True).out)["custom_id"] == "q-1"


@pytest.mark.parametrize(
    ("words", "doing"),
    [
        (("status",), "counting prompts"),
        (("failures",), "grouping failed prompts"),
        (("batches",), "listing batches"),
        (("retry", "--all"), "queueing prompts again"),
        (("cancel", "--all"), "cancelling prompts"),
        (("migrate",), "migrating"),
    ],
)
def test_what_cannot_tell_how_far_it_is_shows_that_it_lives(on_terminal, queue, words, doing):
    said = on_terminal(*words, streams=("stderr",), impatient=True)
    assert said.code == 0
    assert doing in said.out
    assert doing not in said.err
    assert on_terminal(*words, streams=("stderr",)).out == ""
