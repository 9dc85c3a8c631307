"""`backup`: one moment of a running queue, whole, private, and never half there."""

import contextlib
import json
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.store import backup as backups
from orchestrator.store.backup import back_up

COMMAND = [sys.executable, "-m", "orchestrator", "backup", "copy.db"]


def rows(path, statement="SELECT custom_id, status FROM results ORDER BY id"):
    with contextlib.closing(sqlite3.connect(path)) as copy:
        return copy.execute(statement).fetchall()


def there():
    """Files beside the queue."""
    return sorted(path.name for path in Path().iterdir() if not path.name.startswith("orchestrator.db"))


def test_a_backup_is_whole_private_one_file_and_knows_what_it_is(command, queue):
    queue.add("one")
    queue.add("two")
    queue.end("two", answer="Because.")
    before = int(time.time() * 1000)
    said = command("backup", "copy.db")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("copy.db: 2 prompts, ")
    assert there() == ["copy.db"]
    assert stat.S_IMODE(Path("copy.db").stat().st_mode) == 0o600
    assert rows("copy.db") == [("one", "queued"), ("two", "done")]
    assert rows("copy.db", "PRAGMA integrity_check") == [("ok",)]
    assert rows("copy.db", "PRAGMA journal_mode") == [("delete",)]
    assert rows("copy.db", "PRAGMA auto_vacuum") == [(2,)]
    ((marked,),) = rows("copy.db", "SELECT backed_up_at_ms FROM queue_state")
    assert before <= marked <= time.time() * 1000
    assert queue.sql("SELECT backed_up_at_ms FROM queue_state") == [{"backed_up_at_ms": None}]


def test_json_tells_the_same(command, queue):
    queue.add("one")
    found = command("backup", "copy.db", "--json").json
    assert (found["path"], found["prompts"], found["bytes"]) == ("copy.db", 1, Path("copy.db").stat().st_size)


TAKEN = [lambda path: path.write_text("precious"), lambda path: path.symlink_to("nowhere")]


@pytest.mark.parametrize("make", TAKEN)
def test_a_name_that_is_taken_is_told_before_anything_is_copied(queue, make):
    make(Path("copy.db"))
    copied = []
    with pytest.raises(InputError, match="is there already"):
        back_up(Path("orchestrator.db"), Path("copy.db"), 1, lambda *done: copied.append(done))
    assert copied == []


def test_a_backup_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(queue, monkeypatch):
    synced = []

    def noted(number):
        synced.append((Path(f"/proc/self/fd/{number}").readlink().suffix, Path("copy.db").exists()))

    monkeypatch.setattr(backups.os, "fsync", noted)
    back_up(Path("orchestrator.db"), Path("copy.db"), 1, lambda *_: None)
    assert synced[0] == (".part", False)
    assert synced[-1][1] is True


def test_a_backup_of_a_restored_queue_that_still_looks_begins_to_look_anew(command, queue):
    queue.sql("UPDATE queue_state SET backed_up_at_ms = 1, looks = 5, look_at_ms = 7")
    command("backup", "copy.db")
    assert rows("copy.db", "SELECT backed_up_at_ms, looks, look_at_ms FROM queue_state") == [(1, 0, 0)]


@pytest.mark.parametrize("make", TAKEN)
def test_nothing_is_overwritten(command, queue, make):
    make(Path("copy.db"))
    said = command("backup", "copy.db")
    assert said.code == 1
    assert said.err == "orchestrator: copy.db: is there already: name another file, a backup overwrites none\n"
    assert there() == ["copy.db"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(queue):
    with pytest.raises(InputError, match="is there already"):
        back_up(Path("orchestrator.db"), Path("copy.db"), 1, lambda *_: Path("copy.db").write_text("precious"))
    assert Path("copy.db").read_text() == "precious"
    assert there() == ["copy.db"]


def test_a_file_system_without_hard_links_gets_its_backup_too(queue, monkeypatch):
    def refused(*_):
        raise PermissionError

    queue.add("one")
    monkeypatch.setattr(backups.os, "link", refused)
    back_up(Path("orchestrator.db"), Path("copy.db"), 1, lambda *_: None)
    assert rows("copy.db") == [("one", "queued")]
    assert there() == ["copy.db"]


def test_a_folder_that_is_not_there_is_one_line(command, queue):
    said = command("backup", "no/copy.db")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert said.err.startswith("orchestrator: no/copy.db: cannot be written: No such file")


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 1000])
def test_what_is_no_queue_is_one_line(command, content):
    if content is not None:
        Path("orchestrator.db").write_bytes(content)
    said = command("backup", "copy.db")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert there() == []
    assert Path("orchestrator.db").exists() == (content is not None)


def test_a_file_with_our_revision_and_no_prompts_is_one_line(command):
    with contextlib.closing(sqlite3.connect("orchestrator.db")) as other:
        other.execute("CREATE TABLE alembic_version (version_num)")
        other.execute("INSERT INTO alembic_version VALUES ('0001')")
        other.commit()
    said = command("backup", "copy.db")
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "it is no queue" in said.err
    assert there() == []


