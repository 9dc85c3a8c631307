"""What goes through the queue a page at a time says how far it came when it is interrupted, and can be gone on with."""

import contextlib
import re
import signal
import sqlite3
import time

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.store.database import PRAGMAS, translated

PROMPTS = 60_000
RAN = {"cancel": "cancelled", "retry": "queued"}
BEFORE = {"cancel": "queued", "retry": "failed"}


@pytest.fixture
def long(queue):
    queue.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO prompts (prompt) SELECT 'x' FROM n",
        PROMPTS,
    )
    queue.sql("UPDATE prompt_states SET status = 'failed'")
    return queue


def moved(queue, status):
    return queue.sql("SELECT count(*) AS n FROM prompt_states WHERE status = ?", status)[0]["n"]


def interrupted(running, queue, status):
    """Stop it while it waits for its turn to write, a page or more of its way gone. That one is written yet."""
    while moved(queue, status) < 1000:
        assert running.poll() is None
    with contextlib.closing(sqlite3.connect(queue.path, timeout=10)) as held:
        held.execute("BEGIN IMMEDIATE")
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _out, err = running.communicate(timeout=30)
    return running.returncode, err.decode()


@pytest.mark.parametrize("command_name", RAN)
def test_it_says_how_far_it_came_and_goes_on_when_it_is_run_again(process, long, command, command_name):
    status = RAN[command_name]
    if BEFORE[command_name] == "queued":
        long.sql("UPDATE prompt_states SET status = 'queued'")
    code, err = interrupted(process(command_name, "--all"), long, status)
    assert code == 1
    told = re.match(r"orchestrator: interrupted; (\d+) or more are (cancelled|queued again)", err)
    assert told, err
    assert err.endswith("run it again for the rest\n")
    assert 1000 <= int(told.group(1)) <= moved(long, status) < PROMPTS
    assert command(command_name, "--all").code == 0
    assert moved(long, status) == PROMPTS


HINTS = {
    ("cancel", "--all"): "close it; then run it again\n",
    ("enqueue", "--prompt", "x"): "close it; no prompt was stored; then run it again\n",
}


@pytest.mark.parametrize(("words", "hint"), HINTS.items())
def test_a_command_that_the_database_refuses_does_not_promise_to_go_on_by_itself(
    command, queue, monkeypatch, words, hint
):
    pragmas = [each for each in PRAGMAS if not each.startswith("busy_timeout")]
    monkeypatch.setattr("orchestrator.store.database.PRAGMAS", (*pragmas, "busy_timeout=20"))
    queue.add("q-1")
    with contextlib.closing(sqlite3.connect(queue.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = command(*words)
    assert said.code == 1
    assert said.err.endswith(f"database is locked: another process holds a write transaction open; {hint}")


def test_of_an_unknown_trouble_the_remedy_is_to_look_whether_the_database_answers():
    told = re.escape("database x: oh: check that the database is there and answers")
    with pytest.raises(StoreUnavailable, match=f"{told}$"), translated("x"):
        raise sqlite3.OperationalError("oh")
