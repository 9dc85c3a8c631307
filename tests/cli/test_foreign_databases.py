"""A database that is not ours, or not of our time, is refused in one line; an empty file is a new queue."""

import contextlib
import sqlite3

import pytest

MAKING = (("migrate",), ("enqueue", "--prompt", "Why?"), ("run", "--until-idle"))
READING = (("status",), ("results",), ("failures",), ("batches",), ("retry", "--all"), ("cancel", "--all"))
QUEUE = "orchestrator.db"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "any")


def sql(statement):
    with contextlib.closing(sqlite3.connect(QUEUE)) as connection:
        connection.execute(statement)
        connection.commit()


def refused(said, code, *words):
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("orchestrator: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err


@pytest.mark.parametrize("words", MAKING + READING, ids=lambda words: words[0])
def test_a_database_of_a_newer_version_is_refused_in_one_line(command, queue, words):
    sql("UPDATE alembic_version SET version_num = '9999'")
    refused(command(*words), 2, "revision 9999", "install a newer orchestrator")


@pytest.mark.parametrize("words", MAKING, ids=lambda words: words[0])
def test_a_queue_without_its_revision_is_refused_and_left_as_it_is(command, queue, words):
    sql("DELETE FROM alembic_version")
    before = queue.sql("SELECT name, sql FROM sqlite_master")
    refused(command(*words), 2, QUEUE, "has a table batch_states but no revision", "restore a backup")
    assert queue.sql("SELECT name, sql FROM sqlite_master") == before


@pytest.mark.parametrize("words", MAKING, ids=lambda words: words[0])
def test_a_table_of_another_program_gets_no_triggers_of_ours(command, words):
    sql("CREATE TABLE prompts (mine TEXT)")
    refused(command(*words), 2, "has a table prompts but no revision", "name another file in database.url")
    with contextlib.closing(sqlite3.connect(QUEUE)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("prompts",)]


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
@pytest.mark.parametrize("words", MAKING + READING, ids=lambda words: words[0])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(command, folder, words, content):
    (folder / QUEUE).write_bytes(content)
    refused(command(*words), 1, QUEUE, "check database.url, or restore a backup")
    assert (folder / QUEUE).read_bytes() == content


@pytest.mark.parametrize("words", MAKING, ids=lambda words: words[0])
def test_an_empty_file_becomes_a_new_queue(command, folder, words):
    (folder / QUEUE).touch()
    assert command(*words).code in (0, 3)
    assert command("migrate", "--check").code == 0
    assert command("migrate", "--json").json["before"] == command("migrate", "--json").json["after"] is not None


@pytest.mark.parametrize("words", READING, ids=lambda words: words[0])
def test_reading_from_an_empty_file_asks_for_a_migration(command, folder, words):
    (folder / QUEUE).touch()
    refused(command(*words), 2, "run `orchestrator migrate`")


@pytest.mark.parametrize("words", MAKING + READING, ids=lambda words: words[0])
def test_a_folder_in_place_of_the_database_is_refused_in_one_line(command, folder, words):
    (folder / QUEUE).mkdir()
    refused(command(*words), 1, QUEUE, "check")
