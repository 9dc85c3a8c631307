import re
import sqlite3
import time

import pytest
from rich.cells import cell_len

from orchestrator.core.telling import duration

pytestmark = pytest.mark.usefixtures("daemon")

COUNTS = ("queued", "batched", "done", "failed", "cancelled")


@pytest.fixture
def busy(queue):
    """Prompts of every status in two tags and without, a batch under way, a paused provider and some trouble."""
    now_ms = int(time.time() * 1000)
    for number, tag in enumerate(("a", "a", "b", None), 1):
        queue.add(f"q-{number}", tag=tag)
    queue.end("q-1", answer="yes")
    queue.end("q-2", "failed", fault="invalid", error_message="no such model", received_at_ms=now_ms)
    queue.sql(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('doubleword', '/v1/x', '24h', '')"
    )
    queue.sql(
        "INSERT INTO batch_states (key, lane_id, status, lines, lines_done, remote_batch_id, remote_status,"
        " remote_total, remote_completed, created_at_ms, submitted_at_ms, last_error, last_error_at_ms)"
        " VALUES ('k-1', 1, 'submitted', 10, 4, 'r-1', 'in_progress', 10, 6, ?, ?, 'poll: 503', ?)",
        now_ms - 185_000,
        now_ms - 180_000,
        now_ms - 60_000,
    )
    queue.sql("INSERT INTO batch_states (key, lane_id, status, created_at_ms) VALUES ('k-2', 1, 'settled', 1)")
    queue.sql("UPDATE prompt_states SET status = 'batched', batch_id = 1 WHERE prompt_id = 3")
    queue.sql(
        "INSERT INTO provider_states (name, paused_at_ms, resume_at_ms, pauses, pause_reason, paused_by)"
        " VALUES ('doubleword', 1700000000000, 1700000060000, 1, '402: balance too low', 'line')"
    )
    queue.sql("INSERT INTO provider_states (name, pauses) VALUES ('openai', 0)")
    return queue


def counts(**given):
    return {name: given.get(name, 0) for name in COUNTS}


def test_json_tells_prompts_by_status_and_tag(command, busy):
    told = command("status", "--json").json
    assert told["prompts"] == counts(queued=1, batched=1, done=1, failed=1)
    assert sorted(told["tags"], key=lambda each: each["tag"] or "") == [
        {"tag": None, **counts(queued=1)},
        {"tag": "a", **counts(done=1, failed=1)},
        {"tag": "b", **counts(batched=1)},
    ]
    assert told["database"] == "sqlite:///orchestrator.db"


def test_tags_are_counted_over_windows_of_the_queue(command, busy, monkeypatch):
    monkeypatch.setattr("orchestrator.store.windows.WINDOW_ROWS", 3)
    tags = [(each["tag"], sum(each[status] for status in COUNTS)) for each in command("status", "--json").json["tags"]]
    assert tags == [(None, 1), ("a", 2), ("b", 1)]


def test_a_row_that_was_replaced_counts_once(command, busy):
    """`INSERT OR REPLACE` fires no delete trigger: the old row's state stays behind."""
    busy.sql("INSERT OR REPLACE INTO prompts (custom_id, prompt) VALUES ('q-1', 'Rather this?')")
    assert busy.sql("SELECT count(*) AS states FROM prompt_states") == [{"states": 5}]
    assert command("status", "--json").json["prompts"] == counts(queued=2, batched=1, failed=1)


def test_prompts_that_were_deleted_for_their_age_are_told_apart(command, busy):
    assert command("status", "--json").json["pruned"] == {"done": 0, "failed": 0, "cancelled": 0}
    assert "deleted" not in command("status").out
    busy.sql("UPDATE pruned_counts SET prompts = 12 WHERE status = 'failed'")
    assert command("status", "--json").json["pruned"] == {"done": 0, "failed": 12, "cancelled": 0}
    assert "deleted for their age: 0 done, 12 failed, 0 cancelled" in command("status").out


