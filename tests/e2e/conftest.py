import contextlib
import shutil

import pytest
from daemon_process import Daemon
from proxy import proxied
from rig import is_address

from orchestrator.sandbox import Options, serve

SANDBOX = {"seed": 7, "validate_seconds": 0.0, "latency_seconds": 0.3}


class Rehearsal:
    """A sandbox, a proxy before it, and a daemon that talks to it through the proxy."""

    def __init__(self, sandbox, proxy, daemon):
        self.sandbox = sandbox
        self.proxy = proxy
        self.daemon = daemon
        self.queue = daemon.queue

    async def kill(self):
        """Kill the daemon; what it held on a server, where another might work, is free when its lease is over: now."""
        await self.daemon.kill()
        if is_address(self.queue.path):
            self.queue.sql("UPDATE batch_states SET lease_until_ms = 0")
            self.queue.sql("UPDATE chores SET lease_until_ms = 0")


@contextlib.asynccontextmanager
async def rehearsed(folder, database, options, *, through_proxy=True, **tables):
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(serve(Options(**{**SANDBOX, **options})))
        proxy = await stack.enter_async_context(proxied(sandbox.url))
        daemon = Daemon(folder, proxy.url if through_proxy else sandbox.url, database, **tables)
        try:
            yield Rehearsal(sandbox, proxy, daemon)
        finally:
            if daemon.is_running:
                await daemon.kill()


@pytest.fixture
async def rehearse(kind, request, quick_folder, empty_queue):
    """Open a rehearsal on an empty queue of each kind; its daemon is killed at the end, whatever happens."""
    async with contextlib.AsyncExitStack() as stack:

        def new_queue(folder):
            if kind == "postgresql":
                return stack.enter_context(request.getfixturevalue("postgres").lent())
            return shutil.copyfile(empty_queue, folder / "queue.db")

        async def opened(name="run", options=None, **settings):
            folder = quick_folder / name
            folder.mkdir()
            return await stack.enter_async_context(rehearsed(folder, new_queue(folder), options or {}, **settings))

        yield opened
