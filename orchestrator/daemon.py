"""The daemon: compose the stages, keep them running, stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator import __version__
from orchestrator.api.client import Client
from orchestrator.clocks import heed_past, watch_clock, watch_jumps
from orchestrator.config import Config, Loaded, effective
from orchestrator.context import Context, Tick, key_prefix, new_key
from orchestrator.errors import StoreError
from orchestrator.loop import Bell, Troubles, run_loop
from orchestrator.service import report
from orchestrator.signals import Signals
from orchestrator.stages import CHORES, FLOW, admit, collect, reclaim, submit
from orchestrator.store.batches import release_all_leases
from orchestrator.store.database import Database
from orchestrator.store.home import settle_in
from orchestrator.store.overview import count_prompts
from orchestrator.store.providers import forget_limits
from orchestrator.store.reports import is_idle, list_busy_providers, take_pulse
from orchestrator.store.restoring import read_name, read_restored
from orchestrator.store.schema import make_private_file, migrate, only_daemon
from orchestrator.telemetry import record
from orchestrator.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

WATCH_SECONDS = 1.0
"""How often a SQLite file is asked whether anybody changed it."""
IDLE_CHECK_SECONDS = 0.5
CALLING = ("submit", "poll", "collect", "clear")
"""Stages that wait for a provider."""


class Daemon:
    """One running daemon; `stop()` may be called from a signal handler."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.bell = Bell()
        self.troubles = Troubles()
        self.vitals = Vitals()
        self._chores = Bell()
        self._restoring = Bell()
        self._complete = asyncio.Event()
        self._stopped_by: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self, reason: str) -> None:
        """First call: finish the ticks in hand. Second: now."""
        if self._stopped_by is None:
            self._stopped_by = reason
            self.vitals.stopping = True
            self._stop()
            grace = self.context.config.shutdown.grace_seconds
            record("daemon.stopping", signal=reason, grace_seconds=grace)
            return
        self.abort()

    def _stop(self) -> None:
        self.bell.stop()
        self._chores.stop()
        self._restoring.stop()
        self._complete.set()

    def abort(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def run(self, *, until_idle: bool) -> None:
        """Run until stopped, or until every prompt has ended."""
        loops = [asyncio.create_task(self._when_complete(loop), name=name) for name, loop in self._loops()]
        loops.append(asyncio.create_task(self._reclaim(), name="reclaim"))
        watches = [asyncio.create_task(self._beat()), asyncio.create_task(self._watch())]
        watches.append(asyncio.create_task(report(self.vitals, os.environ)))
        watches.append(asyncio.create_task(watch_clock(self.context)))
        watches.append(asyncio.create_task(watch_jumps(self.context)))
        if until_idle:
            watches.append(asyncio.create_task(self._watch_for_idle()))
        if self.context.config.web.listen:
            watches.append(asyncio.create_task(self._serve()))
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
        many = {submit: config.submission.concurrency, collect: config.collection.concurrency}
        flow = [(stage.__name__, self._loop(stage, self.bell)) for stage in FLOW for _ in range(many.get(stage, 1))]
        return flow + [(chore.__name__, self._loop(chore, self._chores)) for chore in CHORES]

    def _loop(self, stage: Callable[[Context], Awaitable[Tick]], bell: Bell) -> Coroutine[Any, Any, None]:
        name = stage.__name__
        tick = self.vitals.watched(name, partial(stage, self.context), self._calls_seconds() if name in CALLING else 0)
        return run_loop(name, tick, bell, self.troubles, self.context.seconds_until)

    def _calls_seconds(self) -> float:
        """How long the calls of one tick may take: an upload or two downloads, and the calls around them."""
        providers = self.context.config.providers.values()
        return max(2 * each.upload_timeout_seconds + 2 * each.request_timeout_seconds for each in providers)

    async def _when_complete(self, loop: Coroutine[Any, Any, None]) -> None:
        """Start a loop once the queue is known to hold all that was sent of it."""
        try:
            await self._complete.wait()
        except asyncio.CancelledError:
            loop.close()
            raise
        await loop

    async def _reclaim(self) -> None:
        """Not watched: it may take hours, and nothing else runs meanwhile."""
        await run_loop("reclaim", self._reclaimed, self._restoring, self.troubles, self.context.seconds_until)

    async def _reclaimed(self) -> Tick:
        """At once, unless the queue was restored from a backup."""
        if await self.context.database.read(read_restored) is None:
            self._complete.set()
            self._restoring.stop()
            return Tick()
        while (await admit(self.context)).more:
            pass
        return await reclaim(self.context)

    async def _serve(self) -> None:
        """Loaded here: it costs time and memory that a daemon without a page need not spend."""
        from orchestrator.web.server import serve  # noqa: PLC0415
        from orchestrator.web.site import Site  # noqa: PLC0415

        await serve(Site(self.context, self.vitals, self.context.config.web.token()))

    async def _watch(self) -> None:
        """Wake every stage when somebody else changed the database, such as a user's INSERT."""
        async for _ in self.context.database.changes(WATCH_SECONDS, self.troubles.deaf):
            self.bell.ring()

    async def _beat(self) -> None:
        since_ms = self.context.now_ms()
        while True:
            await asyncio.sleep(self.context.config.log.heartbeat_seconds)
            now_ms = self.context.now_ms()
            with contextlib.suppress(StoreError):
                pulse = await self.context.database.read(partial(take_pulse, since_ms=since_ms, until_ms=now_ms))
                unwell = {name: getattr(pulse, name) or None for name in ("failing_batches", "paused")}
                record("daemon.heartbeat", **{**asdict(pulse), **unwell})
                since_ms = now_ms

    async def _watch_for_idle(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                if await self.context.database.read(is_idle):
                    break
            await asyncio.sleep(IDLE_CHECK_SECONDS)
        self._stop()


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

    Raises StoreInUse when another daemon works on the same SQLite file, QueueMoved when another copy of the queue is
    the one to work on, SchemaMismatch when the database is newer, ConfigError when the variable of a key or of the
    page's token is empty.
    """
    config, started = loaded.config, time.monotonic()
    config.providers[config.defaults.provider].api_key()
    if config.web.listen:
        config.web.token()
    signals = Signals(config.shutdown.grace_seconds)
    with signals.heard():
        async with opened(config) as context:
            counts = await _work(context, loaded, signals, until_idle=until_idle)
    if until_idle and not counts["queued"] + counts["batched"]:
        record("daemon.idle", done=counts["done"], failed=counts["failed"], cancelled=counts["cancelled"])
    record("daemon.stopped", seconds=round(time.monotonic() - started, 1))
    return counts


async def _work(context: Context, loaded: Loaded, signals: Signals, *, until_idle: bool) -> dict[str, int]:
    path = context.database.path
    if path is not None:
        make_private_file(path)
    with only_daemon(path):
        released = await prepare(context)
        daemon = Daemon(await named(context))
        signals.call(daemon.stop)  # before it is told that the daemon runs: who reads that may stop it
        _announce(context, loaded, released)
        await daemon.run(until_idle=until_idle)
    return await context.database.read(count_prompts)


async def prepare(context: Context) -> int:
    """Bring the database up to date; how many leases of an earlier run were given back."""
    before, after = await migrate(context.database)
    if before != after:
        record("daemon.migrated", before=before, after=after)
    await context.database.write(settle_in)
    alone = context.database.is_sqlite  # on PostgreSQL other daemons hold theirs; a dead one's run out
    released = await context.database.write(release_all_leases) if alone else 0
    await context.database.write(forget_limits)
    await heed_past(context)
    for name in await context.database.read(list_busy_providers):
        if name not in context.clients:
            record("daemon.provider_missing", provider=name)
    return released


def _announce(context: Context, loaded: Loaded, released: int) -> None:
    changed = {s.key: s.value for s in effective(loaded) if s.origin != "default"}
    record(
        "daemon.started", version=__version__, database=context.database.named, owner=context.owner,
        providers=sorted(context.clients), released_leases=released,
    )  # fmt: skip
    record("daemon.config", settings=changed)


async def named(context: Context) -> Context:
    """The same, with keys by which the queue knows its batches again, even when it was restored from a backup."""
    name = await context.database.read(read_name)
    return replace(context, new_key=partial(new_key, key_prefix(name)))
