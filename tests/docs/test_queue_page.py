"""docs/queue.md names every column there is, and what the table and the daemon answer is what it says."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.core.model import BatchStatus, PromptStatus

PAGE = (Path(__file__).parents[2] / "docs/queue.md").read_text()
STATES = {"b": "status = 'batched', batch_id = 1", "c": "status = 'done'", "d": "status = 'failed'"}


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under this heading."""
    (lines,) = re.findall(rf"\n##+ {re.escape(heading)}\n.*?\n(\|.*?)\n\n", PAGE, re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines.splitlines()[2:]]


def code(cell: str) -> str:
    return cell.strip().removeprefix("`").removesuffix("`")


@pytest.fixture
def file(empty_queue, tmp_path):
    return Path(shutil.copyfile(empty_queue, tmp_path / "orchestrator.db"))


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("prompts", "The table `prompts`"),
        ("results", "The view `results`: one row per prompt"),
        ("attempts", "The view `attempts`: one row per answer or failure"),
        ("batches", "The view `batches`: one row per batch"),
        ("progress", "The view `progress`: counts and tokens"),
    ],
)
def test_exactly_the_columns_there_are_stand_on_the_page(name, heading, file):
    with closing(sqlite3.connect(file)) as queue:
        there = {row[1] for row in queue.execute(f"PRAGMA table_info({name})")}
    told = [column for row in table(heading) for column in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted(there)


def test_types_and_defaults_are_those_of_the_table(file):
    with closing(sqlite3.connect(file)) as queue:
        there = {row[1]: (row[2].lower(), row[4]) for row in queue.execute("PRAGMA table_info(prompts)")}
    for cells in table("The table `prompts`"):
        kind, default = there[code(cells[0])]
        assert cells[1].startswith(kind), cells
        if default and "(" not in default:
            assert default.strip("'") == code(cells[2]), cells


@pytest.mark.parametrize(("typed", "answer"), [row[:2] for row in table("What the table refuses at once")])
def test_what_the_table_refuses_it_refuses_in_these_words(typed, answer, file):
    with closing(sqlite3.connect(file)) as queue:
        queue.executemany("INSERT INTO prompts (custom_id, prompt) VALUES (?, 'Hi')", "abcd")
        for custom_id, state in STATES.items():
            named = "(SELECT id FROM prompts WHERE custom_id = ?)"
            queue.execute(f"UPDATE prompt_states SET {state} WHERE prompt_id = {named}", custom_id)
        with pytest.raises(sqlite3.IntegrityError, match=rf"^{re.escape(code(answer))}$"):
            queue.execute(code(typed))


def test_what_ends_as_invalid_ends_so_in_these_words(file):
    rows = table("What ends as `failed` with fault `invalid`")
    with closing(sqlite3.connect(file)) as queue:
        for typed, _ in rows:
            queue.execute(code(typed))
        queue.commit()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        command = (sys.executable, "-m", "orchestrator", "run", "--until-idle")
        done = subprocess.run(
            command, cwd=file.parent, env={**environ, "DOUBLEWORD_API_KEY": "x"}, timeout=60, check=False,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        ended = queue.execute("SELECT status, fault, attempts, error_message FROM results ORDER BY id").fetchall()
    assert {row[:3] for row in ended} == {("failed", "invalid", 0)}
    for (typed, message), (*_, told) in zip(rows, ended, strict=True):
        assert re.fullmatch(re.escape(code(message)).replace("…", ".*"), told), f"{typed}\n{told}"


def test_every_status_is_explained():
    assert [code(row[0]) for row in table("The states")] == [*PromptStatus]
    (statuses,) = [row[1] for row in table("The view `batches`: one row per batch") if row[0] == "`status`"]
    assert re.findall(r"`(\w+)`", statuses) == [*BatchStatus]