def test_json_tells_batches_under_way(command, busy):
    (batch,) = command("status", "--json").json["batches"]
    assert 185 <= batch.pop("age_seconds") < 300
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", batch.pop("created_at"))
    assert batch.pop("submitted_at") is not None
    assert batch.pop("expires_at") is not None
    assert batch == {
        "id": 1,
        "key": "k-1",
        "provider": "doubleword",
        "endpoint": "/v1/x",
        "model": None,
        "completion_window": "24h",
        "status": "submitted",
        "remote_status": "in_progress",
        "remote_batch_id": "r-1",
        "lines": 10,
        "lines_received": 4,
        "remote_total": 10,
        "remote_completed": 6,
        "remote_failed": None,
        "tries": 0,
        "window_seconds": 86_400,
        "waiting": 1,
        "last_error": "poll: 503",
    }


def test_json_tells_pauses_and_the_remedy(command, busy):
    assert command("status", "--json").json["pauses"] == [
        {
            "provider": "doubleword",
            "since": "2023-11-14T22:13:20Z",
            "next_try_at": "2023-11-14T22:14:20Z",
            "reason": "402: balance too low",
            "remedy": "add credit or raise the spending limit at the provider; it goes on by itself",
        }
    ]


def test_json_tells_the_last_errors_newest_first(command, busy):
    errors = command("status", "--json").json["errors"]
    assert [(each["custom_id"], each["batch_id"], each["fault"], each["message"]) for each in errors] == [
        ("q-2", None, "invalid", "no such model"),
        (None, 1, None, "poll: 503"),
    ]


@pytest.fixture
def ending(queue):
    """Prompts that ended at different times."""
    now_ms = int(time.time() * 1000)
    ends = [
        ("done", 30),
        ("done", 40),
        ("failed", 20),
        ("done", 1800),
        ("failed", 3500),
        ("done", 3700),
        ("cancelled", 5),
    ]
    for number, (status, seconds) in enumerate(ends):
        queue.add(f"q-{number}", tag=f"t-{number % 2}")
        queue.end(f"q-{number}", status)
        queue.sql(
            "UPDATE prompt_states SET finished_at_ms = ? WHERE prompt_id = ?", now_ms - seconds * 1000, number + 1
        )
    return queue


def test_json_tells_how_many_ended_in_the_last_minute_and_hour(command, ending):
    assert command("status", "--json").json["rates"] == {
        "last_minute": {"done": 2, "failed": 1},
        "last_hour": {"done": 3, "failed": 2},
    }


def test_rates_are_told_in_a_line(command, ending):
    assert "\nended in the last minute: 2 done, 1 failed; last hour: 3 done, 2 failed\n\n" in command("status").out


def test_a_prompt_that_is_queued_again_has_not_ended(command, ending):
    command("retry", "--all")
    assert command("status", "--json").json["rates"]["last_hour"] == {"done": 3, "failed": 0}


def test_a_pipe_gets_plain_text(command, busy):
    said = command("status")
    assert (said.code, said.err) == (0, "")
    assert said.out.isascii()
    assert "\x1b" not in said.out
    for line in (
        r"tag +queued +batched +done +failed +cancelled",
        r"a +0 +0 +1 +1 +0",
        r"\(no tag\) +1 +0 +0 +0 +0",
        r"total +1 +1 +1 +1 +0",
        r"1 +doubleword +any +in_progress +4/10 +6/10 +3m \d+s",
        r"doubleword is paused, nothing is sent there: 402: balance too low: add credit",
        r"q-2 +invalid +no such model",
    ):
        assert re.search(line, said.out), line


def test_a_queue_without_tags_shows_the_sum_alone(command, queue):
    queue.add("q-1")
    assert command("status").out.splitlines() == [
        "prompts in sqlite:///orchestrator.db:",
        "  tag    queued  batched  done  failed  cancelled",
        "  total       1        0     0       0          0",
        "",
    ]


def test_an_empty_queue_has_a_status(command, queue):
    assert command("status", "--json").json["prompts"] == counts()


def test_of_many_tags_the_largest_are_shown(command, queue):
    for number in range(30):
        queue.add(f"q-{number}", tag=f"t-{number:02}")
    queue.add("last", tag="t-29")
    lines = command("status").out.splitlines()
    assert lines[2].split() == ["t-29", "2", "0", "0", "0", "0"]
    assert lines[-3:-1] == ["  … 10 more", "  total          31        0     0       0          0"]
    assert len(command("status", "--json").json["tags"]) == 30


