"""The README's code blocks, run as they stand, in an empty folder, against the sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.sandbox import Options, serve

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SQLITE_SHELL = """#!{python}
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as queue:
    for row in queue.execute(sys.argv[2]):
        print(*row, sep="|")
"""


def blocks(heading: str, language: str) -> list[str]:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """An empty folder with the installed command and a `sqlite3` on its path."""
    shell = tmp_path / "bin" / "sqlite3"
    shell.parent.mkdir()
    shell.write_text(SQLITE_SHELL.format(python=sys.executable))
    shell.chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={shell.parent}:{Path(sys.executable).parent}:$PATH\n")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"custom_id": "a", "prompt": "one"}) + "\n")
    body = {"model": "m", "messages": [{"role": "user", "content": "two"}]}
    line = {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "openai-batch.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "questions.txt").write_text("three\nfour\n")
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "five"}) + "\n")
    return tmp_path


def shell(folder: Path, script: str, **environ: str) -> str:
    done = subprocess.run(
        ["sh", "-e", "-c", f". .venv/bin/activate\n{script}"],
        cwd=folder,
        env={**os.environ, "ORCHESTRATOR_DEFAULTS__MODEL": "m", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def queue(folder: Path, sql: str) -> list[tuple]:
    with sqlite3.connect(folder / "orchestrator.db") as connection:
        return connection.execute(sql).fetchall()


async def test_the_way_to_the_real_provider_ends_with_an_answer(folder):
    first, second = blocks("Five minutes to the real provider", "sh")
    walk = first.replace("orchestrator run  ", "orchestrator run --until-idle  ")
    assert walk != first
    async with serve(Options(latency_seconds=0, validate_seconds=0)) as sandbox:
        quick = {
            "ORCHESTRATOR_PROVIDERS__DOUBLEWORD__BASE_URL": sandbox.url,
            "ORCHESTRATOR_PACKING__LINGER_SECONDS": "0",
            "ORCHESTRATOR_POLLING__MIN_SECONDS": "0.1",
            "ORCHESTRATOR_POLLING__MAX_SECONDS": "0.2",
        }
        await asyncio_shell(folder, walk, **quick)
    told = shell(folder, second)
    assert queue(folder, "SELECT status, answer LIKE '%Why is the sky blue?%' FROM results") == [("done", 1)]
    assert "Why is the sky blue?" in told


async def asyncio_shell(folder: Path, script: str, **environ: str) -> str:
    return await asyncio.to_thread(shell, folder, script, **environ)


def test_every_way_to_drop_prompts_in_works_as_typed(folder):
    by_sql, from_files = blocks("Drop prompts in", "sh")
    (by_python,) = blocks("Drop prompts in", "python")
    shell(folder, f"orchestrator migrate\n{by_sql}\n{from_files}")
    subprocess.run([sys.executable, "-c", by_python], cwd=folder, check=True, timeout=30)
    prompts = {row[0] for row in queue(folder, "SELECT prompt FROM prompts WHERE prompt IS NOT NULL")}
    assert {"Write a haiku about rain", "Why is the sky blue?", "What is the capital of Peru?"} <= prompts
    assert {"one", "three", "four", "Summarise: five"} <= prompts
    assert queue(folder, "SELECT count(*) FROM prompts WHERE custom_id = 'b' AND body IS NOT NULL") == [(1,)]


def test_reading_and_retrying_work_as_typed(folder):
    shell(folder, "orchestrator migrate")
    reading = blocks("Read answers", "sh")
    retrying = re.findall(r"`(orchestrator retry [^`]+)`", README)
    assert reading
    assert retrying
    shell(folder, "\n".join([*reading, *retrying]))