def test_a_queue_that_cannot_be_opened_is_a_queue_all_the_same(command, queue):
    """As on a disk that may not be written, where SQLite cannot make the file that its readers share."""
    queue.sql("PRAGMA journal_mode = WAL")
    for end in ("-wal", "-shm"):
        Path(f"orchestrator.db{end}").unlink(missing_ok=True)
    Path("orchestrator.db-shm").symlink_to("elsewhere")
    said = command("backup", "copy.db")
    assert (said.code, said.out) == (1, "")
    assert said.err == (
        "orchestrator: database orchestrator.db: unable to open database file: "
        "check that the file and its folder exist and are writable for this user\n"
    )
    assert there() == []


def test_a_queue_that_is_locked_is_a_queue_all_the_same(command, queue, monkeypatch):
    monkeypatch.setattr(backups, "BUSY_SECONDS", 0.01)
    with contextlib.closing(sqlite3.connect("orchestrator.db", isolation_level=None)) as other:
        for statement in ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"):
            other.execute(statement)
        said = command("backup", "copy.db")
    assert "database is locked: another process holds a write transaction open; close it\n" in said.err


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal", ".lock"])
@pytest.mark.parametrize("name", ["orchestrator.db", "link.db"])
def test_the_files_of_the_queue_are_not_written_even_where_they_are_not_there(command, queue, end, name, monkeypatch):
    Path("link.db").symlink_to("orchestrator.db")
    monkeypatch.setenv("ORCHESTRATOR_DATABASE__URL", f"sqlite:///{name}")
    for other in ("-wal", "-shm", "-journal", ".lock"):
        Path(f"orchestrator.db{other}").unlink(missing_ok=True)
    said = command("backup", f"./orchestrator.db{end}")
    assert (said.code, said.out) == (1, "")
    assert said.err == f"orchestrator: orchestrator.db{end}: is the queue itself: name another file\n"
    assert Path(f"orchestrator.db{end}").exists() == (not end)


def test_a_disk_that_is_full_leaves_no_half_file_and_is_one_line(queue):
    queue.sql("INSERT INTO prompts (prompt) SELECT hex(zeroblob(3000000))")

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    said = subprocess.run(COMMAND, capture_output=True, text=True, check=False, preexec_fn=no_room)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1)
    assert "nothing is left of it" in said.stderr
    assert there() == []


def test_a_damaged_queue_is_told_and_its_copy_not_kept(command, queue):
    for number in range(500):
        queue.add(f"{number}-{'x' * 50}")
    queue.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ((page,),) = rows("orchestrator.db", "SELECT rootpage FROM sqlite_master WHERE name = 'prompt_states_unadmitted'")
    with Path("orchestrator.db").open("r+b") as file:
        file.seek((page - 1) * 8192)
        file.write(b"\xff" * 8192)
    said = command("backup", "copy.db")
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "damaged" in said.err or "cannot be read" in said.err
    assert there() == []


def test_a_queue_of_an_older_program_is_copied_and_what_that_means_is_said(command, queue):
    queue.sql("DROP TABLE queue_state")
    said = command("backup", "copy.db")
    assert said.code == 0
    assert "not migrated" in said.err


def test_a_queue_of_a_newer_program_is_left_to_that(command, queue):
    queue.sql("UPDATE alembic_version SET version_num = '9999'")
    said = command("backup", "copy.db")
    assert said.code == 2
    assert "install a newer orchestrator" in said.err


def test_two_at_once_do_not_mix(queue):
    for number in range(200):
        queue.add(f"{number}", body=json.dumps({"x": "y" * 20_000}))
    both = [subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    assert sorted(one.wait(60) for one in both) == [0, 1]
    for one in both:
        one.communicate()
    assert len(rows("copy.db")) == 200
    assert rows("copy.db", "PRAGMA integrity_check") == [("ok",)]
    assert there() == ["copy.db"]


def test_writers_do_not_wait_and_do_not_make_it_begin_anew(queue, monkeypatch):
    """Each step of the copy meets a new row that others have committed since the last one."""
    for number in range(100):
        queue.add(f"{number}", body=json.dumps({"x": "y" * 20_000}))
    monkeypatch.setattr(backups, "STEP_PAGES", 8)
    waits, steps = [], []

    def write(done, total):
        steps.append(done)
        assert len(steps) < 1000, "it never ends"
        started = time.perf_counter()
        writer = threading.Thread(target=queue.add, args=(f"late-{len(steps)}",))
        writer.start()
        writer.join()
        waits.append(time.perf_counter() - started)

    made = back_up(Path("orchestrator.db"), Path("copy.db"), 1, write)
    assert steps == sorted(steps)
    assert len(steps) > 20
    assert max(waits) < 1
    assert made.prompts == len(rows("copy.db")) == 100
    assert len(queue.prompts()) == 100 + len(steps)
