"""A copy of a running queue's SQLite file: one moment of it, whole, marked as a backup, and never half there.

The snapshot is held while it is copied, so that nobody who writes waits, and the copy does not begin anew with each
write of theirs. What they write meanwhile grows the `-wal` file; it shrinks again afterwards.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import InputError, StoreUnavailable
from orchestrator.store.database import translated
from orchestrator.store.schema import require_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEP_PAGES = 1024
BUSY_SECONDS = 30.0
NO_QUEUE = ("no such table", "no such column", "not a database")


@dataclass(frozen=True, slots=True)
class Backup:
    """What was copied. `marked`: a daemon that starts on it knows that it is a backup, and of when."""

    nbytes: int
    prompts: int
    marked: bool


def back_up(source: Path, target: Path, now_ms: int, progress: Callable[[int, int], None]) -> Backup:
    """Copy a queue's file; `progress` is told bytes done and bytes in all.

    Raises InputError when the target exists, or cannot be written to its end; nothing of it is left then. Raises
    StoreUnavailable when the source is no queue, damaged, or cannot be read now.
    """
    if os.path.lexists(target):
        raise InputError(f"{target}: is there already: name another file, a backup overwrites none")
    try:
        with _made(target) as part:
            made = _written(source, part, now_ms, progress)
            _named(part, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}: nothing is left of it") from error
    return made


@contextlib.contextmanager
def _made(target: Path) -> Iterator[Path]:
    """An empty file beside the target, for its owner's eyes only, gone in the end."""
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(number)
    part = Path(name)
    try:
        yield part
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{part}{suffix}").unlink(missing_ok=True)


def _written(source: Path, part: Path, now_ms: int, progress: Callable[[int, int], None]) -> Backup:
    with contextlib.closing(_opened(source)) as queue, contextlib.closing(_connected(part)) as copy:
        try:
            _copy(queue, copy, progress)
        except sqlite3.Error as error:
            raise InputError(f"{part.parent}: the backup failed: {error}: nothing is left of it") from error
        try:
            marked = _mark(copy, now_ms)
            _check(copy, source)
        except sqlite3.DatabaseError as error:
            raise StoreUnavailable(f"{source}: its copy cannot be read: {error}: nothing is left of it") from error
        prompts = copy.execute("SELECT count(*) FROM prompts").fetchone()[0]
    with part.open("rb") as file:
        os.fsync(file.fileno())
    return Backup(part.stat().st_size, prompts, marked)


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)


def _opened(source: Path) -> sqlite3.Connection:
    """The queue, at one moment from here on."""
    if not source.exists():
        raise StoreUnavailable(f"database {source} does not exist: check database.url")
    try:
        queue = _connected(source)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"database {source}: {error}: check that it is a file that you may read") from error
    try:
        queue.execute("BEGIN")
        found = queue.execute("SELECT version_num FROM alembic_version").fetchone()
        require_known(found and found[0])
        queue.execute("SELECT 1 FROM prompts LIMIT 1")
    except sqlite3.Error as error:
        queue.close()
        if any(words in str(error) for words in NO_QUEUE):
            raise StoreUnavailable(f"database {source}: {error}: it is no queue; check database.url") from error
        with translated(str(source)):
            raise
    except BaseException:
        queue.close()
        raise
    return queue


def _copy(queue: sqlite3.Connection, copy: sqlite3.Connection, progress: Callable[[int, int], None]) -> None:
    page_bytes = queue.execute("PRAGMA page_size").fetchone()[0]

    def told(_status: int, left: int, total: int) -> None:
        progress((total - left) * page_bytes, total * page_bytes)

    queue.backup(copy, pages=STEP_PAGES, progress=told, sleep=0)
    copy.execute("PRAGMA journal_mode = DELETE")  # one file; the daemon that opens it makes it a WAL one again


def _mark(copy: sqlite3.Connection, now_ms: int) -> bool:
    """Let a daemon that starts on the copy know that it is one; False where its revision has no place for that."""
    has_place = copy.execute("SELECT count(*) FROM sqlite_master WHERE name = 'queue_state'").fetchone()[0]
    if has_place:
        # A restored queue that still looks for what was sent since its own backup must look back as far again.
        copy.execute(
            "UPDATE queue_state SET backed_up_at_ms = coalesce(backed_up_at_ms, ?), looks = 0, look_at_ms = 0",
            (now_ms,),
        )
    return bool(has_place)


def _check(copy: sqlite3.Connection, source: Path) -> None:
    found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreUnavailable(
            f"database {source} is damaged: {found}: restore an earlier backup; this one is not kept"
        )


def _named(part: Path, target: Path) -> None:
    """Give the finished file its name; never over another."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise InputError(f"{target}: is there already: name another file, a backup overwrites none") from None
    except OSError:  # a file system without hard links
        part.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
