"""The daemon: compose the stages, keep them running, stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator import __version__
from orchestrator.api.client import Client
from orchestrator.config import Config, Loaded, effective
from orchestrator.context import Context, Tick
from orchestrator.errors import StoreError
from orchestrator.loop import Bell, run_loop
from orchestrator.stages import FLOW, collect, poll, submit
from orchestrator.store.batches import release_all_leases
from orchestrator.store.database import Database
from orchestrator.store.providers import forget_limits
from orchestrator.store.reports import count_by_status, is_idle, list_busy_providers, take_pulse
from orchestrator.store.schema import make_private_file, migrate, only_daemon
from orchestrator.telemetry import record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

WATCH_SECONDS = 1.0
"""How often a SQLite file is asked whether anybody changed it."""
IDLE_CHECK_SECONDS = 0.5
POLLERS = 4


class Daemon:
    """One running daemon; `stop()` may be called from a signal handler."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.bell = Bell()
        self._stopped_by: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self, reason: str) -> None:
        """First call: finish the ticks in hand. Second: now."""
        if self._stopped_by is None:
            self._stopped_by = reason
            grace = self.context.config.shutdown.grace_seconds
            record("daemon.stopping", signal=reason, grace_seconds=grace)
            self.bell.stop()
            return
        self.abort()

    def abort(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def run(self, *, until_idle: bool) -> None:
        """Run until stopped, or until every prompt has ended."""
        loops = [asyncio.create_task(loop, name=name) for name, loop in self._loops()]
        watches = [asyncio.create_task(self._beat()), asyncio.create_task(self._watch())]
        if until_idle:
            watches.append(asyncio.create_task(self._watch_for_idle()))
        self._tasks = {*loops}
        try:
            await self._until_stopped(loops)
        finally:
            await _end([*loops, *watches])

    async def _until_stopped(self, loops: list[asyncio.Task[None]]) -> None:
        stopping = self.bell.sleeper()
        while not self.bell.stopping:
            await stopping.wait()
            stopping.clear()
        await asyncio.wait(loops, timeout=self.context.config.shutdown.grace_seconds)

    def _loops(self) -> list[tuple[str, Any]]:
        config = self.context.config
        many = {submit: config.submission.concurrency, collect: config.collection.concurrency, poll: POLLERS}
        return [(stage.__name__, self._loop(stage)) for stage in FLOW for _ in range(many.get(stage, 1))]

    def _loop(self, stage: Callable[[Context], Awaitable[Tick]]) -> Coroutine[Any, Any, None]:
        return run_loop(stage.__name__, partial(stage, self.context), self.bell, self.context.seconds_until)

    async def _watch(self) -> None:
        """Wake every stage when somebody else changed the database, such as a user's INSERT."""
        async for _ in self.context.database.changes(WATCH_SECONDS):
            self.bell.ring()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.context.config.log.heartbeat_seconds)
            with contextlib.suppress(StoreError):
                pulse = await self.context.database.read(take_pulse)
                record(
                    "daemon.heartbeat",
                    queued=pulse.queued,
                    batched=pulse.batched,
                    active_batches=pulse.active_batches,
                )

    async def _watch_for_idle(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                if await self.context.database.read(is_idle):
                    break
            await asyncio.sleep(IDLE_CHECK_SECONDS)
        self.bell.stop()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Context]:
    """Database and clients for one daemon, closed in good order whatever happens."""
    database = Database(config.database.url)
    clients = {name: Client(provider) for name, provider in config.providers.items()}
    owner = f"{socket.gethostname()}-{os.getpid()}"
    try:
        yield Context(config, database, clients, owner)
    finally:
        for client in clients.values():
            await client.close()
        await database.close()


async def run(loaded: Loaded, *, until_idle: bool = False) -> dict[str, int]:
    """Run the daemon in this process; prompts by status when it stops.

    Raises StoreInUse when another daemon works on the same SQLite file, SchemaMismatch when the database is newer.
    """
    config, started = loaded.config, time.monotonic()
    config.providers[config.defaults.provider].api_key()
    async with opened(config) as context:
        path = context.database.path
        if path is not None:
            make_private_file(path)
        with only_daemon(path):
            daemon = Daemon(context)
            await prepare(context, loaded)
            with _signals(daemon):
                await daemon.run(until_idle=until_idle)
            counts = await context.database.read(count_by_status)
    if until_idle:
        record("daemon.idle", done=counts["done"], failed=counts["failed"], cancelled=counts["cancelled"])
    record("daemon.stopped", seconds=round(time.monotonic() - started, 1))
    return counts


async def prepare(context: Context, loaded: Loaded) -> None:
    before, after = await migrate(context.database)
    if before != after:
        record("daemon.migrated", before=before, after=after)
    alone = context.database.is_sqlite  # on PostgreSQL other daemons hold theirs; a dead one's run out
    released = await context.database.write(release_all_leases) if alone else 0
    await context.database.write(forget_limits)
    for name in await context.database.read(list_busy_providers):
        if name not in context.clients:
            record("daemon.provider_missing", provider=name)
    changed = {s.key: s.value for s in effective(loaded) if s.origin != "default"}
    record(
        "daemon.started", version=__version__, database=context.database.named, owner=context.owner,
        providers=sorted(context.clients), released_leases=released,
    )  # fmt: skip
    record("daemon.config", settings=changed)


@contextlib.contextmanager
def _signals(daemon: Daemon) -> Any:  # noqa: ANN401
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop, number.name)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
