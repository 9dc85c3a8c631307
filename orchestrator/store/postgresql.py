"""Connections to PostgreSQL: how they are opened, and how one of them listens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from orchestrator.errors import ConfigError
from orchestrator.store.dialect import ARRIVED, MOVED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncConnection

CONNECTIONS = 10
"""Of one daemon, and one more that listens."""
SESSION = {
    "timezone": "UTC",
    "synchronous_commit": "on",
    "statement_timeout": "10min",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
}
"""What is committed must be there after a crash of the server, or it is paid twice: whatever the server is set to.

Frozen within a transaction, a daemon would keep the others from its rows: the server ends its session.
"""
CONNECTING = {"connect_timeout": "10", "keepalives_idle": "30", "tcp_user_timeout": "30000"}
LISTEN_SECONDS, RECONNECT_SECONDS = 15.0, 5.0
"""How long nothing is heard before a look all the same, and how often a look is taken while nobody can listen."""


def writer(url: URL) -> AsyncEngine:
    """Transactions see what others committed meanwhile: what they decide by, they lock."""
    try:
        _require_options(url)
        return create_async_engine(
            dressed(url).set(drivername="postgresql+psycopg"), pool_size=CONNECTIONS, max_overflow=0,
            paramstyle="format", hide_parameters=True,
        )  # fmt: skip
    except ModuleNotFoundError as error:
        raise ConfigError(
            "database.url names PostgreSQL, whose driver is missing: install this package with its extra postgresql"
        ) from error


def _require_options(url: URL) -> None:
    """Raises ConfigError for what psql would not take either."""
    from psycopg import ProgrammingError, conninfo  # noqa: PLC0415 - as below

    try:
        given: dict[str, Any] = dict(dressed(url).query)
        conninfo.timeout_from_conninfo(conninfo.conninfo_to_dict(conninfo.make_conninfo(**given)))
    except ProgrammingError as error:
        raise ConfigError(f"database.url: {error}: see the options that psql takes in an address") from error


def reader(of: AsyncEngine) -> AsyncEngine:
    """The same connections; each transaction reads one snapshot."""
    return of.execution_options(isolation_level="REPEATABLE READ")


def dressed(url: URL) -> URL:
    """The address with our settings of a session; what the user set there wins."""
    given = url.query.get("options", "")
    ours = " ".join(f"-c {name}={value}" for name, value in SESSION.items())
    options = f"{ours} {given if isinstance(given, str) else ' '.join(given)}".strip()
    defaults = {**CONNECTING, "application_name": "orchestrator", "client_encoding": "utf8"}
    return url.set(query={**defaults, **url.query, "options": options})


async def read_server_ms(connection: AsyncConnection) -> int:
    """The server's clock at this moment."""
    return int((await connection.exec_driver_sql("SELECT now_ms()")).scalar_one())


def session(url: URL, options: str) -> Any:  # noqa: ANN401 - the driver's connection
    """A connection for one command, each statement a transaction of its own; `options` win over our settings."""
    given = _keywords(url)
    return _driver().connect(**{**given, "options": f"{given['options']} {options}"}, autocommit=True)


def errors() -> type[Exception]:
    """What the driver raises."""
    found: type[Exception] = _driver().Error
    return found


async def changes(url: URL, told: Callable[[str | None], None]) -> AsyncIterator[None]:
    """Yield whenever somebody may have changed the queue; never ends. Whoever cannot listen looks now and then.

    `told` hears each time why it cannot be listened, and None when it can.
    """
    while True:
        try:
            async with await _connected(url) as connection:
                await connection.execute(f"LISTEN {ARRIVED}; LISTEN {MOVED}")
                told(None)
                while True:
                    yield
                    await _heard(connection)
        except (_driver().Error, OSError) as error:
            told(" ".join(str(error).split()))
        yield
        await asyncio.sleep(RECONNECT_SECONDS)


async def _connected(url: URL) -> Any:  # noqa: ANN401 - the driver's connection
    return await _driver().AsyncConnection.connect(**_keywords(url), autocommit=True)


def _keywords(url: URL) -> dict[str, Any]:
    """The address as the driver takes it; of what is named twice, the option wins."""
    return {**url.translate_connect_args(username="user", database="dbname"), **dressed(url).query}


async def _heard(connection: Any) -> None:  # noqa: ANN401
    """Return at the first notification, or after a while; raise when the connection is gone."""
    if not [told async for told in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1)]:
        await connection.execute("SELECT 1")


def _driver() -> Any:  # noqa: ANN401
    import psycopg  # noqa: PLC0415 - an extra, loaded by those who name PostgreSQL

    return psycopg