def test_a_tag_for_every_prompt_is_not_held_in_memory(command, queue, monkeypatch):
    monkeypatch.setattr("orchestrator.store.overview.MOST_TAGS", 3)
    for number in range(5):
        queue.add(f"q-{number}", tag=f"t-{number}")
    queue.add("again", tag="t-0")
    queue.add("nameless")
    told = command("status", "--json").json
    assert [(each["tag"], each["queued"]) for each in told["tags"]] == [(None, 1), ("t-0", 2), ("t-1", 1)]
    assert told["other_tags"] == counts(queued=3)
    assert [line.split() for line in command("status").out.splitlines()[-3:-1]] == [
        ["(other", "tags)", "3", "0", "0", "0", "0"],
        ["total", "7", "0", "0", "0", "0"],
    ]


def test_bytes_and_control_characters_in_tags_cannot_spoil_the_screen(command, queue):
    queue.sql("INSERT INTO prompts (prompt, tag) VALUES ('p', CAST(x'61ff' AS TEXT)), ('p', char(27) || '[2J')")
    said = command("status")
    assert said.code == 0
    assert "\\u001b[2J" in said.out
    assert "\x1b" not in said.out


def test_control_characters_in_the_reason_of_a_pause_cannot_either(command, busy):
    busy.sql("UPDATE provider_states SET pause_reason = '402: ' || char(27) || '[2J no credit'")
    said = command("status")
    assert "is paused, nothing is sent there: 402: \\u001b[2J no credit: add credit" in said.out
    assert "\x1b" not in said.out


def test_columns_stand_under_each_other_whatever_the_width_of_their_characters(command, queue):
    for number, tag in enumerate(("plain", "日本語のタグ", "e\u0301")):
        queue.add(f"q-{number}", tag=tag)
    rows = command("status").out.splitlines()[1:-2]
    assert len({cell_len(row) for row in rows}) == 1


def test_old_failures_are_not_searched_for(command, queue):
    queue.add("old")
    queue.end("old", "failed", fault="server")
    queue.add("new")
    row = "(SELECT id FROM prompts WHERE custom_id = 'new')"
    queue.sql(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
        f" INSERT INTO replies (prompt_id, seq, received_at_ms) SELECT {row}, i, 1 FROM n"
    )
    assert command("status", "--json").json["errors"] == []


def test_it_works_while_another_process_writes(command, busy):
    writer = sqlite3.connect(busy.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO prompts (prompt) VALUES ('p')")
    assert command("status", "--json").json["prompts"]["queued"] == 1
    writer.execute("ROLLBACK")
    writer.close()


def test_a_terminal_gets_tables_of_its_width_in_which_numbers_stay_whole(on_terminal, busy):
    model = "organisation/a-model-with-a-name-of-great-length-32B-instruct"
    busy.sql("UPDATE lanes SET model = ?, provider = 'provider-of-14'", model)
    busy.sql("UPDATE prompts SET tag = ? WHERE id = 1", "日本語" * 20)
    busy.sql(
        "UPDATE batch_states SET lines = 50000, lines_done = 12345, remote_total = 50000, remote_completed = 12345"
    )
    busy.sql("UPDATE provider_states SET pause_reason = ?", "402: balance too low " * 10)
    drawn = on_terminal("status").out
    assert "\x1b" not in drawn
    assert "─" in drawn
    assert max(map(cell_len, drawn.splitlines())) <= 80
    assert re.search(r"1 +provider-of-14 +organis\S+ +in_progress +12345/50000 +12345/50000 +3m \d+s", drawn)


def test_a_missing_database_is_one_line(command, folder):
    said = command("status")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "does not exist" in said.err


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0s"), (0, "0s"), (42.9, "42s"), (60, "1m 0s"), (185, "3m 5s"), (7800, "2h 10m"), (270_000, "3d 3h")],
)
def test_ages_are_told_in_two_units(seconds, told):
    assert duration(seconds) == told
