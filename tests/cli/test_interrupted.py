"""What goes through the queue a page at a time says how far it came when it is interrupted, and can be gone on with."""

import contextlib
import re
import signal
import sqlite3
import time

import pytest

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
