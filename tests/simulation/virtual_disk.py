"""A real SQLite file without threads: each statement is one step of the loop, and may find the disk full or locked.

`virtual_server.py` is the same for PostgreSQL.
"""

import asyncio
import contextlib
import sqlite3
from functools import partial
from types import SimpleNamespace

from virtual_loop import PROCESS

from orchestrator.store import database as store
from orchestrator.store import driver
from orchestrator.store.schema import migrate

TIME_FUNCTIONS = ("julianday", "strftime", "datetime", "date", "time", "unixepoch")
PRUNED = ("prompts", "prompt_states", "replies", "batch_states")
"""Tables whose deleted rows are kept aside."""
BUSY_SECONDS, BUSY_STEP_SECONDS = 30.0, 0.25
WRITES = ("insert", "update", "delete", "begin immediate")


AUDIT = """
CREATE TABLE audit (at_ms INTEGER, kind TEXT, id INTEGER, before TEXT, after TEXT, batch_id INTEGER);
CREATE TRIGGER audit_prompts AFTER UPDATE OF status ON prompt_states WHEN OLD.status <> NEW.status BEGIN
    INSERT INTO audit VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'prompt', NEW.prompt_id,
        OLD.status, NEW.status, coalesce(NEW.batch_id, OLD.batch_id));
END;
CREATE TRIGGER audit_batches AFTER UPDATE OF status ON batch_states WHEN OLD.status <> NEW.status BEGIN
    INSERT INTO audit VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'batch', NEW.id,
        OLD.status, NEW.status, NEW.id);
END;
"""
KEEP = """
CREATE TABLE pruned_{table} AS SELECT *, 0 AS pruned_at_ms FROM {table} WHERE 0;
CREATE TRIGGER keep_{table} BEFORE DELETE ON {table} BEGIN
    INSERT INTO pruned_{table} SELECT *, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
    FROM {table} WHERE rowid = OLD.rowid;
END;
"""
_TEMPLATE = []


class Faults:
    """`full` refuses every write, `bad_commits` so many commits to come; of `lying_commits` only the answer is lost.

    `traps` are (word, strike): strike is called, once, with the process that writes the word into a row.
    """

    def __init__(self):
        self.full = False
        self.bad_commits = 0
        self.lying_commits = 0
        self.traps = []

    def spring(self, written):
        """`written` are the values that somebody writes now."""
        process = PROCESS.get()
        if process is None:
            return
        for trap in [trap for trap in self.traps if f"'{trap[0]}'" in written]:
            self.traps.remove(trap)
            trap[1](process)


class Disk(Faults):
    """The queue in a file of its own; the clock gives Unix seconds."""

    begin = "BEGIN IMMEDIATE"
    can_replace = True
    given_ids = ""

    def __init__(self, folder, clock, rng):
        self.path = folder / "queue.db"
        self.url = f"sqlite:///{self.path}"
        self.clock = clock
        self.rng = rng
        super().__init__()

    def prepare(self, connection):
        """Give a connection this machine's clock and dice."""
        calculator = sqlite3.connect(":memory:")

        def at_now(name, *values):
            values = [self._now() if value == "now" else value for value in values]
            marks = ", ".join("?" * len(values))
            return calculator.execute(f"SELECT {name}({marks})", values).fetchone()[0]

        for name in TIME_FUNCTIONS:
            connection.create_function(name, -1, partial(at_now, name))
        connection.create_function("randomblob", 1, self.rng.randbytes)
        return connection

    def _now(self):
        return self.clock() / 86_400 + 2_440_587.5

    def open(self):
        """A connection for a user's client, which never waits for a lock."""
        return self.prepare(sqlite3.connect(self.path, timeout=0, isolation_level=None))

    def is_busy(self, error):
        return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)

    def in_place(self):
        """The parts of the real world that this one stands for."""
        return {
            (driver, "connected"): partial(connected, self),
            (store, "PRAGMAS"): (*store.PRAGMAS, "busy_timeout=0", "synchronous=OFF"),
        }

    async def make(self):
        """An empty queue, migrated once per process of the simulator."""
        if not _TEMPLATE:
            database = store.Database(self.url)
            await migrate(database)
            await database.close()
            with contextlib.closing(self.open()) as connection:
                connection.executescript(AUDIT + "".join(KEEP.format(table=table) for table in PRUNED))
                _sort_indexes(connection)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            _TEMPLATE.append(self.path.read_bytes())
        self.path.write_bytes(_TEMPLATE[0])

    def lock(self, connection):
        """A user's client forgets a write transaction."""
        connection.execute("BEGIN IMMEDIATE")

    def disarm(self, connection):
        """No trigger fires on this connection from here on."""
        for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")

    def close(self):
        pass

    def refuses(self, function):
        """What goes wrong with this call of the driver, None if nothing does."""
        name = getattr(function.func, "__name__", "") if isinstance(function, partial) else ""
        if name == "commit" and self.bad_commits:
            self.bad_commits -= 1
            return sqlite3.OperationalError("disk I/O error")
        statements = [given for given in function.args if isinstance(given, str)] if "execute" in name else []
        if self.full and any(each.lstrip().lower().startswith(WRITES) for each in statements):
            return sqlite3.OperationalError("database or disk is full")
        return None


class Unthreaded(driver.Connection):
    """A connection whose calls are run by the loop instead of a thread."""

    def __init__(self, disk, connector):
        super().__init__(connector)
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._thread = SimpleNamespace(daemon=True)
        self._tx = SimpleNamespace(put_nowait=self._queue)
        self._opened = None

    def __await__(self):
        process = PROCESS.get()
        if process is not None:
            process.belongings.append(self)
        return self._connect().__await__()

    def __del__(self):
        pass

    def vanish(self):
        """kill -9: the system closes the file, and what was not committed was never there."""
        if self._opened is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed in good order
                self._opened.rollback()  # a close alone leaves the lock to cursors that are still open
            self._opened.close()

    def _queue(self, item):
        future, function = item
        self._loop.call_soon(self._run, future, function, self._loop.time() + BUSY_SECONDS)

    def _run(self, future, function, deadline):
        try:
            result = self._called(function)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) and self._loop.time() < deadline:
                self._loop.call_later(BUSY_STEP_SECONDS, self._run, future, function, deadline)
                return
            _settle(future, error=error)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits, as the thread does
            _settle(future, error=error)
        else:
            _settle(future, result=result)

    def _called(self, function):
        if self._disk.traps and isinstance(function, partial):
            self._disk.spring(str(function.args[1:]))
        error = self._disk.refuses(function)
        if error is not None:
            if self._opened is not None and self._opened.in_transaction:
                self._opened.rollback()
            raise error
        result = function()
        if self._disk.lying_commits and getattr(getattr(function, "func", None), "__name__", "") == "commit":
            self._disk.lying_commits -= 1
            raise sqlite3.OperationalError("disk I/O error")
        if isinstance(result, sqlite3.Connection):
            self._opened = self._disk.prepare(result)
        return result


def _sort_indexes(connection):
    """SQLAlchemy makes them in any order, and the order may decide which one SQLite walks."""
    made = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
    for name, statement in connection.execute(made).fetchall():
        connection.execute(f"DROP INDEX {name}")
        connection.execute(statement)


def _settle(future, result=None, error=None):
    if future is None or future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class UnthreadedReader(Unthreaded, driver.Reader):
    pass


def connected(disk, path, *, writes):
    """What stands in for `driver.connected`."""
    kind = Unthreaded if writes else UnthreadedReader
    return kind(disk, partial(sqlite3.connect, path, isolation_level=None))
