"""A PostgreSQL server of the tests' own: started once per run from installed binaries, stopped with its starter.

It listens on a socket in its own folder only, holds nothing worth a disk, and never runs as root.
"""

import asyncio
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from orchestrator.store.database import Database
from orchestrator.store.schema import migrate

TEMPLATE = "empty_queue"
PLACES = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
SYSTEM_USERS = ("postgres", "nobody")
PATIENCE_SECONDS = 60
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum_naptime": "10s",
    "log_min_messages": "fatal",
}
KEEPER = '"$@" & server=$!; cat > /dev/null; kill -QUIT $server; wait $server'
"""Ends the server when whoever started it is gone, however it went: then its standard input ends."""


def binaries():
    """The folder of `initdb` and `postgres`. Raises RuntimeError where no server is installed: nothing is skipped."""
    found = [folder for place in PLACES for folder in sorted(Path("/").glob(place), reverse=True)]
    on_path = shutil.which("initdb")
    found += [Path(on_path).resolve().parent] if on_path else []
    usable = [folder for folder in found if os.access(folder / "initdb", os.X_OK)]
    if not usable:
        raise RuntimeError(f"these tests need a PostgreSQL server: none is on the PATH or at {', '.join(PLACES)}")
    return usable[0]


def unprivileged():
    """The user to run as, None for our own. Raises RuntimeError where root has nobody to hand it to."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in SYSTEM_USERS:
        if name in known:
            return known[name]
    raise RuntimeError("initdb refuses root, and this system has neither a user postgres nor nobody")


class Databases:
    """What each test gets of a server in `folder`: a migrated database of its own, copied from a template."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._names = itertools.count(1)
        self._admin = None

    def close(self):
        if self._admin is not None:
            self._admin.close()

    def url(self, database="postgres"):
        return f"postgresql://orchestrator@/{database}?host={self.folder}"

    def execute(self, statement):
        if self._admin is None or self._admin.closed or self._admin.broken:
            self._admin = psycopg.connect(self.url(), autocommit=True)
        return self._admin.execute(statement)

    def make_template(self):
        self.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
        with ThreadPoolExecutor(1) as thread:  # whoever needs the server first may be an async test
            thread.submit(asyncio.run, _migrated(self.url(TEMPLATE))).result()

    @contextlib.contextmanager
    def lent(self, template=TEMPLATE):
        """The address of a new database, dropped afterwards."""
        name = f"queue_{os.getpid()}_{next(self._names)}"
        self.execute("SELECT 1")
        quick = "STRATEGY FILE_COPY" if self._admin.info.server_version >= 150000 else ""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {quick}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _migrated(url):
    database = Database(url)
    await migrate(database)
    await database.close()


class Server(Databases):
    """A running server, which can be stopped and started again."""

    def __init__(self, *, in_memory=True, settings=SETTINGS):
        memory = Path("/dev/shm") if in_memory and os.access("/dev/shm", os.W_OK) else None
        super().__init__(tempfile.mkdtemp(prefix="pg-", dir=memory))
        self._settings = settings
        user = unprivileged()
        self._as = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._keeper = None
        self._run("initdb", "--pgdata", self.data, "--username", "orchestrator", "--auth", "trust",
                  "--encoding", "UTF8", "--no-locale", "--no-sync")  # fmt: skip
        self.start()
        self.make_template()

    @property
    def data(self):
        return self.folder / "data"

    def _run(self, program, *arguments):
        command = [binaries() / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, **self._as)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")

    def start(self):
        settings = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in self._settings.items())
        command = [binaries() / "postgres", "-D", self.data, "-k", self.folder, *settings]
        with (self.folder / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                ["sh", "-c", KEEPER, "sh", *map(str, command)],
                stdin=subprocess.PIPE,
                cwd=self.folder,
                stderr=log,
                **self._as,
            )
        self._await()

    def _await(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._keeper.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self):
        """At once, as if the machine had failed; what was committed is there again after a start."""
        self._keeper.stdin.close()
        self._keeper.wait(PATIENCE_SECONDS)

    def freeze(self, signal_number=signal.SIGSTOP):
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal_number)

    def close(self):
        super().close()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
