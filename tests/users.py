"""Who works on a queue: users with any SQL client, the same words for both databases, and a daemon by short names."""

import contextlib
import datetime as dt
import json
import re
import sqlite3

import psycopg
from psycopg.rows import dict_row

from orchestrator.core.model import Lane
from orchestrator.store.batches import get_batch, insert_batch
from orchestrator.store.lanes import find_or_make_lane
from orchestrator.store.queue import Admitted, Line, admit_prompts, take_into_batch

NOW_MS = 1_800_000_000_000
LANE = Lane("p", "/v1/chat/completions", "24h")
_SESSIONS: dict[str, psycopg.Connection] = {}


class User:
    def insert_many(self, count, **columns):
        return [self.insert(**columns) for _ in range(count)]

    def values(self, statement, *values):
        return [next(iter(row.values())) for row in self.rows(statement, *values)]

    def value(self, statement, *values):
        (found,) = self.values(statement, *values)
        return found

    def state(self, prompt_id):
        (row,) = self.rows("SELECT * FROM prompt_states WHERE prompt_id = ?", prompt_id)
        return row

    def put(self, prompt_id, status):
        """Bring a prompt to a status on a path that the daemon may take."""
        steps = {
            "queued": [],
            "batched": ["status = 'batched', batch_id = 7"],
            "done": ["status = 'batched', batch_id = 7", "status = 'done', batch_id = NULL"],
            "failed": ["status = 'failed'"],
            "cancelled": ["status = 'cancelled'"],
        }
        for step in steps[status]:
            self.run(f"UPDATE prompt_states SET {step} WHERE prompt_id = ?", prompt_id)


class SqliteUser(User):
    refused = sqlite3.IntegrityError

    def __init__(self, path):
        self.connection = sqlite3.connect(path, timeout=5, isolation_level=None)
        self.connection.row_factory = sqlite3.Row

    def run(self, statement, *values):
        return self.connection.execute(statement, values).rowcount

    def rows(self, statement, *values):
        return [dict(row) for row in self.connection.execute(statement, values)]

    def run_many(self, statement, rows):
        self.connection.executemany(statement, rows)

    def insert(self, **columns):
        """One prompt; its id."""
        row = {"prompt": "hi"} | columns
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        return self.connection.execute(f"INSERT INTO prompts ({names}) VALUES ({marks})", [*row.values()]).lastrowid

    def columns(self, table):
        return [row["name"] for row in self.rows(f"PRAGMA table_info({table})")]


class PostgresUser(User):
    refused = (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.GeneratedAlways)

    def __init__(self, url):
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row, options="-c timezone=UTC")

    def run(self, statement, *values):
        return self.connection.execute(spelled(statement, values), values or None).rowcount

    def rows(self, statement, *values):
        found = self.connection.execute(spelled(statement, values), values or None)
        return [{name: as_sqlite_has_it(value) for name, value in row.items()} for row in found]

    def run_many(self, statement, rows):
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(spelled(statement, rows), rows)

    def insert(self, **columns):
        """One prompt; its id."""
        row = {"prompt": "hi"} | columns
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        return self.value(f"INSERT INTO prompts ({names}) VALUES ({marks}) RETURNING id", *row.values())

    def columns(self, table):
        return [column.name for column in self.connection.execute(f"SELECT * FROM {table} LIMIT 0").description]


class Row(tuple):
    """As `sqlite3.Row`: by number or by name."""

    __slots__ = ()
    names = ()

    def __getitem__(self, key):
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self):
        return self.names


def asked(address, statement, values):
    """Rows of one statement, run and committed by a connection beside the daemon's, as a user's client would."""
    if not str(address).startswith("postgresql:"):
        with contextlib.closing(sqlite3.connect(address, timeout=20)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(statement, values).fetchall()
            connection.commit()
            return rows
    session = _session(address)
    try:
        return _told_by(session, statement, values)
    except psycopg.OperationalError:
        if not session.closed:
            raise
        return _told_by(_session(address), statement, values)  # it was cut while nothing was asked


def _session(address):
    """The last one is kept for the next question: to begin one is most of what a question costs a server."""
    kept = _SESSIONS.get(address)
    if kept is None or kept.closed:
        forget_sessions()
        kept = _SESSIONS[address] = psycopg.connect(address, autocommit=True)
        kept.execute("SET TIME ZONE 'UTC'")  # its own options are the address's
    return kept


def forget_sessions():
    while _SESSIONS:
        _SESSIONS.popitem()[1].close()


def _told_by(session, statement, values):
    found = session.execute(spelled(statement, values), values or None)
    if found.description is None:
        return []
    kind = type("Row", (Row,), {"names": tuple(column.name for column in found.description)})
    return [kind(map(as_sqlite_has_it, row)) for row in found]


def spelled(statement, values):
    """A mark within quotes is text."""
    if not values:
        return statement
    return re.sub(r"'[^']*'|\?", lambda found: "%s" if found[0] == "?" else found[0], statement.replace("%", "%%"))


def as_sqlite_has_it(value):
    if isinstance(value, dt.datetime):
        return f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}"
    return json.dumps(value) if isinstance(value, dict) else value


class Daemon:
    """Short names for what stages do through the store."""

    def __init__(self, database):
        self.database = database
        self.read = database.read
        self.write = database.write

    async def admit(self, *prompt_ids, lane=LANE, nbytes=10, waiting=False):
        """Admit these prompts to a lane; the lane's id."""

        async def work(connection):
            lane_id = await find_or_make_lane(connection, lane)
            await admit_prompts(connection, [Admitted(one, lane_id, "m", nbytes, waiting) for one in prompt_ids])
            return lane_id

        return await self.write(work)

    async def batch(self, *prompt_ids, key="orc-1", lane=LANE, owner="me", lease_until_ms=NOW_MS + 1000):
        """A batch in `packing` that holds these admitted prompts."""

        async def work(connection):
            lane_id = await find_or_make_lane(connection, lane)
            batch_id = await insert_batch(connection, key, lane_id, owner, NOW_MS, lease_until_ms)
            taken = await take_into_batch(connection, batch_id, [Line(prompt_id, 10) for prompt_id in prompt_ids])
            assert taken == len(prompt_ids)
            return await get_batch(connection, batch_id)

        return await self.write(work)
