import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.usefixtures("daemon")

DEADLINE_SECONDS = 30
LINES = 24


class Terminal:
    """What a program draws on a terminal of 80 columns, collected as it comes."""

    def __init__(self, process, *words):
        self.end, there = pty.openpty()
        env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": str(LINES), "NO_COLOR": "1"}
        self.running = process(*words, stdout=there, env=env)
        os.close(there)
        self.drawn = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        try:
            while piece := os.read(self.end, 65536):
                self.drawn += piece
        except OSError:
            pass  # the terminal is gone with the process

    def until(self, pattern):
        end = time.monotonic() + DEADLINE_SECONDS
        while not re.search(pattern, self.text()):
            assert time.monotonic() < end, self.text()
            time.sleep(0.01)

    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.drawn.decode(errors="replace"))

    def stop(self):
        self.running.send_signal(signal.SIGINT)
        code = self.running.wait(timeout=DEADLINE_SECONDS)
        self.reader.join()
        os.close(self.end)
        return code


@pytest.fixture
def watch(process, queue):
    return lambda *words: process("status", "--watch", "--interval", "0.1", *words)


def stop(running):
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=DEADLINE_SECONDS)
    return running.returncode, out.decode().splitlines(), err.decode()


def test_who_presses_ctrl_c_twice_sees_no_traceback_of_a_connection_that_was_being_closed():
    program = (
        "import logging, orchestrator.store.database\n"
        "try: raise KeyboardInterrupt\n"
        "except KeyboardInterrupt: logging.getLogger('sqlalchemy.pool.impl').error('closing', exc_info=True)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stderr == b""


def test_a_pipe_gets_one_plain_line_per_change(queue, watch):
    running = watch()
    first = running.stdout.readline().decode()
    assert re.fullmatch(r"\S+Z 0 queued, 0 batched, 0 done, 0 failed, 0 cancelled\n", first)
    queue.add("q-1")
    assert b" 1 queued, 0 batched" in running.stdout.readline()
    queue.sql("UPDATE prompt_states SET status = 'failed'")
    assert b" 0 queued, 0 batched, 0 done, 1 failed, 0 cancelled\n" in running.stdout.readline()
    queue.sql("UPDATE queue_state SET backed_up_at_ms = 1, looks = 3")
    assert b" 0 cancelled; restored from a backup: 3/12 looks\n" in running.stdout.readline()
    queue.sql("UPDATE queue_state SET backed_up_at_ms = NULL")
    assert b" 0 cancelled\n" in running.stdout.readline()
    queue.sql(
        "INSERT INTO replies (prompt_id, seq, fault, error_message, received_at_ms) VALUES (1, 1, 'x', ?, 1)", "a\nb"
    )
    assert running.stdout.readline().decode().endswith("1 failed, 0 cancelled; last error: a\\nb\n")
    assert stop(running) == (0, [], "stopped\n")


def test_json_is_one_object_per_change(queue, watch):
    running = watch("--json")
    assert json.loads(running.stdout.readline())["prompts"]["queued"] == 0
    queue.add("q-1")
    assert json.loads(running.stdout.readline())["prompts"]["queued"] == 1
    assert stop(running)[:2] == (0, [])


def test_batches_and_pauses_are_told(queue, watch):
    queue.sql(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('doubleword', '/v1/x', '1h', '')"
    )
    queue.sql(
        "INSERT INTO batch_states"
        " (key, lane_id, status, lines, lines_done, remote_batch_id, remote_status, created_at_ms)"
        " VALUES ('k', 1, 'submitted', 9, 4, 'r', 'in_progress', 1)"
    )
    queue.sql("INSERT INTO provider_states (name, pauses, pause_reason) VALUES ('doubleword', 1, '402: no credit')")
    line = watch().stdout.readline().decode()
    assert line.endswith("; batch 1 in_progress 4/9; doubleword paused: 402: no credit\n")


def test_a_terminal_is_redrawn_within_its_width(queue, process):
    queue.add("q-1", tag="a" * 60)
    terminal = Terminal(process, "status", "--watch", "--interval", "0.1")
    terminal.until(r"(?s)Ctrl-C ends.*all is well.*a+… +1 +0 +0 +0 +0")
    queue.end("q-1")
    queue.sql("UPDATE prompt_states SET finished_at_ms = ?", int(time.time() * 1000))
    terminal.until(r"(?s)ended in the last minute: 1 done, 0 failed.*█ now.*a+… +0 +0 +1 +0 +0")
    assert terminal.stop() == 0
    assert max(map(len, terminal.text().replace("\r", "\n").splitlines())) <= 80
    assert terminal.running.stderr.read() == b"stopped\n"


def test_everything_of_a_long_queue_is_seen_on_one_screen(queue, process):
    now_ms = int(time.time() * 1000)
    error = {"fault": "server", "error_message": "no such thing " * 20, "received_at_ms": now_ms}
    for number in range(50):
        queue.add(f"q-{number}", tag=f"{number} " + "日本語" * 30)
        queue.end(f"q-{number}", "failed", status_code=500 + number % 5, **error)
    queue.sql("UPDATE prompt_states SET finished_at_ms = ?", now_ms)
    queue.sql(
        "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('d', '/v1/x', '1h', ?)", "m" * 99
    )
    row = "1, 'submitted', 50000, 12345, 'r' || i, 'in_progress' || hex(zeroblob(99)), 50000, ?, ?"
    queue.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30) INSERT INTO batch_states (key,"
        " lane_id, status, lines, lines_done, remote_batch_id, remote_status, remote_total, created_at_ms,"
        f" submitted_at_ms) SELECT 'k' || i, {row} FROM n",
        now_ms - 7_500_000,
        now_ms - 7_400_000,
    )
    queue.sql("INSERT INTO provider_states (name, pauses) VALUES ('openai', 1)")
    terminal = Terminal(process, "status", "--watch", "--interval", "60")
    terminal.until("no such thing.*…")
    frame = terminal.text().replace("\r", "").strip("\n")
    assert terminal.stop() == 0
    assert frame.count("\n") < LINES
    for seen in (
        "Ctrl-C ends",
        "! batches wait for provider d, which left the settings",
        "! 30 batches at d are past their windows, the longest by 1h 3m",
        "and 1 more: orchestrator status",
        "last minute: 0 done, 50 failed",
        "batches (2 of 30)",
        "in_progress0… 12345/50000",
        "1h 3m over",
        "faults (2 of 5)",
    ):
        assert seen in frame, frame


def test_a_missing_database_is_one_line(command, folder):
    said = command("status", "--watch")
    assert (said.code, said.err.count("\n")) == (1, 1)


def test_an_interval_of_nothing_is_refused(command, queue):
    said = command("status", "--watch", "--interval", "0")
    assert (said.code, said.err.count("\n")) == (2, 1)
