"""One daemon per SQLite file, for as long as it lives and not a moment longer."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from orchestrator.errors import StoreInUse, StoreUnavailable
from orchestrator.store.schema import only_daemon

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


def test_without_a_file_there_is_nothing_to_hold():
    with only_daemon(None), only_daemon(None):
        pass


def test_a_lock_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "queue.db.lock").mkdir()
    with pytest.raises(StoreUnavailable, match=r"queue\.db\.lock: Is a directory"), only_daemon(f"{tmp_path}/queue.db"):
        pass
