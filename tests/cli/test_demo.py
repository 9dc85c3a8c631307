import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli.demo import End
from orchestrator.cli.demo_script import DESIGNED, prompts

LONGEST_SECONDS = 20
"""What a new user waits for at most, by the product's page."""


@dataclass(frozen=True)
class Played:
    """A demo that was played to its end in a pipe, with neither key nor settings of the user's."""

    code: int
    out: str
    err: str
    folder: Path
    kept: Path

    def sql(self, statement):
        with closing(sqlite3.connect(self.kept / "queue.db")) as connection:
            return connection.execute(statement).fetchall()


def start(temporary, working):
    kept = {"PATH", "HOME", "PYTHONPATH"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    return subprocess.Popen(
        (sys.executable, "-m", "orchestrator", "demo"),
        env={**environment, "TMPDIR": str(temporary)},
        cwd=working,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    temporary, working = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("working")
    (working / "orchestrator.toml").write_text("of = 'no concern'")
    running = start(temporary, working)
    out, err = (pipe.decode() for pipe in running.communicate(timeout=LONGEST_SECONDS))
    (kept,) = temporary.glob("orchestrator-demo-*")
    return Played(running.returncode, out, err, working, kept)


def test_it_plays_to_the_designed_end_in_under_twenty_seconds(played):
    assert (played.code, played.err) == (0, "")
    ended = played.sql("SELECT custom_id, status, fault FROM results")
    assert len(ended) == len(prompts())
    assert {custom_id: fault for custom_id, status, fault in ended if status == "failed"} == DESIGNED
    assert Counter(status for _, status, _ in ended) == {"done": len(ended) - len(DESIGNED), "failed": len(DESIGNED)}
    assert f"{len(ended) - len(DESIGNED)} done, {len(DESIGNED)} failed" in played.out


def test_it_neither_reads_nor_leaves_anything_in_the_working_folder(played):
    assert [path.name for path in played.folder.iterdir()] == ["orchestrator.toml"]


def test_what_it_prints_can_be_typed_and_read(played):
    assert "\x1b" not in played.out
    for section in ("some answers:", "failures, with reasons:", "batches:"):
        assert section in played.out
    assert f"sqlite3 {played.kept}/queue.db" in played.out
    statements = re.findall(r"^ +((?:SELECT|INSERT) .*);$", played.out, re.MULTILINE)
    assert len(statements) == 5
    for statement in statements:
        played.sql(statement)
    for custom_id, fault in DESIGNED.items():
        assert re.search(rf"{custom_id} +{fault} ", played.out)
    assert re.search(r"^\d+ queued; 0 batches under way$", played.out, re.MULTILINE)


def test_the_log_goes_to_a_file_and_names_no_prompt(played):
    log = (played.kept / "daemon.log").read_text()
    events = {json.loads(line)["event"] for line in log.splitlines()}
    assert {"daemon.started", "submit.submitted", "settle.settled", "daemon.stopped"} <= events
    assert "daemon.log" in played.out
    assert "haiku about" not in log


def test_interrupted_it_says_so_like_any_command(tmp_path):
    running = start(tmp_path, tmp_path)
    while b" batched" not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    _out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (1, b"orchestrator: interrupted\n")


def test_without_a_temporary_folder_it_is_one_line(command, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    said = command("demo")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "TMPDIR" in said.err


def ended(**changed):
    results = {
        row["custom_id"]: {
            "status": "failed" if row["custom_id"] in DESIGNED else "done",
            "fault": DESIGNED.get(row["custom_id"]),
        }
        for row in prompts()
    }
    return End({**results, **changed}, [], 1.0)


def test_only_the_designed_end_is_no_surprise():
    assert ended().surprises() == []
    assert ended(**{"haiku-1": {"status": "failed", "fault": "server"}}).surprises() == ["haiku-1"]
    assert ended(**{"haiku-1": {"status": "queued", "fault": None}}).surprises() == ["haiku-1"]
    assert ended(**{"said-twice": {"status": "done", "fault": None}}).surprises() == ["said-twice"]
    assert ended(**{"said-twice": {"status": "failed", "fault": "server"}}).surprises() == ["said-twice"]
    assert len(End({}, [], 1.0).surprises()) == len(prompts())


def test_the_demo_is_a_few_dozen_prompts_of_several_models_and_kinds():
    rows = prompts()
    assert 24 <= len(rows) <= 60
    assert len({row["custom_id"] for row in rows}) == len(rows)
    assert len({row.get("model") or row.get("body", {}).get("model") for row in rows}) >= 4
    assert sys.getsizeof(json.dumps(rows)) < 20_000
