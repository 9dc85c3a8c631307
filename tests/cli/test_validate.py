import json
import re
import subprocess
import sys

import pytest


def rows(*rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def test_good_lines_are_counted_by_model_lane_and_batch(command, write):
    write(
        "a.jsonl",
        rows(
            {"prompt": "one", "model": "m"},
            {"prompt": "two", "model": "n"},
            {"prompt": "three", "model": "m", "completion_window": "1h"},
        ),
    )
    said = command("validate", "a.jsonl", "--json")
    assert (said.code, said.err) == (0, "")
    told = said.json
    assert [told[name] for name in ("files", "lines", "prompts", "bad_lines", "batches")] == [1, 3, 3, 0, 2]
    assert told["models"] == [{"model": "m", "prompts": 2}, {"model": "n", "prompts": 1}]
    assert [(lane["completion_window"], lane["prompts"], lane["model"]) for lane in told["lanes"]] == [
        ("24h", 2, None),
        ("1h", 1, "m"),
    ]
    shown = command("validate", "a.jsonl").out
    assert re.search(r"doubleword +\S+ +24h +several +2 +1\n", shown)
    assert re.search(r"doubleword +\S+ +1h +m +1 +1\n", shown)


def test_a_model_that_comes_again_after_another_is_not_the_only_one(command, write):
    write("a.jsonl", rows(*({"prompt": "x", "model": model} for model in "mnmm")))
    assert [lane["model"] for lane in command("validate", "a.jsonl", "--json").json["lanes"]] == [None]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "x"}, "no model"),
        ({"prompt": "x", "model": "m", "provider": "nobody"}, "unknown provider 'nobody'"),
        ({"prompt": "x", "model": "m", "completion_window": "7h"}, "completion_window '7h' is not offered"),
        ({"prompt": "x", "model": "m", "endpoint": "/v1/nope"}, "endpoint '/v1/nope' is not offered"),
        ({"prompt": "x", "model": "m", "not_before": "tomorrow"}, "not_before is no time"),
        ({"prompt": "x", "body": {"messages": []}, "model": "m"}, "both prompt and body.messages"),
        ({"prompt": "x" * 11_000_000, "model": "m"}, "is over the 10485760 bytes"),
        ({"prompt": "x", "custom_id": "é"}, "custom_id is not ASCII"),
        ({"prompt": "x", "colour": "red"}, 'unknown key "colour"'),
    ],
)
def test_what_would_fail_later_is_told_by_line_with_its_remedy(command, write, row, told):
    write("a.jsonl", rows({"prompt": "fine", "model": "m"}, row))
    said = command("validate", "a.jsonl")
    assert said.code == 1
    assert re.fullmatch(rf"a\.jsonl:2: [^\n]*{re.escape(told)}[^\n]*: [^\n]+\n", said.err)
    assert said.out.endswith("in 1 batch, 1 bad line, from 1 file\n")


def test_a_custom_id_that_comes_twice_is_told_with_its_first_place(command, write):
    write("a.jsonl", rows({"custom_id": "x", "prompt": "1", "model": "m"}))
    write(
        "b.jsonl",
        rows({"custom_id": "y", "prompt": "1", "model": "m"}, {"custom_id": "x", "prompt": "2", "model": "m"}),
    )
    said = command("validate", "a.jsonl", "b.jsonl")
    assert said.code == 1
    assert said.err == 'b.jsonl:2: custom_id "x" stands at a.jsonl:1 already: use another\n'


def test_every_bad_line_is_told_however_many(command, write):
    write("a.jsonl", "no JSON\n" * 500)
    said = command("validate", "a.jsonl")
    assert [line.split(" ")[0] for line in said.err.splitlines()] == [f"a.jsonl:{number}:" for number in range(1, 501)]
    assert said.out == "0 prompts of 0 bytes on the wire in 0 batches, 500 bad lines, from 1 file\n"


