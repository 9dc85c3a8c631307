"""An interrupted `enqueue` is gone on with: what is missing is stored, and nothing twice."""

import json
import os
import signal
import time

import pytest

DEADLINE_SECONDS = 60
LINES = 20_000


def text(at):
    """Every prompt comes three times, so that only its place tells it from the others."""
    return f"Why {at // 3}?"


def row(at, **columns):
    return json.dumps({"prompt": text(at), **columns})


def names(at):
    return {"custom_id": f"q-{at}"} if at % 7 else {}


KINDS = {
    "rows": ("a.jsonl", [], [row(at) for at in range(LINES)]),
    "some with custom_ids": ("a.jsonl", [], [row(at, **names(at)) for at in range(LINES)]),
    "csv": ("a.csv", [], ["prompt,tag", *(f'"{text(at)}",t' for at in range(LINES))]),
}


def count(queue):
    return queue.sql("SELECT count(*) AS n FROM prompts")[0]["n"]


def kill_once_beyond(running, queue, stored):
    """kill -9 as soon as there are more prompts than that."""
    end = time.monotonic() + DEADLINE_SECONDS
    while count(queue) <= stored:
        assert running.poll() is None
        assert time.monotonic() < end
    running.kill()
    assert running.wait(timeout=DEADLINE_SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize("kind", KINDS)
def test_after_kill_9_each_line_is_stored_exactly_once(kind, command, process, queue, write):
    name, options, lines = KINDS[kind]
    words = ("enqueue", write(name, "\n".join(lines) + "\n"), *options, "--model", "m")
    kill_once_beyond(process(*words), queue, 0)
    first = count(queue)
    kill_once_beyond(process(*words, "--resume"), queue, first)
    second = count(queue)
    assert 0 < first < second < LINES
    said = command(*words, "--resume", "--json")
    assert (said.code, said.json) == (0, {"enqueued": LINES - second, "skipped": second, "bad_lines": 0, "files": 1})
    assert [each["prompt"] for each in queue.prompts()] == [text(at) for at in range(LINES)]


def test_standard_input_is_gone_on_with_too(command, process, queue):
    feed = b"".join(b'{"prompt": "Why?"}\n' for _ in range(1500))
    reading, writing = os.pipe()
    running = process("enqueue", "-", "--model", "m", stdin=reading)
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        pipe.write(feed)
        kill_once_beyond(running, queue, 999)
    said = command("enqueue", "-", "--model", "m", "--resume", stdin=feed)
    assert (said.code, said.err) == (0, "note: stdin: goes on after line 1000\n")
    assert said.out == "500 prompts enqueued, 1000 skipped as duplicates, 0 bad lines, from 1 file\n"
    assert count(queue) == 1500


@pytest.fixture
def broken_off(command, queue, write):
    """A file of five lines of which three were stored."""
    write("a.txt", "one\ntwo\ntwo\n")
    assert command("enqueue", "--lines", "a.txt", "--model", "m").code == 0
    write("a.txt", "one\ntwo\ntwo\ntwo\nfive\n")
    return queue


def resumed(command, *words):
    return command("enqueue", "--lines", "a.txt", "--model", "m", "--resume", *words)


def prompts(queue):
    return [each["prompt"] for each in queue.prompts()]


def test_it_is_told_where_a_run_goes_on(command, broken_off):
    said = resumed(command)
    assert said.err == "note: a.txt: goes on after line 3\n"
    assert said.out == "2 prompts enqueued, 3 skipped as duplicates, 0 bad lines, from 1 file\n"
    assert prompts(broken_off) == ["one", "two", "two", "two", "five"]


def test_nothing_is_left_to_resume_of_a_file_that_is_stored(command, broken_off):
    resumed(command)
    assert resumed(command).out == "0 prompts enqueued, 5 skipped as duplicates, 0 bad lines, from 1 file\n"
    assert len(prompts(broken_off)) == 5


def test_a_file_goes_in_again_without_resume_and_that_is_told(command, broken_off):
    said = command("enqueue", "--lines", "a.txt", "--model", "m")
    assert said.code == 0
    assert said.err.startswith("note: a.txt: was enqueued before, up to line 3 (")
    assert said.err.count("\n") == 1
    assert len(prompts(broken_off)) == 8


def test_the_newest_run_is_gone_on_with(command, broken_off, write):
    write("a.txt", "one\ntwo\n")
    command("enqueue", "--lines", "a.txt", "--model", "m")
    write("a.txt", "one\ntwo\ntwo\n")
    resumed(command)
    assert sorted(prompts(broken_off)) == ["one"] * 2 + ["two"] * 4


@pytest.mark.parametrize("now", ["one\nTWO\ntwo\ntwo\n", "one\ntwo\n", "new\none\ntwo\ntwo\ntwo\n", ""])
def test_a_file_that_was_changed_above_is_refused_and_nothing_stored(command, broken_off, write, now):
    write("a.txt", now)
    said = resumed(command)
    assert (said.code, said.out) == (1, "")
    assert "is not what was enqueued up to line 3: undo the changes above that line" in said.err
    assert len(prompts(broken_off)) == 3


@pytest.mark.parametrize("words", [("--lines", "--template", "Say {line}"), ("--csv", "--template", "{one}")])
def test_a_file_that_is_read_in_another_way_is_refused_and_that_is_told(command, broken_off, words):
    said = command("enqueue", "a.txt", *words, "--model", "m", "--resume")
    assert (said.code, said.out) == (1, "")
    assert "give the --template, --lines or --csv of that run" in said.err
    assert len(prompts(broken_off)) == 3


def test_a_csv_file_that_is_refused_leaves_no_traceback(command, process, queue, write):
    write("a.csv", "prompt,model\none,m\n")
    assert command("enqueue", "a.csv").code == 0
    write("a.csv", "prompt,model\nONE,m\n")
    _out, err = process("enqueue", "a.csv", "--resume").communicate(timeout=DEADLINE_SECONDS)
    assert [line.partition(b": ")[0] for line in err.splitlines()] == [b"note", b"orchestrator"]


def test_what_was_deleted_since_is_not_stored_again(command, broken_off):
    broken_off.sql("DELETE FROM prompts WHERE prompt = 'one'")
    resumed(command)
    assert prompts(broken_off) == ["two", "two", "two", "five"]


def test_options_of_a_later_run_are_those_of_what_it_stores(command, broken_off):
    resumed(command, "--tag", "late")
    assert [each["tag"] for each in broken_off.prompts()] == [None, None, None, "late", "late"]


def test_a_run_that_goes_on_names_as_before_so_that_two_at_once_store_no_line_twice(command, broken_off):
    resumed(command)
    assert len({each["custom_id"].split("-")[2] for each in broken_off.prompts()}) == 1


def test_a_file_is_known_however_its_path_is_written(command, broken_off, folder):
    said = command("enqueue", "--lines", f"../{folder.name}/a.txt", "--model", "m", "--resume")
    assert "2 prompts enqueued, 3 skipped" in said.out


def test_a_file_not_known_goes_in_whole_and_that_is_told(command, broken_off, folder):
    (folder / "a.txt").rename(folder / "b.txt")
    said = command("enqueue", "--lines", "b.txt", "--model", "m", "--resume")
    assert said.err.startswith("note: b.txt: no earlier run is known by this path")
    assert len(prompts(broken_off)) == 8


def test_bad_lines_that_were_passed_are_told_again(command, queue, write):
    write("a.jsonl", '{"prompt": "a"}\nbad\n{"prompt": "b"}\n')
    command("enqueue", "a.jsonl", "--model", "m")
    said = command("enqueue", "a.jsonl", "--model", "m", "--resume")
    assert said.code == 1
    assert "a.jsonl:2: not valid JSON" in said.err
    assert "note: the good lines are stored" in said.err
    assert said.out == "0 prompts enqueued, 2 skipped as duplicates, 1 bad line, from 1 file\n"


def test_files_of_the_same_content_stay_two(command, queue, write):
    words = ("enqueue", "--lines", write("a.txt", "one\n"), write("b.txt", "one\n"), "--model", "m")
    command(*words)
    assert command(*words, "--resume").out.startswith("0 prompts enqueued, 2 skipped")
    assert prompts(queue) == ["one", "one"]


def test_how_far_a_run_came_is_one_look_into_an_index(queue):
    steps = queue.sql(
        "EXPLAIN QUERY PLAN SELECT max(custom_id) FROM prompts WHERE custom_id >= 'a' AND custom_id < 'b'"
    )
    assert [step["detail"] for step in steps] == [
        "SEARCH prompts USING COVERING INDEX sqlite_autoindex_prompts_1 (custom_id>? AND custom_id<?)"
    ]
