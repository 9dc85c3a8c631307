"""The database as commands open it: current schema required, closed in good order."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from orchestrator.cli.screen import sign_of_life
from orchestrator.config import Loaded, load
from orchestrator.errors import InputError, StoreUnavailable
from orchestrator.store.database import Database
from orchestrator.store.schema import make_private_file, migrate, require_current

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from orchestrator.config import Config

T = TypeVar("T")

AGAIN = "run it again"
OWN_ENDS = ("", "-wal", "-shm", "-journal", ".lock")
"""Of the names of a SQLite queue's files."""


def with_database(
    config_path: Path | None,
    work: Callable[[Database, Loaded], Awaitable[T]],
    *,
    create: bool = False,
    migrated: bool = True,
    doing: str | None = None,
) -> T:
    """Load the settings, open the database and run `work`; with `create`, make or upgrade the database first.

    Without `migrated` it is made but not upgraded, and may be of any revision.
    A terminal is told what it is doing when that takes long; None for work that shows its own progress.
    """
    return asyncio.run(_opened(load(config_path, os.environ), work, create=create, migrated=migrated, doing=doing))


def require_elsewhere(output: Path, config: Config) -> None:
    """Raises InputError where a file that is to be written is one of the queue's own, whether that is there or not."""
    queue = Database(config.database.url).path
    if queue is not None and output.resolve() in {Path(f"{Path(queue).resolve()}{end}") for end in OWN_ENDS}:
        raise InputError(f"{output}: is the queue itself: name another file")


@contextlib.contextmanager
def telling_how_far(told: Callable[[], str]) -> Iterator[None]:
    """What is done a page at a time says how far it came when Ctrl-C breaks it off; raises InputError."""
    try:
        yield
    except asyncio.CancelledError:
        msg = f"interrupted; {told()}; {AGAIN} for the rest"
        raise InputError(msg) from None


@contextlib.asynccontextmanager
async def _tried_once() -> AsyncIterator[None]:
    """A command does not go on by itself when the database does, as the daemon does: it says so."""
    try:
        yield
    except StoreUnavailable as error:
        if AGAIN in str(error):
            raise
        msg = f"{error}; then {AGAIN}"
        raise StoreUnavailable(msg) from error


async def _opened(
    loaded: Loaded, work: Callable[[Database, Loaded], Awaitable[T]], *, create: bool, migrated: bool, doing: str | None
) -> T:
    database = Database(loaded.config.database.url)
    try:
        if create:
            if database.path is not None:
                make_private_file(database.path)
            if migrated:
                await migrate(database)
        else:
            await require_current(database)
        async with _tried_once(), sign_of_life(doing) if doing else contextlib.nullcontext():
            return await work(database, loaded)
    finally:
        await database.close()
