import csv
import io
import json
import os
import signal
import sqlite3
import time

import pytest

DEADLINE_SECONDS = 30


class Following:
    """`results --follow` as a process of its own, read line by line with a deadline."""

    def __init__(self, running):
        self.running = running
        self.unread = b""
        self.lines = []
        os.set_blocking(running.stdout.fileno(), False)

    def read(self, count):
        """The first `count` lines; fails when they do not come."""
        end = time.monotonic() + DEADLINE_SECONDS
        while len(self.lines) < count:
            assert time.monotonic() < end, self.lines
            self.take()
            time.sleep(0.01)
        return self.lines[:count]

    def take(self):
        *whole, self.unread = (self.unread + (self.running.stdout.read() or b"")).split(b"\n")
        self.lines += whole

    def ids(self, count):
        return [json.loads(line)["custom_id"] for line in self.read(count)]

    def stop(self):
        """Ctrl-C; what it printed in all, and its last words."""
        self.running.send_signal(signal.SIGINT)
        code = self.running.wait(timeout=DEADLINE_SECONDS)
        os.set_blocking(self.running.stdout.fileno(), True)
        self.take()
        return code, self.running.stderr.read().decode()


@pytest.fixture
def follow(process, queue):
    return lambda *words: Following(process("results", "--follow", *words))


