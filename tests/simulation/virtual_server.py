"""A queue on a real PostgreSQL server under virtual time: the server's clock is ours, and connections get lost.

The server takes real time to answer; until it does, virtual time stands still (see `virtual_loop.py`), so that a seed
repeats itself but for the order in which answers of the same moment come.
"""

import asyncio
import contextlib

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy.ext.asyncio import create_async_engine
from virtual_disk import PRUNED, Faults
from virtual_loop import PROCESS

from orchestrator.store import postgresql

TEMPLATE = "simulated_queue"
IDLE_SECONDS = 30.0
"""After which the server ends the session of a daemon that was frozen within a transaction, as ours are set to."""
AUDIT = """
CREATE TABLE audit (at_ms bigint, kind text, id bigint, before text, after text, batch_id bigint);
CREATE FUNCTION audit_prompts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit
    VALUES (now_ms(), 'prompt', NEW.prompt_id, OLD.status, NEW.status, coalesce(NEW.batch_id, OLD.batch_id));
    RETURN NULL;
END $$;
CREATE FUNCTION audit_batches() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit VALUES (now_ms(), 'batch', NEW.id, OLD.status, NEW.status, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER audit_prompts AFTER UPDATE OF status ON prompt_states FOR EACH ROW
    WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION audit_prompts();
CREATE TRIGGER audit_batches AFTER UPDATE OF status ON batch_states FOR EACH ROW
    WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION audit_batches();
"""
KEEP = """
CREATE TABLE pruned_{table} AS SELECT *, 0::bigint AS pruned_at_ms FROM {table} WHERE false;
CREATE FUNCTION keep_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO pruned_{table} SELECT OLD.*, now_ms();
    RETURN OLD;
END $$;
CREATE TRIGGER keep_{table} BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep_{table}();
"""
CLOCK = """
CREATE OR REPLACE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT pg_read_file('{folder}/now-' || current_database())::bigint
$$;
"""
WRITES = ("insert", "update", "delete")


@contextlib.contextmanager
def running():
    """The folder of a server with a template of a simulated queue."""
    from postgres import TEMPLATE as EMPTY  # noqa: PLC0415 - needs a driver that only these queues need
    from postgres import Server  # noqa: PLC0415

    with contextlib.closing(Server()) as server:
        server.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE {EMPTY}")
        with psycopg.connect(server.url(TEMPLATE), autocommit=True) as connection:
            connection.execute(CLOCK.format(folder=server.folder) + AUDIT)
            connection.execute("".join(KEEP.format(table=table) for table in PRUNED))
        yield server.folder


def places_on(folder):
    """What makes the queue of a world on that server."""
    from postgres import Databases  # noqa: PLC0415

    def place(_folder, clock, rng):
        return Queue(Databases(folder), clock, rng)

    return place


class Queue(Faults):
    """One database, as `Disk` is one file. A commit that fails is one after or before which the connection is lost."""

    begin = "BEGIN"
    can_replace = False
    given_ids = "OVERRIDING SYSTEM VALUE"

    def __init__(self, databases, clock, rng):
        super().__init__()
        self.clock = clock
        self.rng = rng
        self.connections = []
        self._databases = databases
        self._lent = databases.lent(TEMPLATE)
        self.url = self._lent.__enter__()
        self._now = databases.folder / f"now-{self.url.split('?')[0].rpartition('/')[2]}"
        self._stamped = None
        self._reaping = None

    async def make(self):
        self._reaping = asyncio.create_task(self._reap())

    def close(self):
        if self._reaping is not None:
            self._reaping.cancel()
        for connection in self.connections:
            connection.pgconn.finish()
        self._lent.__exit__(None, None, None)
        self._databases.close()
        self._now.unlink(missing_ok=True)

    def stamp(self):
        """Tell the server what time it is."""
        now_ms = int(self.clock() * 1000)
        if now_ms != self._stamped:
            new = self._now.with_suffix(".new")
            new.write_text(str(now_ms))
            new.replace(self._now)  # a session may be reading it
            self._stamped = now_ms

    def open(self):
        """A connection for a user's client, which waits for a lock for a moment only."""
        return Client(self)

    def is_busy(self, error):
        return isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)

    def lock(self, connection):
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE prompt_states, batch_states IN EXCLUSIVE MODE")

    def disarm(self, connection):
        connection.execute("SET session_replication_role = replica")

    def in_place(self):
        def engine(url, **options):
            return create_async_engine(url, async_creator=lambda: self._connected(url), **options)

        async def changes(_url, _told):
            while True:  # nobody listens in here: the loop looks now and then
                yield
                await asyncio.sleep(IDLE_SECONDS)

        return {(postgresql, "create_async_engine"): engine, (postgresql, "changes"): changes}

    async def _connected(self, url):
        where = url.translate_connect_args(username="user", database="dbname")
        connection = await Connection.connect(**where, **url.query, cursor_factory=Cursor)
        connection.queue, connection.process = self, PROCESS.get()
        if connection.process is not None:
            connection.process.belongings.append(connection)
        self.connections.append(connection)
        return connection

    async def _reap(self):
        while True:
            await asyncio.sleep(IDLE_SECONDS)
            self.connections = [connection for connection in self.connections if not connection.closed]
            for connection in self.connections:
                if connection.process is not None and connection.process.frozen:
                    connection.end_idle_transaction()


class Connection(psycopg.AsyncConnection):
    """`process` is whose it is, None for a user's command; `wrote` tells whether its transaction has to be stored."""

    queue = process = None
    wrote = False

    async def commit(self):
        wrote, self.wrote = self.wrote, False
        if wrote and self.queue.bad_commits:
            self.queue.bad_commits -= 1
            raise self._lost()
        await super().commit()
        if wrote and self.queue.lying_commits:
            self.queue.lying_commits -= 1
            raise self._lost()

    def _lost(self):
        self.pgconn.finish()
        return psycopg.OperationalError("server closed the connection unexpectedly")

    def vanish(self):
        """kill -9: the system closes the socket."""
        if not self.closed:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.pgconn.socket)
            loop.remove_writer(self.pgconn.socket)
            self.pgconn.finish()

    def end_idle_transaction(self):
        if self.pgconn.transaction_status == TransactionStatus.INTRANS:
            self.queue._databases.execute(f"SELECT pg_terminate_backend({self.pgconn.backend_pid})")


class Cursor(psycopg.AsyncCursor):
    async def execute(self, query, params=None, **options):
        self._begins(query, params)
        return await super().execute(query, params, **options)

    async def executemany(self, query, params_seq, **options):
        self._begins(query, params_seq)
        return await super().executemany(query, params_seq, **options)

    def _begins(self, query, params):
        queue = self.connection.queue
        if queue is None:
            return
        queue.stamp()
        queue.spring(str(params))
        if str(query).lstrip().lower().startswith(WRITES):
            if queue.full:
                raise psycopg.errors.DiskFull("could not extend file: No space left on device")
            self.connection.wrote = True


class Client:
    """A user's client: it takes question marks, and each of its statements is a transaction unless it begins one."""

    def __init__(self, queue):
        self._queue = queue
        self._connection = psycopg.connect(queue.url, autocommit=True, options="-c timezone=UTC -c lock_timeout=20ms")

    def execute(self, statement, values=()):
        self._queue.stamp()
        return self._connection.execute(statement.replace("?", "%s"), values or None)

    def close(self):
        self._connection.close()
