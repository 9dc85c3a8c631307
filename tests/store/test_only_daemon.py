"""One daemon per SQLite file, for as long as it lives and not a moment longer."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.errors import StoreInUse, StoreUnavailable
from orchestrator.store.schema import is_unattended, only_daemon

HOLDER = """
import signal, sys
from orchestrator.store.schema import only_daemon
with only_daemon(sys.argv[1]):
    print("held", flush=True)
    signal.pause()
"""


@contextlib.contextmanager
def another_daemon(path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def another_of(processes):
    """What that one of them said which was refused, while the other holds the file."""
    try:
        while not (ended := [one for one in processes if one.poll() is not None]):
            time.sleep(0.01)
        (working,) = set(processes) - set(ended)
        assert working.stdout.readline() == b"held\n"
        yield ended[0].stderr.read()
    finally:
        for one in processes:
            one.kill()
            one.communicate()


def held(path):
    with contextlib.suppress(StoreInUse), only_daemon(str(path)):
        return False
    return True


def test_a_second_daemon_is_told_what_is_in_its_way(tmp_path):
    path = tmp_path / "queue.db"
    with another_daemon(path):
        assert held(path)
        assert not held(tmp_path / "other.db")
        with pytest.raises(StoreInUse, match=r"another orchestrator works on .*queue\.db: stop it") as caught:
            only_daemon(str(path)).__enter__()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_daemon_lets_go(tmp_path, number):
    path = tmp_path / "queue.db"
    with another_daemon(path) as process:
        os.kill(process.pid, number)
        process.wait()
        assert not held(path)


def test_a_daemon_that_ends_lets_go_even_by_an_error(tmp_path):
    path = tmp_path / "queue.db"
    with contextlib.suppress(ZeroDivisionError), only_daemon(str(path)):
        assert held(path)
        raise ZeroDivisionError
    assert not held(path)


def test_a_file_has_one_daemon_whatever_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "queue.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "queue.db")
    monkeypatch.chdir(tmp_path)
    with only_daemon(str(tmp_path / "queue.db")):
        assert held("queue.db")
        assert held("./queue.db")
        assert held("link.db")


def test_a_file_with_another_name_under_which_a_second_could_work_is_refused(tmp_path):
    (tmp_path / "queue.db").touch()
    (tmp_path / "other.db").hardlink_to(tmp_path / "queue.db")
    with pytest.raises(StoreInUse, match="further names"), only_daemon(str(tmp_path / "queue.db")):
        pass
    (tmp_path / "other.db").unlink()
    assert not held(tmp_path / "queue.db")


def test_who_asks_whether_a_daemon_is_there_leaves_no_trace_and_hinders_none(tmp_path):
    path = str(tmp_path / "queue.db")
    assert is_unattended(path)
    assert list(tmp_path.iterdir()) == []
    with only_daemon(path):
        assert not is_unattended(path)
    assert is_unattended(path)
    assert not held(path)
    assert not is_unattended(None)


def test_of_two_that_start_while_somebody_asks_one_works_and_one_is_told(tmp_path):
    path = tmp_path / "queue.db"
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        program = [sys.executable, "-c", HOLDER, str(path)]
        both = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        with pytest.raises(subprocess.TimeoutExpired):
            both[0].wait(timeout=2)
        assert [one.poll() for one in both] == [None, None]
    with another_of(both) as told:
        assert b"another orchestrator works on" in told


def test_without_a_file_there_is_nothing_to_hold():
    with only_daemon(None), only_daemon(None):
        pass


def test_a_lock_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "queue.db.lock").mkdir()
    with pytest.raises(StoreUnavailable, match=r"queue\.db\.lock: Is a directory"), only_daemon(f"{tmp_path}/queue.db"):
        pass
