"""`copy`: a queue moves to PostgreSQL whole, however often it is broken off, and only one copy of it works."""

import contextlib
import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import psycopg
import pytest
from users import asked

from orchestrator.store import moving
from orchestrator.store.moving import Move
from orchestrator.store.schema import only_daemon
from orchestrator.store.tables import metadata

FIXTURE = max((Path(__file__).parent.parent / "upgrades" / "fixtures").glob("*.sql"))
SOURCE = "sqlite:///orchestrator.db"


@pytest.fixture
def full(folder):
    """A queue with batches and prompts at every step of their way."""
    with contextlib.closing(sqlite3.connect("orchestrator.db")) as connection:
        connection.executescript(FIXTURE.read_text())


@pytest.fixture
def target(postgres_url):
    return postgres_url


@pytest.fixture
def copy(command, target):
    return lambda *words: command("copy", "--from", SOURCE, "--to", target, *words)


def ours(statement, *values):
    return [tuple(row) for row in asked("orchestrator.db", statement, values)]


def theirs(target, statement, *values):
    return [tuple(row) for row in asked(target, statement, values)]


def one_line(said, code, *words):
    assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said
    for word in words:
        assert word in said.err


def run_on(command, monkeypatch, url):
    monkeypatch.setenv("ORCHESTRATOR_DATABASE__URL", url)
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    return command("run", "--until-idle")


BOTH = (
    "SELECT * FROM results ORDER BY id",
    "SELECT * FROM attempts ORDER BY id",
    "SELECT * FROM prompt_states ORDER BY prompt_id",
    "SELECT * FROM lanes ORDER BY id",
    "SELECT * FROM pruned_counts ORDER BY status",
    "SELECT id, custom_id, prompt, system, body, priority, tag, created_at FROM prompts ORDER BY id",
)


def test_everything_is_there_and_said_with_counts_and_checksums(full, copy, target):
    said = copy("--json")
    assert (said.code, said.err) == (0, "")
    assert said.json["moved_to"] == moving.shown_address(target)
    tables = {found["table"]: found for found in said.json["tables"]}
    counts = {name: found["rows"] for name, found in tables.items()}
    assert counts == {name: ours(f"SELECT count(*) FROM {name}")[0][0] for name in counts}
    assert counts.keys() == metadata.tables.keys() - {"queue_state", "chores"}
    assert len({found["checksum"] for found in tables.values() if found["rows"]}) >= 6
    for statement in BOTH:
        assert theirs(target, statement) == ours(statement)
    assert theirs(target, "SELECT name FROM queue_state") == ours("SELECT name FROM queue_state")


def test_run_again_it_says_where_the_queue_lives(full, copy, target):
    copy()
    said = copy()
    assert (said.code, said.err, said.out.count("\n")) == (0, "", 1)
    assert "the queue lives at postgresql://" in said.out


def test_new_rows_get_ids_after_all_that_were_ever_given(full, copy, target):
    ours("DELETE FROM prompts WHERE id = (SELECT max(id) FROM prompts WHERE custom_id LIKE '%')")
    given = dict(ours("SELECT name, seq FROM sqlite_sequence"))
    highest_reply = ours("SELECT max(id) FROM replies")[0][0]
    copy()
    asked(target, "INSERT INTO prompts (prompt) VALUES ('x')", ())
    assert theirs(target, "SELECT max(id) FROM prompts") == [(given["prompts"] + 1,)]
    for table, last in (("batch_states", given["batch_states"]), ("replies", highest_reply)):
        assert theirs(target, f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))") == [(last + 1,)]


def test_every_trigger_of_the_target_works_afterwards(full, copy, target):
    copy()
    enabled = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'O'"
    assert theirs(target, enabled) == [(0,)]
    with pytest.raises(psycopg.IntegrityError, match="no such move"):
        asked(target, "UPDATE prompt_states SET status = 'queued' WHERE status = 'done'", ())
    asked(target, "INSERT INTO prompts (custom_id, prompt) VALUES ('new', 'x')", ())
    assert theirs(target, "SELECT status FROM results WHERE custom_id = 'new'") == [("queued",)]


# ---------------------------------------------------------------- only one of them works


