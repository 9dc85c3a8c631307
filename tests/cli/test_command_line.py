import subprocess
import sys

import pytest

from orchestrator.cli import COMMANDS

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
