import json
import os
import re
import resource
import signal
import subprocess
import sys

import pytest

from orchestrator.cli.enqueue import Interruption
from orchestrator.errors import InputError
from orchestrator.intake.formats import Entry
from orchestrator.intake.storing import chunks

MEASURED = """
import pathlib, sys
from orchestrator.cli import main
try:
    main()
except SystemExit:
    print([line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line][0])
"""
CLOSING = "{} enqueued, {} skipped as duplicates, {}, from {}\n"


def rows(count, **columns):
    return "".join(
        json.dumps({"custom_id": f"q-{at}", "prompt": f"Why {at}?", **columns}) + "\n" for at in range(count)
    )


def test_the_database_is_made_when_it_is_missing(command, folder, write):
    said = command("enqueue", write("a.jsonl", '{"prompt": "Why?", "model": "m"}\n'))
    assert (said.code, said.out, said.err) == (
        0,
        "1 prompt enqueued, 0 skipped as duplicates, 0 bad lines, from 1 file\n",
        "",
    )
    assert (folder / "orchestrator.db").stat().st_mode & 0o777 == 0o600


def test_rows_reach_the_columns_of_their_names(command, queue, write):
    row = {
        "custom_id": "c",
        "prompt": "p\u2028\u0000",
        "system": "s",
        "body": {"temperature": 0},
        "model": "m",
        "endpoint": "/v1/responses",
        "completion_window": "1h",
        "provider": "openai",
        "priority": 3,
        "not_before": "2026-01-31 18:00:00",
        "tag": "t",
        "metadata": {"k": 1},
    }
    assert command("enqueue", write("a.jsonl", json.dumps(row))).code == 0
    (stored,) = queue.prompts()
    json_columns = {"body": '{"temperature":0}', "metadata": '{"k":1}'}
    told = {name: stored[name].replace(": ", ":") if name in json_columns else stored[name] for name in row}
    assert told == row | json_columns
    assert queue.statuses() == {"c": "queued"}


def test_the_body_of_a_batch_line_is_stored_byte_for_byte(command, queue, write):
    body = '{"model": "m",  "input": "\u00e9\\u00e9", "n": 1.50, "big": 12345678901234567890123}'
    line = f'{{"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {body}}}\n'
    assert command("enqueue", write("a.jsonl", line)).code == 0
    (stored,) = queue.prompts()
    assert (stored["body"], stored["endpoint"]) == (body, "/v1/embeddings")


def test_rows_without_custom_id_are_named_by_their_line_and_without_endpoint_go_where_the_settings_say(
    command, queue, write
):
    command("enqueue", write("a.jsonl", '{"prompt": "a", "model": "m"}\n{"prompt": "b", "model": "m"}\n'))
    stored = queue.prompts()
    assert [int(row["custom_id"].split("-")[3]) for row in stored] == [1, 2]
    assert all(re.fullmatch(r"e-[0-9a-f]{8}-[0-9a-f]{15}-[0-9]{10}-[0-9a-f]{12}", row["custom_id"]) for row in stored)
    assert [row["endpoint"] for row in stored] == [None, None]
    assert [row["priority"] for row in stored] == [0, 0]


def test_good_lines_go_in_and_every_bad_one_is_told_with_file_and_line(command, queue, write):
    write("a.jsonl", '{"prompt": "a", "model": "m"}\n\nnonsense\n{"custom_id": "b", "promt": 1}\n')
    write("b.jsonl", '{"tag": "x"}\n{"prompt": "b", "model": "m"}\n')
    said = command("enqueue", "a.jsonl", "b.jsonl")
    assert said.code == 1
    told = [line.partition(": ")[0] for line in said.err.splitlines()]
    assert told == ["a.jsonl:3", "a.jsonl:4", "b.jsonl:1", "note"]
    assert said.out == CLOSING.format("2 prompts", 0, "3 bad lines", "2 files")
    assert [row["prompt"] for row in queue.prompts()] == ["a", "b"]