def end(queue, custom_id, status="done", at_ms=None, seq=1, **reply):
    """End a prompt at this time, in one transaction."""
    at_ms = at_ms or int(time.time() * 1000)
    with sqlite3.connect(queue.path, timeout=10) as writer:
        (number,) = writer.execute("SELECT id FROM prompts WHERE custom_id = ?", (custom_id,)).fetchone()
        row = {"prompt_id": number, "seq": seq, "attempt": seq, "received_at_ms": at_ms, **reply}
        writer.execute(f"INSERT INTO replies ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
        writer.execute(
            "UPDATE prompt_states SET status = ?, replies = ?, finished_at_ms = ? WHERE prompt_id = ?",
            (status, seq, at_ms, number),
        )
    writer.close()


def cancel(queue, custom_id):
    queue.sql(
        "UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = (SELECT id FROM prompts WHERE custom_id = ?)",
        custom_id,
    )


def test_those_that_have_ended_come_first_in_the_order_of_ending(queue, follow):
    for number in (1, 2, 3, 4):
        queue.add(f"q-{number}")
    end(queue, "q-3", at_ms=1000)
    end(queue, "q-1", "failed", at_ms=2000, fault="invalid")
    end(queue, "q-2", at_ms=1500)
    following = follow()
    assert following.ids(3) == ["q-3", "q-2", "q-1"]
    end(queue, "q-4")
    assert following.ids(4)[-1] == "q-4"


def test_many_that_ended_at_one_moment_come_once_each(queue, follow):
    values = ", ".join(f"('q-{at}', 'p')" for at in range(100))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    queue.sql("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id <= 70")
    assert len(queue.sql("SELECT DISTINCT finished_at_ms FROM prompt_states")) == 2
    for at in range(70, 100):
        end(queue, f"q-{at}", at_ms=1000)
    following = follow()
    assert following.ids(100) == [f"q-{at}" for at in [*range(70, 100), *range(70)]]
    assert following.stop()[1] == "stopped: 100 results printed\n"


def test_each_way_to_end_is_printed_once(queue, follow):
    for number in (1, 2, 3, 4):
        queue.add(f"q-{number}")
    end(queue, "q-4")
    following = follow()
    following.read(1)
    end(queue, "q-2", "failed", fault="server")
    cancel(queue, "q-3")
    end(queue, "q-1", answer="yes")
    lines = [json.loads(line) for line in following.read(4)]
    assert {(line["custom_id"], line["status"]) for line in lines} == {
        ("q-4", "done"), ("q-2", "failed"), ("q-3", "cancelled"), ("q-1", "done"),
    }  # fmt: skip
    queue.add("last")
    end(queue, "last")
    assert following.ids(5)[-1] == "last"
    assert following.stop() == (0, "stopped: 5 results printed\n")
    assert len(following.lines) == 5


def test_a_prompt_that_ends_again_after_a_retry_comes_again(queue, follow):
    queue.add("q-1")
    end(queue, "q-1", "failed", fault="server")
    following = follow()
    following.read(1)
    queue.sql("UPDATE prompt_states SET status = 'queued'")
    end(queue, "q-1", seq=2, answer="yes")
    assert [json.loads(line)["status"] for line in following.read(2)] == ["failed", "done"]


def test_a_prompt_cancelled_twice_comes_twice(queue, follow):
    queue.add("q-1")
    cancel(queue, "q-1")
    following = follow()
    following.read(1)
    queue.sql("UPDATE prompt_states SET status = 'queued'")
    cancel(queue, "q-1")
    assert following.ids(2) == ["q-1", "q-1"]


def test_none_is_missed_and_none_comes_twice_while_many_end(queue, follow):
    values = ", ".join(f"('q-{at}', 'p')" for at in range(3000))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    for at in range(500):
        queue.sql("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = ?", at + 1)
    following = follow()
    writer = sqlite3.connect(queue.path, timeout=10, isolation_level=None)
    for start in range(500, 3000, 50):
        at_ms = int(time.time() * 1000)
        writer.execute("BEGIN IMMEDIATE")
        for at in range(start, start + 50):
            writer.execute("INSERT INTO replies (prompt_id, seq, received_at_ms) VALUES (?, 1, ?)", (at + 1, at_ms))
            writer.execute(
                "UPDATE prompt_states SET status = 'done', replies = 1, finished_at_ms = ? WHERE prompt_id = ?",
                (at_ms, at + 1),
            )
        writer.execute("COMMIT")
        following.take()
    writer.close()
    following.read(3000)
    queue.add("last")
    end(queue, "last")
    following.read(3001)
    assert following.stop()[0] == 0
    ids = [json.loads(line)["custom_id"] for line in following.lines]
    assert (len(ids), set(ids)) == (3001, {"last", *(f"q-{at}" for at in range(3000))})


def test_an_answer_whose_number_was_given_before_is_not_missed(queue, follow):
    for number in (1, 2):
        queue.add(f"q-{number}")
    end(queue, "q-1")
    following = follow()
    following.read(1)
    queue.sql("DELETE FROM prompts WHERE custom_id = 'q-1'")
    end(queue, "q-2")
    assert queue.sql("SELECT max(id) AS newest FROM replies") == [{"newest": 1}]
    assert following.ids(2) == ["q-1", "q-2"]


def test_tag_and_status_choose(queue, follow):
    queue.add("q-1", tag="a")
    queue.add("q-2", tag="b")
    queue.add("q-3", tag="a")
    following = follow("--tag", "a", "--status", "done")
    end(queue, "q-2")
    end(queue, "q-1", "failed", fault="server")
    end(queue, "q-3")
    assert following.ids(1) == ["q-3"]


def test_csv_has_a_header_at_once_and_a_record_per_end(queue, follow):
    following = follow("--format", "csv")
    assert following.read(1)[0].startswith(b"id,custom_id,")
    queue.add("q-1")
    end(queue, "q-1", answer="yes")
    header, record = csv.reader(io.StringIO(b"\n".join(following.read(2)).decode()))
    assert (record[1], record[header.index("answer")]) == ("q-1", "yes")


def test_a_reader_that_stops_early_is_no_error(queue, process):
    values = ", ".join(f"('q-{at}', 'p')" for at in range(3000))
    queue.sql(f"INSERT INTO prompts (custom_id, prompt) VALUES {values}")
    queue.sql("UPDATE prompt_states SET status = 'cancelled'")
    running = process("results", "--follow")
    running.stdout.readline()
    running.stdout.close()
    assert (running.wait(timeout=DEADLINE_SECONDS), running.stderr.read()) == (0, b"")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-o", "out.jsonl"), "redirect it"),
        (("--format", "openai"), "jsonl or csv"),
        (("--status", "queued"), "leave out --status queued"),
    ],
)
def test_what_cannot_be_followed_is_one_line(queue, command, words, told):
    said = command("results", "--follow", *words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert told in said.err
