"""Every command on a PostgreSQL queue: nothing but `database.url` is another."""

import json

import pytest
from users import asked


@pytest.fixture(autouse=True)
def address(postgres_url, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_DATABASE__URL", postgres_url)
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    monkeypatch.setenv("ORCHESTRATOR_DEFAULTS__MODEL", "m")
    return postgres_url


def enqueued(command, *rows):
    said = command("enqueue", "-", stdin="".join(json.dumps(row) + "\n" for row in rows).encode())
    assert said.code == 0, said.err


def sql(address, statement, *values):
    return asked(address, statement, values)


def test_rows_are_enqueued_counted_and_read_as_they_were_written(command, address):
    enqueued(command, {"custom_id": "a", "prompt": "Why?", "tag": "t", "metadata": {"n": 1}}, {"prompt": "é\u2028"})
    again = command("enqueue", "-", "--on-conflict", "skip", stdin=b'{"custom_id": "a", "prompt": "x"}\n')
    assert again.code == 0
    status = command("status", "--json").json
    assert status["prompts"]["queued"] == 2
    (first, second) = [json.loads(line) for line in command("results").out.splitlines()]
    assert (first["custom_id"], first["tag"], first["metadata"], first["status"]) == ("a", "t", {"n": 1}, "queued")
    assert first["created_at"][:2] == "20"
    assert len(first["created_at"]) == len("2027-01-15 08:00:00.000")
    assert second["custom_id"].startswith("e-")
    for form in ("csv", "openai", "jsonl"):
        assert command("results", "--format", form).code == 0


def test_a_row_that_the_database_cannot_hold_is_named_and_the_others_go_in(command, address):
    rows = [{"custom_id": f"q-{number}", "prompt": "x"} for number in range(1, 41)]
    rows[6]["prompt"] = "a\0b"
    rows[7]["not_before"] = "soon"
    rows[19]["custom_id"] = "q-1"
    rows[30]["metadata"] = {"x": "\0"}
    said = command("enqueue", "-", "--json", stdin="".join(json.dumps(row) + "\n" for row in rows).encode())
    assert said.code == 1
    told = said.err.splitlines()
    assert [line.split(": ")[0] for line in told if not line.startswith("note: ")] == [
        f"stdin:{line}" for line in (7, 8, 20, 31)
    ], told
    assert "NUL" in told[0]
    assert '"soon"' in told[1]
    assert "exists already" in told[2]
    assert all(line.endswith(": correct it") for line in (told[0], told[1], told[3]))
    assert said.json == {"enqueued": 36, "skipped": 0, "bad_lines": 4, "files": 1}
    stored = {row[0] for row in sql(address, "SELECT custom_id FROM prompts")}
    assert stored == {f"q-{number}" for number in range(1, 41)} - {"q-7", "q-8", "q-20", "q-31"}


def test_failed_prompts_are_grouped_queued_again_and_cancelled(command, address):
    enqueued(command, {"custom_id": "a", "prompt": "x"}, {"custom_id": "b", "prompt": "x"})
    sql(address, "UPDATE prompt_states SET status = 'failed', replies = 1")
    for number in (1, 2):
        sql(
            address,
            "INSERT INTO replies (prompt_id, seq, fault, error_message, received_at_ms) VALUES (?, 1, 'server', ?, 5)",
            number,
            "x" * 500,
        )
    groups = command("failures", "--json").json
    assert [group["prompts"] for group in groups["failures"]] == [2]
    assert command("retry", "--custom-id", "a", "--json").code == 0
    assert command("cancel", "--all", "--json").json["cancelled"] == 1
    found = sql(address, "SELECT custom_id, status FROM results ORDER BY id")
    assert [tuple(row) for row in found] == [("a", "cancelled"), ("b", "failed")]


def test_what_had_ended_is_followed_in_the_order_of_ending(command, address, process):
    enqueued(command, *({"custom_id": f"q-{number}", "prompt": "x"} for number in range(50)))
    sql(address, "UPDATE prompt_states SET status = 'failed', finished_at_ms = 100 - prompt_id WHERE prompt_id > 25")
    sql(address, "UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id <= 25")
    following = process("results", "--follow")
    found = [json.loads(following.stdout.readline())["custom_id"] for _ in range(50)]
    assert found == [f"q-{number}" for number in [*range(49, 24, -1), *range(25)]]


def test_batches_are_listed_with_their_times(command, address):
    sql(address, "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('p', '/v1', '24h', 'm')")
    sql(
        address,
        "INSERT INTO batch_states (key, lane_id, status, created_at_ms) VALUES ('orc-1', 1, 'sealed', 1800000000000)",
    )
    (batch,) = command("batches", "--json").json["batches"]
    assert (batch["key"], batch["created_at"]) == ("orc-1", "2027-01-15 08:00:00.000")
    assert command("batches", "1").code == 0
    assert command("batches").code == 0
    assert "orc-1" in command("status", "--json").out


def test_settings_and_checks_show_no_password(command, monkeypatch, address):
    monkeypatch.setenv("ORCHESTRATOR_DATABASE__URL", "postgresql://me:hush@127.0.0.1:1/queue")
    for words in (["config"], ["check"], ["status"], ["migrate"]):
        said = command(*words)
        assert "hush" not in said.out + said.err
    assert "127.0.0.1:1/queue" in command("status").err


def test_migrate_tells_where_it_stands(command):
    assert command("migrate").code == 0
    assert command("migrate", "--check").code == 0


def test_a_backup_is_the_servers_business(command):
    said = command("backup", "copy.db")
    assert said.code != 0
    assert "pg_dump" in said.err
