"""A real SQLite file without threads: each statement is one step of the loop, and may find the disk full or locked."""

import asyncio
import contextlib
import sqlite3
from functools import partial
from types import SimpleNamespace

import aiosqlite
from virtual_loop import PROCESS

TIME_FUNCTIONS = ("julianday", "strftime", "datetime", "date", "time", "unixepoch")
BUSY_SECONDS, BUSY_STEP_SECONDS = 30.0, 0.25
WRITES = ("insert", "update", "delete", "begin immediate")


class Disk:
    """`full` refuses every write, `bad_commits` so many commits to come; the clock gives Unix seconds.

    `traps` are (word, strike): strike is called, once, with the process that writes the word into a row.
    """

    def __init__(self, clock, rng):
        self.clock = clock
        self.rng = rng
        self.full = False
        self.bad_commits = 0
        self.lying_commits = 0
        self.traps = []

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

    def open(self, path):
        """A connection for a user's client, which never waits for a lock."""
        return self.prepare(sqlite3.connect(path, timeout=0, isolation_level=None))

    def spring(self, function):
        process = PROCESS.get()
        written = str(function.args[1:]) if process is not None and isinstance(function, partial) else ""
        for trap in [trap for trap in self.traps if f"'{trap[0]}'" in written]:
            self.traps.remove(trap)
            trap[1](process)

    def refuses(self, function):
        """What goes wrong with this call of the driver, None if nothing does."""
        name = getattr(function.func, "__name__", "") if isinstance(function, partial) else ""
        if name == "commit" and self.bad_commits:
            self.bad_commits -= 1
            return sqlite3.OperationalError("disk I/O error")
        words = str(function.args[0]).lstrip().lower() if "execute" in name and function.args else ""
        if self.full and words.startswith(WRITES):
            return sqlite3.OperationalError("database or disk is full")
        return None


class Connection(aiosqlite.Connection):
    """The driver's connection with its calls run by the loop instead of a thread."""

    def __init__(self, disk, connector):
        super().__init__(connector, 64)
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
            result = self._execute_now(function)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) and self._loop.time() < deadline:
                self._loop.call_later(BUSY_STEP_SECONDS, self._run, future, function, deadline)
                return
            _settle(future, error=error)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits, as the thread does
            _settle(future, error=error)
        else:
            _settle(future, result=result)

    def _execute_now(self, function):
        if self._disk.traps:
            self._disk.spring(function)
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


def _settle(future, result=None, error=None):
    if future is None or future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def connector_of(disk):
    """What stands in for `aiosqlite.connect`."""

    def connect(database, **options):
        return Connection(disk, partial(sqlite3.connect, database, **options))

    return connect
