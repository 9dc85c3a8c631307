"""Making and upgrading the database; the lock that keeps a second daemon off a SQLite file."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sqlalchemy import inspect

from orchestrator.errors import SchemaMismatch, StoreInUse, StoreUnavailable
from orchestrator.store.dialect import server_encoding, take_turn
from orchestrator.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.store.database import Database

LOOK_SECONDS = 0.01


def revisions() -> list[str]:
    """Every revision this program knows, oldest first: the numbers that the files of its migrations begin with."""
    names = [file.name for file in (files("orchestrator.migrations") / "versions").iterdir()]
    return sorted(name.partition("_")[0] for name in names if name[:1].isdigit())


def newest_revision() -> str:
    """The revision this program works with."""
    known = revisions()
    if not known:
        raise SchemaMismatch("no migrations are installed: install the package again")
    return known[-1]


async def current_revision(database: Database) -> str | None:
    """The revision the database stands at, None for an empty one."""
    return await database.read(lambda connection: connection.run_sync(_current))


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return found


def _found(connection: Connection) -> tuple[str | None, str | None]:
    """The revision; where there is none, a table that already has one of our names."""
    revision = _current(connection)
    taken = metadata.tables.keys() & inspect(connection).get_table_names() if revision is None else ()
    return revision, min(taken, default=None)


async def migrate(database: Database) -> tuple[str | None, str]:
    """Bring the database to the newest revision; the revisions before and after.

    Raises SchemaMismatch when the database was made by a newer version of this program or by another one, or cannot
    store every text.
    """
    await database.read(_require_unicode)
    before, foreign = await database.read(lambda connection: connection.run_sync(_found))
    newest = newest_revision()
    if foreign is not None:
        where, what = (database.path, "file") if database.is_sqlite else (database.named, "database")
        raise SchemaMismatch(
            f"database {where} has a table {foreign} but no revision of ours, so this program did not make it: "
            f"name another {what} in database.url, or restore a backup"
        )
    if before != newest:
        require_known(before)
        await database.write(_upgraded)
    return before, newest


async def _require_unicode(connection: AsyncConnection) -> None:
    encoding = await server_encoding(connection)
    if encoding not in (None, "UTF8"):
        raise SchemaMismatch(
            f"the database's encoding is {encoding}, which lacks most characters of an answer: make it anew with "
            "ENCODING 'UTF8' TEMPLATE template0"
        )


def require_known(revision: str | None) -> None:
    """Raises SchemaMismatch for a revision of a newer program."""
    if revision is not None and revision not in revisions():
        raise SchemaMismatch(
            f"the database is at revision {revision}, which this version does not know: install a newer orchestrator"
        )


async def _upgraded(connection: AsyncConnection) -> None:
    """Alembic serves one at a time: another may be at it, and is waited for by the first statement."""
    await take_turn(connection)
    if await connection.run_sync(_current) != newest_revision():
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    """Alembic takes 11 MB and a tenth of a second, and is seldom needed: it is loaded here."""
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(files("orchestrator.migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def require_current(database: Database) -> None:
    """For commands that only read. Raises SchemaMismatch when the database is missing or behind."""
    if database.path is not None:
        await asyncio.to_thread(_require_file, database.path)
    before, newest = await current_revision(database), newest_revision()
    require_known(before)
    if before != newest:
        raise SchemaMismatch(f"database is at revision {before or 'none'}, not {newest}: run `orchestrator migrate`")


def _require_file(path: str) -> None:
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise StoreUnavailable(f"database {path} does not exist: run `orchestrator migrate` or `run` first") from None
    except OSError as error:
        raise _unusable(path, error) from error


def make_private_file(path: str) -> None:
    """Create a new database file readable by its owner only; an existing one is left as it is."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"database {path}: {error.strerror or error}: check the path in database.url")


@contextlib.contextmanager
def only_daemon(path: str | None) -> Iterator[None]:
    """Hold the SQLite file for one daemon; the system lets go of it even after kill -9. No-op without a file.

    Raises StoreInUse when another daemon holds it, or could under another name of the same file.
    """
    if path is None:
        yield
        return
    with _opened_lock(_lock_of(path)) as lock:
        while not _locked(lock, fcntl.LOCK_EX):
            if not _locked(lock, fcntl.LOCK_SH):
                raise StoreInUse(f"another orchestrator works on {path}: stop it, or give this one its own")
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(LOOK_SECONDS)
        if _names(path) > 1:
            raise StoreInUse(f"{path} has further names (hard links), under which another could work: remove them")
        yield


def is_unattended(path: str | None) -> bool:
    """Whether it is certain that no daemon holds the SQLite file. One that starts at this moment waits for the answer.

    The lock is shared for an instant, which no daemon does: so it tells us from another one.
    """
    if path is None:
        return False
    try:
        with _lock_of(path).open() as lock:
            return _locked(lock, fcntl.LOCK_SH)
    except OSError as error:
        return isinstance(error, FileNotFoundError)


def _lock_of(path: str) -> Path:
    return Path(f"{Path(path).resolve()}.lock")


def _locked(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _names(path: str) -> int:
    try:
        return Path(path).stat().st_nlink
    except FileNotFoundError:
        return 0


def _opened_lock(path: Path) -> IO[str]:
    try:
        return open(path, "a", opener=partial(os.open, mode=0o600))
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreUnavailable(f"{path}: {reason}: check that its folder is writable for this user") from error