def test_the_source_neither_runs_nor_takes_rows_any_more(full, copy, target, command, monkeypatch):
    copy()
    one_line(run_on(command, monkeypatch, SOURCE), 2, "moved to postgresql://orchestrator@", "database.url")
    for statement in (
        "INSERT INTO prompts (prompt) VALUES ('x')",
        "DELETE FROM prompts",
        "UPDATE prompts SET tag = 'x'",
        "UPDATE prompt_states SET status = 'queued' WHERE status = 'failed'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="has moved to postgresql://"):
            ours(statement)
    for words in (["enqueue", "--prompt", "x"], ["retry", "--all"], ["cancel", "--all"]):
        one_line(command(*words), 2, "moved to postgresql://")


def test_status_of_the_source_says_where_the_queue_went_and_asks_for_nothing_else(full, copy, target, command):
    copy()
    (need,) = command("status", "--json").json["attention"]
    assert need["what"].startswith(f"this queue has moved to {moving.shown_address(target)}, or is on its way there")
    assert need["todo"].startswith("name that address in database.url")


def test_status_of_a_target_that_is_not_complete_says_so(full, target, command, monkeypatch):
    with contextlib.closing(Move(Path("orchestrator.db"), target)) as move:
        move._begin()
    monkeypatch.setenv("ORCHESTRATOR_DATABASE__URL", target)
    (need,) = command("status", "--json").json["attention"]
    assert need["what"] == "this queue is still being copied from sqlite:///orchestrator.db"


def test_a_daemon_at_work_is_not_copied(full, copy, target):
    with only_daemon("orchestrator.db"):
        one_line(copy(), 2, "another orchestrator works on orchestrator.db")
    assert ours("SELECT moved_to FROM queue_state") == [(None,)]


def test_a_target_that_is_not_complete_lets_no_daemon_in(full, copy, target, command, monkeypatch):
    with contextlib.closing(Move(Path("orchestrator.db"), target)) as move:
        move._begin()
    one_line(run_on(command, monkeypatch, target), 2, "still being copied from sqlite:///orchestrator.db")
    one_line(run_on(command, monkeypatch, SOURCE), 2, "moved to")
    assert copy().code == 0


@pytest.mark.parametrize(
    "taken",
    [
        "INSERT INTO prompts (prompt) VALUES ('x')",
        "UPDATE queue_state SET home = 'here'",
        "UPDATE queue_state SET copied_from = 'elsewhere'",
    ],
)
def test_a_target_that_is_somebody_elses_is_refused_and_the_source_stays(full, copy, target, taken):
    asked(target, taken, ())
    one_line(copy(), 2, "holds another queue")
    assert ours("SELECT moved_to FROM queue_state") == [(None,)]


def test_a_source_that_is_on_its_way_elsewhere_is_refused(full, copy, postgres, command):
    copy()
    with postgres.lent() as other:
        one_line(command("copy", "--from", SOURCE, "--to", other), 2, "has moved to postgresql://")


def test_a_copy_that_is_given_up_leaves_the_source_as_it_was(full, copy, target, command, monkeypatch, postgres):
    before = ours("SELECT type, name FROM sqlite_master ORDER BY name")
    one_line(copy("--undo"), 2, "has not moved")
    with contextlib.closing(Move(Path("orchestrator.db"), target)) as move:
        move._begin()
    assert copy("--undo").code == 0
    assert ours("SELECT type, name FROM sqlite_master ORDER BY name") == before
    ours("INSERT INTO prompts (custom_id, prompt) VALUES ('later', 'x')")
    one_line(run_on(command, monkeypatch, target), 2, "still being copied")
    one_line(copy(), 2, "holds another queue")
    with postgres.lent() as other:
        assert command("copy", "--from", SOURCE, "--to", other).code == 0
        one_line(copy(), 2, "has moved to")
        one_line(copy("--undo"), 2, "has moved to")


def test_a_complete_copy_is_not_given_up(full, copy):
    copy()
    one_line(copy("--undo"), 2, "the copy is complete")


# ---------------------------------------------------------------- broken off


@pytest.mark.parametrize("step", range(1, 12))
def test_killed_anywhere_it_goes_on_and_copies_nothing_twice(full, copy, target, monkeypatch, step):
    """Before and after the transactions that copy; within them, see the next test."""
    monkeypatch.setattr(moving, "CHUNK_ROWS", 7)
    steps = iter(range(1000))

    def killed(*_):
        if next(steps) == step:
            raise KeyboardInterrupt

    write = Move._write
    monkeypatch.setattr(Move, "_write", lambda move, *given: (killed(), write(move, *given), killed()))
    assert copy().code == 1
    monkeypatch.setattr(Move, "_write", write)
    assert copy().code == 0
    for statement in BOTH:
        assert theirs(target, statement) == ours(statement)


def test_kill_9_under_way_leaves_every_trigger_on_and_the_next_run_completes(folder, queue, process, target, copy):
    with contextlib.closing(sqlite3.connect("orchestrator.db")) as connection:
        rows = ((f"q-{number}", "x" * 2000) for number in range(20_000))
        connection.executemany("INSERT INTO prompts (custom_id, prompt) VALUES (?, ?)", rows)
        connection.commit()
    count = 0
    for wanted in (2000, 9000):
        running = process("copy", "--from", SOURCE, "--to", target)
        deadline = time.monotonic() + 60
        while count < wanted:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            count = theirs(target, "SELECT count(*) FROM prompts")[0][0]
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        assert theirs(target, "SELECT count(*) FROM prompts")[0][0] < 20_000
        assert theirs(target, "SELECT count(*) FROM pg_trigger WHERE tgenabled = 'D'") == [(0,)]
    rows = {found["table"]: found["rows"] for found in copy("--json").json["tables"]}
    assert rows["prompts"] == rows["prompt_states"] == 20_000


def test_a_row_written_to_the_target_meanwhile_stands_beside_what_is_copied(full, copy, target):
    with contextlib.closing(Move(Path("orchestrator.db"), target)) as move:
        move._begin()
    asked(target, "INSERT INTO prompts (custom_id, prompt) VALUES ('early', 'x')", ())
    assert copy().code == 0
    found = "SELECT id > (SELECT count(*) FROM prompts) - 1, status FROM results WHERE custom_id = 'early'"
    assert theirs(target, found) == [(True, "queued")]


# ---------------------------------------------------------------- compared


@pytest.mark.parametrize(
    ("tampering", "table", "row"),
    [
        ("UPDATE replies SET answer = 'another' WHERE id = 1", "replies", 1),
        ("UPDATE replies SET raw = '\\x00' WHERE id = 1", "replies", 1),
        ("UPDATE prompt_states SET attempts = 9 WHERE prompt_id = 2", "prompt_states", 2),
        ("UPDATE prompts SET metadata = '{\"a\": [1, 3]}' WHERE metadata IS NOT NULL", "prompts", 4),
        ("UPDATE prompts SET tag = '' WHERE id = 3", "prompts", 3),
        ("UPDATE prompts SET created_at = created_at + interval '1 ms' WHERE id = 5", "prompts", 5),
        ("DELETE FROM replies WHERE id = 2", "replies", 2),
        ("UPDATE batch_states SET reread = NOT reread WHERE id = 1", "batch_states", 1),
        ("UPDATE pruned_counts SET prompts = 1 WHERE status = 'done'", "pruned_counts", "done"),
    ],
)
def test_a_copy_that_differs_is_told_and_not_let_go(full, copy, target, monkeypatch, command, tampering, table, row):
    compare = Move._compare

    def tampered(move, of):
        if of.name == table:
            move._target.execute(tampering)
        return compare(move, of)

    monkeypatch.setattr(Move, "_compare", tampered)
    one_line(copy(), 1, f"{table} {row} differs: ", "rows with checksum", "--undo")
    one_line(run_on(command, monkeypatch, target), 2, "still being copied")


def test_what_postgresql_keeps_otherwise_is_the_same_all_the_same(queue, copy, target):
    queue.add("a", metadata='{"b" : 1.50, "a": [1e2, -0, "\\u00e9 \U0001f600", null, true], "c": 1e-5, "c": {}}')
    queue.add("b", not_before="2027-01-15T08:00:00+02:00", metadata='"\\\\u0000"')
    queue.add("c", not_before="2460000.5", body='{"prompt": "\\u0000"}', prompt="tab\t, \\N, \r\n and \u2028")
    said = copy()
    assert said.code == 0, said.err
    assert theirs(target, "SELECT not_before FROM prompts ORDER BY id") == [
        (None,), ("2027-01-15 06:00:00.000",), ("2023-02-25 00:00:00.000",)
    ]  # fmt: skip
    assert theirs(target, "SELECT prompt FROM prompts WHERE custom_id = 'c'") == [("tab\t, \\N, \r\n and \u2028",)]


# ---------------------------------------------------------------- what PostgreSQL cannot store


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt": "a\0b"}, "prompts 2: prompt holds a NUL"),
        ({"system": b"\xff"}, "prompts 2: system holds a NUL or is no UTF-8"),
        ({"not_before": "soon"}, "prompts 2: not_before is no time"),
        ({"metadata": "{"}, "prompts 2: metadata is no JSON"),
        ({"metadata": "[1e999999999]"}, "prompts 2: metadata is no JSON"),
        ({"metadata": "[NaN]"}, "prompts 2: metadata is no JSON"),
        ({"metadata": '"\\ud800"'}, "prompts 2: metadata is no JSON"),
    ],
)
def test_a_row_that_would_be_another_is_named_before_anything_moves(queue, copy, target, columns, words):
    queue.add("a")
    ((name, value),) = columns.items()
    marks = "CAST(? AS TEXT)"
    extra = "" if name == "prompt" else ", prompt"
    values = (value,) if name == "prompt" else (value, "x")
    queue.sql(f"INSERT INTO prompts ({name}{extra}) VALUES ({', '.join([marks] * len(values))})", *values)
    one_line(copy(), 1, words, "correct it")
    assert queue.sql("SELECT moved_to FROM queue_state") == [{"moved_to": None}]
    queue.sql("DELETE FROM prompts WHERE id = 2")
    assert copy().code == 0