def test_options_win_over_lines_as_in_enqueue(command, write):
    write("a.txt", "one\ntwo\n")
    words = ("--lines", "--template", "Say {line}", "--model", "e", "--endpoint", "/v1/embeddings", "--window", "1h")
    told = command("validate", "a.txt", *words, "--provider", "doubleword", "--json").json
    assert told["lanes"] == [
        {
            "provider": "doubleword",
            "endpoint": "/v1/embeddings",
            "completion_window": "1h",
            "model": "e",
            "prompts": 2,
            "bytes": told["bytes"],
            "batches": 1,
        }
    ]


def test_csv_and_standard_input_are_read(command, write):
    write("a.csv", "prompt,model\none,m\n,m\n")
    said = command("validate", "a.csv")
    assert (said.code, said.err) == (1, "a.csv:3: neither prompt nor body: give one of them\n")
    assert command("validate", "-", "--json", stdin=b'{"prompt": "x", "model": "m"}\n').json["prompts"] == 1


def test_bytes_and_batches_are_those_that_the_daemon_makes(command, write, folder):
    write("orchestrator.toml", "[packing]\nmax_lines = 2\n")
    write("a.jsonl", rows(*({"custom_id": f"q-{at}", "prompt": "Why?", "model": "m"} for at in range(5))))
    told = command("validate", "a.jsonl", "--json").json
    line = (
        '{"custom_id":"q-0","method":"POST","url":"/v1/chat/completions",'
        '"body":{"model":"m","messages":[{"role":"user","content":"Why?"}]}}\n'
    )
    assert (told["batches"], told["bytes"]) == (3, 5 * len(line))


def test_a_batch_is_full_at_its_bytes(command, write):
    write("orchestrator.toml", "[packing]\nmax_bytes = 1000000\n")
    write("a.jsonl", rows(*({"prompt": "x" * 400_000, "model": "m"} for _ in range(5))))
    assert command("validate", "a.jsonl", "--json").json["batches"] == 3


def test_models_that_share_no_file_make_batches_of_their_own(command, write):
    write("a.jsonl", rows({"prompt": "x", "model": "m"}, {"prompt": "x", "model": "n"}))
    told = command("validate", "a.jsonl", "--provider", "openai", "--json").json
    assert [lane["model"] for lane in told["lanes"]] == ["m", "n"]
    assert told["batches"] == 2


def test_nothing_is_written_and_no_database_is_needed(command, write, folder):
    write("a.jsonl", rows({"prompt": "x", "model": "m"}))
    assert command("validate", "a.jsonl").code == 0
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]


def test_memory_stays_flat_over_a_long_file(write, folder):
    with (folder / "long.jsonl").open("w") as file:
        for at in range(60_000):
            file.write(f'{{"custom_id": "some-longer-custom-id-of-{at}", "prompt": "{"x" * 500}", "model": "m"}}\n')
    script = """
import sys
from orchestrator.cli import main
try:
    main()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""
    words = (sys.executable, "-c", script, "validate", "long.jsonl")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("models:")
    assert int(done.stderr) < 60_000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Missing argument"),
        (("lost.jsonl",), "does not exist"),
        (("a.txt", "--lines", "--csv"), "either --lines or --csv"),
        (("a.txt", "--template", "no field"), "no field"),
        (("a.txt", "--window", "7h"), "offered by no provider"),
    ],
)
def test_wrong_usage_is_one_line_with_exit_code_2(command, write, words, told):
    write("a.txt", "one\n")
    said = command("validate", *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert told in said.err


def test_every_key_that_json_prints_is_in_the_help(command, write):
    write("a.jsonl", rows({"prompt": "x", "model": "m"}))
    help_text = command("validate", "--help").out
    told = command("validate", "a.jsonl", "--json").json
    keys = {*told, *told["models"][0], *told["lanes"][0]}
    assert {key for key in keys if not re.search(rf"\b{key}\b", help_text)} == set()