NOTE = (
    "note: the good lines are stored: put the corrected ones into a file of their own, "
    "or the good ones are stored and paid twice"
)


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_after_bad_lines_the_way_on_that_pays_nothing_twice_is_told_once(command, queue, write, words):
    write("a.jsonl", "bad\n" * 30 + '{"prompt": "a", "model": "m"}\n')
    said = command("enqueue", "a.jsonl", write("b.jsonl", "bad\n"), *words)
    assert (said.err.splitlines()[-1], said.err.count("note")) == (NOTE, 1)


@pytest.mark.parametrize("content", ["bad\n", '{"prompt": "a", "model": "m"}\n'])
def test_where_nothing_or_all_is_stored_no_way_on_is_told(command, queue, write, content):
    assert "note" not in command("enqueue", write("a.jsonl", content)).err


def test_after_twenty_bad_lines_the_others_are_only_counted(command, queue, write):
    said = command("enqueue", write("a.jsonl", "x\n" * 1500 + '{"prompt": "a", "model": "m"}\n'))
    lines = said.err.splitlines()
    assert len(lines) == 22
    assert lines[20] == "… and 1480 more bad lines"
    assert said.out == CLOSING.format("1 prompt", 0, "1500 bad lines", "1 file")


def test_a_taken_custom_id_is_a_bad_line(command, queue, write):
    queue.add("q-1")
    said = command("enqueue", write("a.jsonl", rows(3, model="m") + rows(1, model="m")))
    assert said.code == 1
    assert 'a.jsonl:2: custom_id "q-1" exists already' in said.err
    assert 'a.jsonl:4: custom_id "q-0" exists already' in said.err
    assert said.out == CLOSING.format("2 prompts", 0, "2 bad lines", "1 file")
    assert len(queue.prompts()) == 3


def test_a_taken_custom_id_is_passed_over_when_asked(command, queue, write):
    queue.add("q-1", prompt="first")
    said = command("enqueue", "--on-conflict", "skip", write("a.jsonl", rows(3, model="m") + rows(1, model="m")))
    assert (said.code, said.err) == (0, "")
    assert said.out == CLOSING.format("2 prompts", 2, "0 bad lines", "1 file")
    assert [row["prompt"] for row in queue.prompts()] == ["first", "Why 0?", "Why 2?"]


def test_the_same_file_twice_with_skip_adds_nothing(command, queue, write):
    write("a.jsonl", rows(2500, model="m"))
    assert command("enqueue", "a.jsonl").code == 0
    said = command("enqueue", "a.jsonl", "--on-conflict", "skip")
    assert said.out == CLOSING.format("0 prompts", 2500, "0 bad lines", "1 file")
    assert [row["custom_id"] for row in queue.prompts()] == [f"q-{at}" for at in range(2500)]


def test_options_win_over_what_the_lines_say(command, queue, write):
    write("a.jsonl", '{"prompt": "a", "model": "old", "tag": "old", "priority": 1, "provider": "doubleword"}\n')
    options = {
        "model": "new",
        "tag": "t",
        "window": "1h",
        "priority": "-5",
        "provider": "openai",
        "endpoint": "/v1/responses",
    }
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    assert command("enqueue", "a.jsonl", *given).code == 0
    (stored,) = queue.prompts()
    columns = ("model", "tag", "completion_window", "priority", "provider", "endpoint")
    assert [stored[name] for name in columns] == ["new", "t", "1h", -5, "openai", "/v1/responses"]


def test_standard_input_is_a_file_too(command, queue):
    said = command("enqueue", "-", "--model", "m", stdin=b'{"prompt": "a"}\nbad\n')
    assert said.err.startswith("stdin:2: not valid JSON")
    assert said.out == CLOSING.format("1 prompt", 0, "1 bad line", "1 file")


def test_lines_of_text_are_prompts(command, queue, write):
    said = command("enqueue", "--lines", "--model", "m", write("a.txt", b'one\r\n\n {"two": 2}\n\xff\nlast'))
    assert "a.txt:4: not UTF-8" in said.err
    assert [row["prompt"] for row in queue.prompts()] == ["one", ' {"two": 2}', "last"]


