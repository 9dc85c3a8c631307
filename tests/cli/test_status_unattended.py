"""`status` tells when no daemon works on a queue that waits for one, and is in nobody's way when it asks."""

import pytest

from orchestrator.store.schema import only_daemon

NEED = {"level": "warning", "what": "no daemon works on this queue", "todo": "start it: `orchestrator run`"}


@pytest.fixture
def told(command):
    return lambda: command("status", "--json").json["attention"]


@pytest.fixture
def batch(queue):
    queue.sql("INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('doubleword', '/x', '1h', '')")
    queue.sql("INSERT INTO batch_states (key, lane_id, status, created_at_ms) VALUES ('k', 1, 'sealed', 1)")


@pytest.mark.parametrize("state", ["status = 'queued'", "status = 'batched', batch_id = 1"])
def test_a_queue_that_waits_for_a_daemon_says_so(queue, batch, told, command, state):
    queue.add("q-1")
    queue.sql(f"UPDATE prompt_states SET {state}")
    assert told() == [NEED]
    assert "no daemon works on this queue: start it: `orchestrator run`" in command("status").out
    with only_daemon("orchestrator.db"):
        assert told() == []
    assert told() == [NEED]


def test_a_queue_in_which_everything_has_ended_needs_no_daemon(queue, told):
    assert told() == []
    queue.add("q-1")
    queue.end("q-1")
    assert told() == []


def test_where_it_cannot_be_known_nothing_is_told(queue, told):
    queue.add("q-1")
    (queue.path.parent / "orchestrator.db.lock").mkdir()
    assert told() == []


def test_who_watches_sees_it_too(queue, process):
    queue.add("q-1")
    running = process("status", "--watch", "--json")
    assert NEED["what"] in running.stdout.readline().decode()