def test_what_only_postgresql_refuses_is_named_with_the_way_back(queue, copy, target):
    queue.add("a")
    queue.add("b", metadata='{"x": "\\u0000"}')
    one_line(copy(), 1, "prompts 2: metadata: unsupported Unicode escape sequence", "--undo")


def test_a_nul_in_what_has_ended_is_replaced_and_counted(queue, copy, target):
    queue.add("a", prompt="a\0b")
    queue.end("a", answer="x\0y", error_message="z\0", raw=b"\0\xff")
    said = copy()
    assert said.code == 0, said.err
    assert "prompts: 1 rows" in said.out
    assert "1 values with a NUL or no UTF-8 hold U+FFFD" in said.out
    assert theirs(target, "SELECT prompt FROM prompts") == [("a\ufffdb",)]
    assert theirs(target, "SELECT answer, error_message, raw FROM replies") == [("x\ufffdy", "z\ufffd", b"\0\xff")]


# ---------------------------------------------------------------- wrong addresses


@pytest.mark.parametrize(
    ("source", "where", "words"),
    [
        ("postgresql://a@b/c", "postgresql://a@b/c", "--from: must begin with sqlite:///"),
        (SOURCE, SOURCE, "--to: must begin with postgresql://"),
        ("mysql://x", "postgresql://a@b/c", "--from"),
    ],
)
def test_a_wrong_address_is_one_line(command, source, where, words):
    one_line(command("copy", "--from", source, "--to", where), 2, words)


def test_nothing_there_is_one_line_and_no_password(command, full):
    one_line(command("copy", "--from", "sqlite:///none.db", "--to", "postgresql://a@b/c"), 1, "does not exist")
    said = command("copy", "--from", SOURCE, "--to", "postgresql://me:hush@127.0.0.1:1/queue")
    one_line(said, 1, "127.0.0.1:1/queue")
    assert "hush" not in said.err


def test_a_password_is_written_nowhere(full, command, target):
    given = target.replace("orchestrator@", "orchestrator:hush@")
    said = command("copy", "--from", SOURCE, "--to", f"{given}&password=hush")
    assert said.code == 0, said.err
    assert "hush" not in said.out + json.dumps(ours("SELECT * FROM queue_state"))
    assert "hush" not in json.dumps(ours("SELECT sql FROM sqlite_master"))
    assert ours("SELECT moved_to FROM queue_state") == [(moving.shown_address(target),)]