def test_lines_may_fill_a_template(command, queue, write):
    command("enqueue", "--lines", "--model", "m", "--template", "Say {line}!", write("a.txt", "hi\n"))
    assert [row["prompt"] for row in queue.prompts()] == ["Say hi!"]


def test_a_template_takes_rows_with_fields_of_their_own(command, queue, write):
    write("a.jsonl", '{"question": "Why?", "url": "u", "body": "b", "custom_id": "c"}\n{"other": 1}\n')
    said = command("enqueue", "a.jsonl", "--template", "{question} {{}}", "--model", "m")
    assert 'a.jsonl:2: field "question" of the template is missing' in said.err
    assert [(row["custom_id"], row["prompt"], row["body"]) for row in queue.prompts()] == [("c", "Why? {}", None)]


def test_csv_is_known_by_its_name_or_by_an_option(command, queue, write):
    command("enqueue", write("a.CSV", "prompt,model\none,m\n"))
    command("enqueue", "--csv", "-", stdin=b"prompt,model\ntwo,m\n")
    assert [row["prompt"] for row in queue.prompts()] == ["one", "two"]


def test_one_prompt_needs_no_file(command, queue):
    said = command("enqueue", "--prompt", "Why {not}?", "--model", "m")
    assert said.out == CLOSING.format("1 prompt", 0, "0 bad lines", "0 files")
    assert queue.prompts()[0]["prompt"] == "Why {not}?"


def test_json_is_one_object_of_the_totals(command, queue, write):
    queue.add("q-0")
    said = command("enqueue", write("a.jsonl", rows(2, model="m") + "bad\n"), "--on-conflict", "skip", "--json")
    assert said.json == {"enqueued": 1, "skipped": 1, "bad_lines": 1, "files": 1}
    assert said.code == 1


def test_prompts_that_no_model_is_known_for_are_noted(command, queue, folder, write):
    write("a.jsonl", '{"prompt": "a"}\n{"body": {"model": "m", "messages": []}}\n')
    said = command("enqueue", "a.jsonl")
    assert said.code == 0
    assert said.err.startswith("note: 1 prompt without a model will fail as invalid: pass --model")
    (folder / "orchestrator.toml").write_text('[defaults]\nmodel = "m"\n')
    assert "model" not in command("enqueue", "a.jsonl").err


def test_a_transaction_takes_a_thousand_rows_or_eight_megabytes():
    def sizes(nbytes, count):
        return [len(chunk) for chunk in chunks(Entry("f", at, None, "", nbytes) for at in range(count))]

    assert sizes(100, 2500) == [1000, 1000, 500]
    assert sizes(3 << 20, 7) == [3, 3, 1]
    assert sizes(20 << 20, 2) == [1, 1]
    assert sizes(100, 0) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give either files"),
        (("a.jsonl", "--prompt", "x"), "give either files"),
        (("missing.jsonl",), "does not exist"),
        ((".",), "is a directory"),
        (("--prompt", "x", "--lines"), "leave them out beside --prompt"),
        (("--prompt", "x", "--template", "{a}"), "leave them out beside --prompt"),
        (("--prompt", "x", "--resume"), "leave them out beside --prompt"),
        (("a.jsonl", "--lines", "--csv"), "leave one out"),
        (("a.jsonl", "--template", "none"), "it has no field"),
        (("a.jsonl", "--template", "{"), "write {field}"),
        (("a.jsonl", "--lines", "--template", "{text}"), "its one field is {line}"),
        (("a.jsonl", "--provider", "nope"), "--provider 'nope' is offered by no provider: use doubleword, openai"),
        (("a.jsonl", "--window", "2h"), "--window '2h' is offered by no provider"),
        (("a.jsonl", "--endpoint", "/v1/nope"), "--endpoint '/v1/nope' is offered by no provider"),
        (("a.jsonl", "--priority", "9223372036854775808"), "--priority"),
        (("--prompt", "\udcff"), "not UTF-8 text"),
    ],
)
def test_wrong_usage_is_one_line_with_exit_code_2_and_stores_nothing(command, queue, write, words, told):
    write("a.jsonl", rows(1))
    said = command("enqueue", *words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("orchestrator: ")
    assert said.err.count("\n") == 1
    assert told in said.err
    assert queue.prompts() == []


def test_a_table_with_rules_of_its_own_refuses_in_one_line(command, queue, write):
    queue.sql("CREATE TRIGGER mine BEFORE INSERT ON prompts WHEN NEW.tag = 'no' BEGIN SELECT RAISE(ABORT, 'mine'); END")
    said = command("enqueue", write("a.jsonl", rows(1000, model="m") + '{"prompt": "a", "tag": "no", "model": "m"}\n'))
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "the table prompts refuses a row: mine" in said.err
    assert "1000 prompts are stored, all up to a.jsonl:1000; run it again with --resume to go on" in said.err
    assert len(queue.prompts()) == 1000


def test_a_full_disk_says_how_many_are_stored_and_how_to_go_on(process, queue, write):
    write("a.jsonl", rows(30_000, system="x" * 500, model="m"))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))

    running = process("enqueue", "a.jsonl", preexec_fn=limit)
    _out, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert err.count(b"\n") == 1
    stored = len(queue.prompts())
    assert 0 < stored < 30_000
    assert f"{stored} prompts are stored, all up to a.jsonl:{stored}; ".encode() in err
    assert b"run it again with --resume to go on" in err


