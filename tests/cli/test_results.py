import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "orchestrator")

RESULT_NAMES = [
    "id",
    "custom_id",
    "tag",
    "status",
    "answer",
    "response",
    "finish_reason",
    "status_code",
    "fault",
    "error_code",
    "error_message",
    "attempts",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "batch_id",
    "created_at",
    "finished_at",
    "metadata",
]
BODY = '{"id": "r-1",  "choices": [{"message": {"content": "h\u00e9\\u00e9"}}], "n": 1.50}'


@pytest.fixture
def answered(queue):
    """One prompt of each end, and one that waits."""
    queue.add("done-1", tag="a", metadata='{"k":  1.0}')
    queue.end(
        "done-1", answer="h\u00e9", response=BODY, status_code=200, finish_reason="stop", prompt_tokens=3, model="m"
    )
    queue.add("failed-1", tag="b")
    queue.end("failed-1", "failed", fault="invalid", error_code="bad", error_message="no such thing", status_code=400)
    queue.add("waiting-1", tag="a")
    queue.add("cancelled-1", tag="a")
    queue.sql("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = 4")
    return queue


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def ids(said):
    return [each["custom_id"] for each in objects(said.out)]


def test_every_prompt_is_one_object_with_the_columns_of_the_view(command, answered):
    said = command("results")
    assert (said.code, said.err) == (0, "")
    assert ids(said) == ["done-1", "failed-1", "waiting-1", "cancelled-1"]
    view = answered.sql("SELECT * FROM results ORDER BY id")
    for printed, row in zip(objects(said.out), view, strict=True):
        embedded = {name: row[name] and json.loads(row[name]) for name in ("response", "metadata")}
        assert printed == row | embedded
        assert list(printed) == list(row) == RESULT_NAMES


def test_response_and_metadata_are_embedded_byte_for_byte(command, answered):
    line = command("results").out.splitlines()[0]
    assert f'"response":{BODY}' in line
    assert '"metadata":{"k":  1.0}' in line


def test_json_over_several_lines_is_put_on_one(command, queue):
    queue.add("a", metadata='{\r\n "k":\n 1\n}')
    said = command("results")
    assert said.out.count("\n") == 1
    assert objects(said.out)[0]["metadata"] == {"k": 1}


@pytest.mark.parametrize("metadata", ["none of it", '{"a": NaN}', '{"a": 1', '{"a": "\\ud800"}'])
def test_metadata_that_is_no_json_comes_as_a_string(command, queue, metadata):
    queue.add("a", metadata=metadata)
    assert objects(command("results").out)[0]["metadata"] == metadata


def test_bytes_that_are_no_utf8_stop_nothing(command, queue):
    for column in ("tag", "metadata", "model", "created_at"):
        queue.sql(
            f"INSERT INTO prompts (custom_id, prompt, {column}) VALUES ('{column}', 'p', CAST(x'61ff62' AS TEXT))"
        )
    for form in ("jsonl", "csv", "openai"):
        assert command("results", "--format", form).code == 0
    printed = {each["custom_id"]: each for each in objects(command("results").out)}
    assert all(printed[column][column] == "a\ufffdb" for column in printed)


def test_tag_and_status_choose(command, answered):
    assert ids(command("results", "--tag", "a")) == ["done-1", "waiting-1", "cancelled-1"]
    assert ids(command("results", "--status", "done", "--status", "failed")) == ["done-1", "failed-1"]
    assert ids(command("results", "--tag", "a", "--status", "queued")) == ["waiting-1"]
    assert ids(command("results", "--tag", "none")) == []


def test_that_there_is_nothing_of_what_was_asked_for_is_said_on_stderr(command, answered):
    for words, told in {
        ("--tag", "typo"): "typo: no prompt has this tag",
        ("--tag", "b", "--status", "done"): "no results for --tag b --status done",
        ("--status", "batched", "--status", "queued", "--tag", "b"): (
            "no results for --tag b --status batched --status queued"
        ),
        ("--format", "openai", "--status", "queued"): "no results for --status queued --format openai",
    }.items():
        said = command("results", *words)
        assert (said.code, said.out, said.err) == (0, "", f"{told}\n")
    assert (
        command("results", "--tag", "typo", "-o", "out").err
        == "typo: no prompt has this tag\n0 results written to out\n"
    )


def test_csv_has_a_header_and_the_same_columns(command, answered):
    said = command("results", "--format", "csv")
    records = list(csv.DictReader(io.StringIO(said.out)))
    assert said.out.partition("\n")[0].split(",") == RESULT_NAMES
    assert [record["custom_id"] for record in records] == ["done-1", "failed-1", "waiting-1", "cancelled-1"]
    assert (records[0]["response"], records[0]["answer"], records[0]["error_code"]) == (BODY, "h\u00e9", "")


def test_csv_is_read_back_as_it_was_whatever_ends_a_line(command, queue):
    text = 'a\rb\nc\r\nd,"e"'
    queue.add("q-1", tag=text)
    queue.end("q-1", answer=text)
    said = subprocess.run([*PROGRAM, "results", "--format", "csv"], capture_output=True, check=True)
    _, row = csv.reader(io.StringIO(said.stdout.decode(), newline=""))
    assert (row[2], row[4]) == (text, text)


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_results_are_never_written_over_the_queue(command, answered, end):
    said = command("results", "-o", f"./orchestrator.db{end}")
    assert said.code != 0
    assert "is the queue itself" in said.err
    assert len(ids(command("results"))) > 0


