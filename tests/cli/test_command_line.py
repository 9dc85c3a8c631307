import json
import re
import subprocess
import sys

import click
import pytest

from orchestrator.cli import COMMANDS, cli
from orchestrator.core.model import Fault

HEAVY = ("sqlalchemy", "aiohttp", "alembic", "rich", "aiosqlite")


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)])
def test_help_loads_no_heavy_library(words):
    script = f"""
import sys
from orchestrator.cli import cli
cli.main([*{words!r}, "--help"], standalone_mode=False)
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    out = subprocess.run((sys.executable, "-c", script), capture_output=True, check=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_what_it_does_within_80_columns(command, name):
    said = command(name, "--help")
    assert said.code == 0
    assert max(map(len, said.out.splitlines())) <= 80
    assert "\b" not in said.out


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"run", "demo", "sandbox"}))
def test_what_reports_can_do_so_in_json(command, name):
    assert "--json" in command(name, "--help").out


@pytest.mark.parametrize("words", [("status",), ("results",), ("retry", "--all"), ("enqueue", "--prompt", "x")])
def test_a_file_that_is_no_database_is_one_line(command, folder, words):
    (folder / "orchestrator.db").write_bytes(b"no database at all, but a letter to my aunt" * 100)
    said = command(*words)
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "not a database" in said.err


def texts():
    """Every option and argument that takes a text, with its command."""
    found = ((name, param) for name in COMMANDS for param in cli.get_command(click.Context(cli), name).params)
    return [(name, param.opts[-1]) for name, param in found if isinstance(param.type, click.types.StringParamType)]


@pytest.mark.parametrize(("name", "text"), texts())
def test_an_empty_text_as_of_a_variable_that_is_unset_is_refused(command, queue, name, text):
    said = command(name, *((text, "") if text.startswith("-") else ("",)))
    assert (said.code, said.out) == (2, "")
    assert said.err == f"orchestrator: {text} is empty: is a variable unset? (see `orchestrator {name} --help`)\n"


@pytest.mark.parametrize("words", [("-c", "a.toml"), ("-ca.toml",), ("--config", "a.toml"), ("--config=a.toml",)])
def test_a_file_of_settings_that_is_named_behind_the_command_is_told_where_it_belongs(command, words):
    said = command("status", *words)
    assert (said.code, said.out) == (2, "")
    assert (
        said.err
        == "orchestrator: status takes no -c: write orchestrator -c FILE status (see `orchestrator status --help`)\n"
    )


def keys_of(found):
    """Every key of an object and of what stands in it."""
    if isinstance(found, list):
        return {key for each in found for key in keys_of(each)}
    return set(found) | keys_of([*found.values()]) if isinstance(found, dict) else set()


STATUS = {
    "at", "attention", "batches", "database", "errors", "events", "faults", "faults_since", "flow", "other_tags",
    "pauses", "prompts", "pruned", "rates", "restored", "tags", "throughput",
}  # fmt: skip
REPORTS = {
    "enqueue": ({"enqueued", "skipped", "bad_lines", "files"}, "enqueue --prompt x"),
    "validate": ({"files", "lines", "prompts", "bad_lines", "bytes", "batches", "models", "lanes"}, "validate a.jsonl"),
    "status": (STATUS, "status"),
    "failures": ({"failures"}, "failures"),
    "batches": ({"batches"}, "batches"),
    "batches ID": ({"batch", "outcomes"}, "batches 1"),
    "retry": ({"queued", "not_queued"}, "retry --all"),
    "cancel": ({"cancelled", "being_cancelled", "batches", "not_recalled", "unknown"}, "cancel --tag a"),
    "check": ({"ok", "checks"}, "check"),
    "backup": ({"path", "bytes", "prompts", "seconds"}, "backup copy.db"),
    "copy": ({"moved_to", "tables"}, "copy --from sqlite:///orchestrator.db --to TARGET"),
    "config": ({"key", "value", "origin"}, "config"),
    "migrate": ({"before", "after"}, "migrate"),
    "migrate --check": ({"current", "newest"}, "migrate --check"),
}
"""The keys of the one object that each prints with --json: scripts rely on them."""


@pytest.fixture
def reported(queue, write):
    """Something of everything that a report tells of."""
    write("a.jsonl", '{"prompt": "a", "model": "m"}\n')
    queue.add("failed-1", tag="a")
    queue.end("failed-1", "failed", fault="server", error_message="no", batch_id=1)
    queue.add("in-batch", tag="a")
    queue.sql(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('doubleword', '/v1/x', '1h', '')"
    )
    queue.sql(
        "INSERT INTO batch_states (key, lane_id, status, remote_batch_id, created_at_ms, last_error, last_error_at_ms)"
        " VALUES ('k', 1, 'submitted', 'r', 1, 'e', 1)"
    )
    queue.sql("UPDATE prompt_states SET status = 'batched', batch_id = 1 WHERE prompt_id = 2")
    queue.sql("INSERT INTO provider_states (name, pauses, pause_reason) VALUES ('doubleword', 1, 'r')")


@pytest.mark.parametrize("name", REPORTS)
def test_json_has_the_keys_that_the_help_names(command, reported, name, request):
    keys, words = REPORTS[name]
    if "TARGET" in words:
        words = words.replace("TARGET", request.getfixturevalue("postgres_url"))
    told = json.loads(command(*words.split(), "--json").out.splitlines()[0])
    assert set(told) == keys
    help_text = command(name.split()[0], "--help").out.partition("--json prints")[2]
    assert {key for key in keys_of(told) - {*Fault} if not re.search(rf"\b{key}\b", help_text)} == set()


def test_every_command_that_reports_in_json_is_among_them(command):
    reporting = {name for name in COMMANDS if "--json prints" in command(name, "--help").out}
    assert reporting == {name.split()[0] for name in REPORTS}
    assert {name for name in COMMANDS if "--json" in command(name, "--help").out} == reporting | {"results"}


def test_the_help_names_every_key_of_a_result(command, reported):
    help_text = command("results", "--help").out
    told = [json.loads(line) for line in command("results", "--json").out.splitlines()]
    assert {key for key in keys_of(told) if not re.search(rf"\b{key}\b", help_text)} == set()


def test_migrate_tells_from_which_revision_it_came(command):
    told = command("migrate", "--json").json
    assert told["before"] is None
    assert command("migrate", "--json").json == {"before": told["after"], "after": told["after"]}