def interrupted(process, queue, feed):
    """Feed a command through a pipe and interrupt it once a thousand rows are stored and it waits for more."""
    reading, writing = os.pipe()
    running = process("enqueue", "-", "--model", "m", stdin=reading)
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        pipe.write(feed)
        while len(queue.prompts()) < 1000:
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _out, err = running.communicate(timeout=30)
    return running.returncode, err.decode()


def test_an_interruption_while_reading_says_how_many_are_stored_and_how_to_go_on(process, queue):
    code, err = interrupted(process, queue, rows(1500).encode())
    assert (code, len(queue.prompts())) == (1, 1000)
    assert err == (
        "orchestrator: interrupted; 1000 prompts are stored, all up to stdin:1000; "
        "run it again with --resume to go on\n"
    )


def test_an_interruption_between_reads_is_kept_until_the_next_read():
    given = iter([["first"], ["second"]])
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        guarded = interruption.guarded(given)
        assert next(guarded) == ["first"]
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(InputError, match="interrupted"):
            next(guarded)
    assert next(given) == ["second"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interruption_waits_for_nothing():
    with Interruption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_memory_stays_flat_over_a_long_file(folder, queue):
    with (folder / "a.jsonl").open("w") as file:
        for at in range(30_000):
            file.write(json.dumps({"custom_id": f"q-{at}", "prompt": "x" * 2000, "model": "m"}) + "\n")
    out = subprocess.run((sys.executable, "-c", MEASURED, "enqueue", "a.jsonl"), capture_output=True, check=True).stdout
    assert out.startswith(b"30000 prompts enqueued")
    assert int(out.split()[-2]) < 120_000


def test_a_bar_is_drawn_on_a_terminal(on_terminal, queue, write):
    write("a.jsonl", rows(3_000, model="m") + "bad\n")
    said = on_terminal("enqueue", "a.jsonl", streams=("stderr",), impatient=True)
    assert said.err.startswith("3000 prompts enqueued")
    assert "━" in said.out
    assert re.search(r"\d+%", said.out)
    assert "a.jsonl:3001: not valid JSON" in said.out


def test_no_bar_is_drawn_before_it_takes_long(on_terminal, queue, write):
    write("a.jsonl", rows(10, model="m"))
    assert on_terminal("enqueue", "a.jsonl", streams=("stderr",)).out == ""


def test_no_bar_is_drawn_in_a_pipe(process, queue, write):
    write("a.jsonl", rows(3_000, model="m"))
    _out, err = process("enqueue", "a.jsonl", impatient=True).communicate(timeout=60)
    assert err == b""
