"""Where SQLite and PostgreSQL differ within a statement or a transaction. Connections differ in `database.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Boolean, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Dialect, Select, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

POSTGRESQL = "postgresql"
ARRIVED, MOVED, ENDED = "orchestrator_prompts", "orchestrator_batches", "orchestrator_results"
"""Channels of NOTIFY: prompts came in (a trigger tells), a batch moved, prompts ended."""
TURN = 0x6F726368
"""Our advisory lock: the letters of `orch`."""


class _Bytes(UserDefinedType[bytes]):
    """Text as bytes: from SQLite as it comes, from PostgreSQL encoded here, which is cheaper than a `bytea`."""

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[bytes | None], Any] | None:
        return None if dialect.name != POSTGRESQL else _decoded

    def result_processor(self, dialect: Dialect, _coltype: object) -> Callable[[Any], bytes | None] | None:
        return None if dialect.name != POSTGRESQL else _encoded


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _encoded(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


class utf8(FunctionElement[bytes]):  # noqa: N801 - reads as the SQL function it is
    """A user's text column as bytes: SQLite keeps whatever bytes were stored, UTF-8 or not."""

    type = _Bytes()
    inherit_cache = True


@compiles(utf8, "sqlite")
def _utf8_sqlite(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401
    return f"CAST({compiler.process(element.clauses, **options)} AS BLOB)"


@compiles(utf8, POSTGRESQL)
def _utf8_postgresql(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401
    return f"CAST({compiler.process(element.clauses, **options)} AS TEXT)"


class readable_time(FunctionElement[bool]):  # noqa: N801
    """Whether a user's time is empty or one the database understands; PostgreSQL takes no other.

    SQLite also reads `12:00` as in the year 2000, and `2099` as a day of the Stone Age: a time begins with a date.
    """

    type = Boolean()
    inherit_cache = True


@compiles(readable_time, "sqlite")
def _readable_time_sqlite(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401
    column = compiler.process(element.clauses, **options)
    return f"({column} IS NULL OR {column} LIKE '____-__-__%' AND julianday({column}) IS NOT NULL)"


@compiles(readable_time, POSTGRESQL)
def _readable_time_postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:  # noqa: ANN401
    return "true"


class utc_text(FunctionElement[str]):  # noqa: N801
    """A time of a view as our commands print it: `2027-01-15 08:00:00.000`."""

    type = Text()
    inherit_cache = True


@compiles(utc_text, "sqlite")
def _utc_text_sqlite(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401
    return str(compiler.process(element.clauses, **options))


@compiles(utc_text, POSTGRESQL)
def _utc_text_postgresql(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401
    column = compiler.process(element.clauses, **options)
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')"


class among(FunctionElement[bool]):  # noqa: N801
    """Whether a column is one of the `listed` values of a parameter, however many they are."""

    inherit_cache = True  # and no type: compared with true, it would find no index


@compiles(among, "sqlite")
def _among_sqlite(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled clauses


@compiles(among, POSTGRESQL)
def _among_postgresql(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY({values})"


def listed(connection: AsyncConnection, values: Sequence[Any]) -> Any:  # noqa: ANN401 - as the driver takes it
    """Numbers or texts as the one parameter of `among`."""
    return values if connection.dialect.name == POSTGRESQL else msgspec.json.encode(values).decode()


async def take_turn(connection: AsyncConnection) -> None:
    """Have this transaction alone decide by what it reads. On SQLite every write does."""
    if connection.dialect.name == POSTGRESQL:
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({TURN})")


async def locked(
    connection: AsyncConnection, ids: Select[tuple[int]], of: Table, given: Mapping[str, Any]
) -> set[int] | None:
    """Keep others from these rows until the transaction ends; those that nobody held yet, None for all of them.

    What a row beside them says must be read by a later statement: it may have been changed until now.
    """
    if connection.dialect.name != POSTGRESQL:
        return None
    return {*(await connection.execute(ids.with_for_update(of=of, skip_locked=True), given)).scalars()}


async def server_encoding(connection: AsyncConnection) -> str | None:
    """The characters that the database knows; None for SQLite, which stores what it is given."""
    if connection.dialect.name != POSTGRESQL:
        return None
    return str((await connection.exec_driver_sql("SHOW server_encoding")).scalar_one())


def commits_in_order(connection: AsyncConnection) -> bool:
    """Whether rows become visible in the order of their ids: where there is one writer at a time."""
    return connection.dialect.name != POSTGRESQL


def storable(connection: AsyncConnection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A provider's words as the database takes them: PostgreSQL knows no text with a NUL in it (F28)."""
    if connection.dialect.name != POSTGRESQL:
        return rows
    return [{name: _without_nul(value) for name, value in row.items()} for row in rows]


def _without_nul(value: Any) -> Any:  # noqa: ANN401 - what a column holds
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


async def announce(connection: AsyncConnection, channel: str) -> None:
    """Tell those who LISTEN, once this transaction is committed. Who reads SQLite looks at its file."""
    if connection.dialect.name == POSTGRESQL:
        await connection.exec_driver_sql(f"NOTIFY {channel}")
