"""aiosqlite with fewer journeys to its thread and back: each costs more than most statements do."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import aiosqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


class Found(NamedTuple):
    """What a statement brought; `description` is None, and `rows` empty, where it is no query."""

    description: Any
    rows: list[Any]
    rowcount: int
    lastrowid: int | None


NOTHING = Found(None, [], -1, None)


class Cursor:
    """As SQLAlchemy asks for it: opened, executed, fetched and closed in one journey instead of four."""

    arraysize = 1

    def __init__(self, run: Callable[..., Awaitable[Found]]) -> None:
        self._run = run
        self._found = NOTHING

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._found = await self._run(sql, parameters)

    async def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        self._found = await self._run(sql, parameters, many=True)

    async def fetchall(self) -> list[Any]:
        return self._found.rows

    async def close(self) -> None:
        self._found = self._found._replace(rows=[])

    @property
    def description(self) -> Any:  # noqa: ANN401 - as the driver gives it
        return self._found.description

    @property
    def rowcount(self) -> int:
        return self._found.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._found.lastrowid


class Connection(aiosqlite.Connection):
    """Begins a transaction in one journey with its first statement. Ends with the process, should nobody close it."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=0)
        self._thread.daemon = True
        self._opening: str | None = None

    def cursor(self) -> Cursor:  # type: ignore[override]
        return Cursor(self.run)

    def begin(self, sql: str) -> None:
        self._opening = sql

    async def commit(self) -> None:
        if not self._never_began():
            await super().commit()

    async def rollback(self) -> None:
        if not self._never_began():
            await super().rollback()

    def _never_began(self) -> bool:
        return self._taken_opening() is not None

    def _taken_opening(self) -> str | None:
        opening, self._opening = self._opening, None
        return opening

    async def run(self, sql: str, parameters: Sequence[Any], *, many: bool = False) -> Found:
        sent = self._execute(self._execute_now, sql, parameters, many, self._taken_opening())  # type: ignore[no-untyped-call]
        found: Found = await sent
        return found

    def _execute_now(self, sql: str, parameters: Sequence[Any], many: bool, opening: str | None) -> Found:  # noqa: FBT001
        with contextlib.closing(self._conn.cursor()) as cursor:
            if opening is not None:
                cursor.execute(opening)
            (cursor.executemany if many else cursor.execute)(sql, parameters)
            return Found(cursor.description, cursor.fetchall(), cursor.rowcount, cursor.lastrowid)


class Reader(Connection):
    """Only reads: nobody waits for the end of a snapshot, which cannot fail."""

    async def commit(self) -> None:
        self._end(self._conn.commit)

    async def rollback(self) -> None:
        self._end(self._conn.rollback)

    def _end(self, function: Callable[[], None]) -> None:
        if not self._never_began():
            self._tx.put_nowait((None, function))


def connected(path: str, *, writes: bool) -> Connection:
    """Not connected until it is awaited. It sends no BEGIN by itself."""
    connector = partial(sqlite3.connect, path, isolation_level=None)
    return Connection(connector) if writes else Reader(connector)
