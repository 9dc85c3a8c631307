import contextlib
import io
import json
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.store.schema import only_daemon

PROGRAM = (sys.executable, "-m", "orchestrator")
IMPATIENT = (sys.executable, "-c", "from orchestrator.cli import main, screen\nscreen.QUIET_SECONDS = -1\nmain()")
"""The program, but whatever shows progress does so at once."""


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Queue:
    """The queue in the working folder, seen by another client of SQLite."""

    def __init__(self, path):
        self.path = path

    def sql(self, statement, *values):
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute(statement, values)]
            connection.commit()
            return rows

    def prompts(self):
        return self.sql("SELECT * FROM prompts ORDER BY id")

    def add(self, custom_id, **columns):
        row = {"custom_id": custom_id, "prompt": "Why?", **columns}
        self.sql(f"INSERT INTO prompts ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())

    def end(self, custom_id, status="done", **reply):
        """Give a prompt its outcome, as the daemon stores it."""
        (found,) = self.sql("SELECT id FROM prompts WHERE custom_id = ?", custom_id)
        row = {"prompt_id": found["id"], "seq": 1, "attempt": 1, "received_at_ms": 1_700_000_000_000, **reply}
        self.sql(f"INSERT INTO replies ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())
        self.sql(
            "UPDATE prompt_states SET status = ?, replies = 1, attempts = 1, finished_at_ms = 1700000000000"
            " WHERE prompt_id = ?",
            status,
            found["id"],
        )

    def statuses(self):
        rows = self.sql("SELECT custom_id, status FROM results ORDER BY id")
        return {row["custom_id"]: row["status"] for row in rows}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder and an environment without settings."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    for name in list(os.environ):
        if name.startswith("ORCHESTRATOR_"):
            monkeypatch.delenv(name)
    return path


@pytest.fixture
def queue(queue_file, folder):
    return Queue(Path(shutil.move(queue_file, folder / "orchestrator.db")))


@pytest.fixture
def daemon(folder):
    """One holds the queue in the working folder."""
    with only_daemon("orchestrator.db"):
        yield


@pytest.fixture
def command(capsysbinary, monkeypatch):
    """Run a command in this process, through the same door as the installed program."""

    def command(*words, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["orchestrator", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsysbinary.readouterr()
        return Said(ended.value.code, out.decode(), err.decode())

    return command


@pytest.fixture
def process():
    """Start a command as a process of its own; whatever is left of it is killed at the end."""
    started = []

    def process(*words, impatient=False, **settings):
        program = IMPATIENT if impatient else PROGRAM
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running = subprocess.Popen((*program, *map(str, words)), **{**pipes, **settings})
        started.append(running)
        return running

    yield process
    for running in started:
        running.kill()
        running.communicate()


@pytest.fixture
def on_terminal(process):
    """Run a command with these of its streams on a terminal of 80 columns; `out` is what was drawn there, unstyled."""

    def on_terminal(*words, streams=("stdout", "stderr"), impatient=False):
        here, there = pty.openpty()
        settings = {
            **dict.fromkeys(streams, there),
            "env": {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"},
        }
        running = process(*words, impatient=impatient, **settings)
        os.close(there)
        drawn = b""
        with contextlib.suppress(OSError):  # the terminal is gone with the process
            while piece := os.read(here, 65536):
                drawn += piece
        os.close(here)
        out, err = running.communicate(timeout=60)
        text = re.sub(r"\x1b\[[01]m", "", drawn.decode()).replace("\r\n", "\n")
        return Said(running.returncode, text, ((out or b"") + (err or b"")).decode())

    return on_terminal


@pytest.fixture
def write(folder):
    def write(name, content):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write