def test_a_file_of_the_users_that_is_named_like_a_part_is_left(command, answered, folder):
    (folder / "out.jsonl.part").write_text("precious")
    assert command("results", "-o", "out.jsonl").code == 0
    assert (folder / "out.jsonl.part").read_text() == "precious"


def test_openai_lines_are_those_of_a_provider(command, answered):
    done, failed = objects(command("results", "--format", "openai").out)
    assert list(done) == ["id", "custom_id", "response", "error"]
    assert done["custom_id"] == "done-1"
    assert done["response"] == {"status_code": 200, "request_id": None, "body": json.loads(BODY)}
    assert done["error"] is None
    assert failed["response"] is None
    assert failed["error"] == {"code": "bad", "message": "no such thing"}


def test_openai_files_are_two(command, answered, folder):
    said = command("results", "--format", "openai", "-o", "out.jsonl")
    assert said.out == ""
    assert said.err == "1 results written to out.jsonl, 1 errors to out-errors.jsonl\n"
    assert [each["custom_id"] for each in objects((folder / "out.jsonl").read_text())] == ["done-1"]
    assert [each["custom_id"] for each in objects((folder / "out-errors.jsonl").read_text())] == ["failed-1"]


def test_a_file_gets_what_would_be_printed(command, answered, folder):
    printed = command("results").out
    said = command("results", "-o", "out.jsonl")
    assert (said.out, said.err) == ("", "4 results written to out.jsonl\n")
    assert (folder / "out.jsonl").read_text() == printed


def test_a_file_takes_its_name_only_when_it_is_complete(command, answered, folder):
    (folder / "out.jsonl").write_text("before")
    answered.sql("DROP VIEW results")
    assert command("results", "-o", "out.jsonl").code == 1
    assert (folder / "out.jsonl").read_text() == "before"
    assert sorted(path.name for path in folder.iterdir() if "out" in path.name) == ["out.jsonl"]


def test_pages_join_without_gap_or_double(command, queue):
    count = 2345
    values = ", ".join(f"('q-{at}', 'p')" for at in range(count))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    queue.sql("DELETE FROM prompts WHERE id % 7 = 0 OR id BETWEEN 900 AND 1200")
    expected = [row["custom_id"] for row in queue.sql("SELECT custom_id FROM prompts ORDER BY id")]
    assert ids(command("results")) == expected
    assert len(expected) > 1000


def test_a_page_is_smaller_where_answers_are_large(queue):
    script = """
import pathlib
from orchestrator.cli import main
try:
    main()
except SystemExit:
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path("peak").write_text(status.partition("VmHWM:")[2].split()[0])
"""
    for at in range(200):
        queue.add(f"q-{at}")
        queue.end(f"q-{at}", answer="x" * 1_000_000)
    command = (sys.executable, "-c", script, "results", "-o", "out.jsonl")
    subprocess.run(command, check=True, capture_output=True)
    with (queue.path.parent / "out.jsonl").open() as file:
        assert sum(1 for _line in file) == 200
    assert int((queue.path.parent / "peak").read_text()) < 200_000


def test_few_results_among_many_prompts_are_read_in_short_transactions(queue, command, monkeypatch):
    monkeypatch.setattr("orchestrator.store.listing.WINDOW_ROWS", 10)
    values = ", ".join(f"('q-{at}', 'p')" for at in range(95))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    for at in (0, 9, 10, 94):
        queue.end(f"q-{at}", answer="a")
    assert ids(command("results", "--status", "done")) == ["q-0", "q-9", "q-10", "q-94"]


def test_ids_that_users_chose_may_lie_at_and_below_zero(command, queue):
    for number, prompt_id in enumerate((-(1 << 63), -1, 0, 1)):
        queue.add(f"q-{number}", id=prompt_id)
    assert ids(command("results")) == ["q-0", "q-1", "q-2", "q-3"]


def test_a_reader_that_stops_early_is_no_error(process, queue):
    values = ", ".join(f"('q-{at}', 'p')" for at in range(3000))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    running = process("results")
    running.stdout.readline()
    running.stdout.close()
    err = running.stderr.read()
    assert (running.wait(timeout=30), err) == (0, b"")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--status", "lost"), 2, "is not one of"),
        (("--format", "xml"), 2, "is not one of"),
        (("-o", "/nowhere/out"), 1, "/nowhere/out: cannot be written: No such file or directory"),
        (("-o", "."), 2, "is a directory"),
        (("--tag", "\udcff"), 2, "not UTF-8 text"),
    ],
)
def test_mistakes_are_one_line(command, queue, words, code, told):
    said = command("results", *words)
    assert (said.code, said.out) == (code, "")
    assert said.err.count("\n") == 1
    assert told in said.err


def test_a_full_disk_is_one_line(process, queue):
    queue.add("a")
    with Path("/dev/full").open("wb") as full:
        running = process("results", stdout=full)
        err = running.stderr.read()
    assert running.wait(timeout=30) == 1
    assert err == b"orchestrator: standard output: cannot be written: No space left on device\n"


def test_a_missing_database_is_one_line_and_is_not_made(command, folder):
    said = command("results")
    assert (said.code, said.out) == (1, "")
    assert "does not exist: run `orchestrator migrate`" in said.err
    assert list(folder.iterdir()) == []
