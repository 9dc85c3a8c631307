import contextlib

import pytest
from daemon_process import Daemon
from proxy import proxied

from orchestrator.sandbox import Options, serve

SANDBOX = {"seed": 7, "validate_seconds": 0.0, "latency_seconds": 0.3}


class Rehearsal:
    """A sandbox, a proxy before it, and a daemon that talks to it through the proxy."""

    def __init__(self, sandbox, proxy, daemon):
        self.sandbox = sandbox
        self.proxy = proxy
        self.daemon = daemon
        self.queue = daemon.queue


@contextlib.asynccontextmanager
async def rehearsed(folder, options, *, through_proxy=True, **tables):
    folder.mkdir(exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(serve(Options(**{**SANDBOX, **options})))
        proxy = await stack.enter_async_context(proxied(sandbox.url))
        daemon = Daemon(folder, proxy.url if through_proxy else sandbox.url, **tables)
        try:
            yield Rehearsal(sandbox, proxy, daemon)
        finally:
            if daemon.is_running:
                await daemon.kill()


@pytest.fixture
async def rehearse(quick_folder, empty_queue):
    """Open a rehearsal whose daemon is killed at the end, whatever happens."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(name="run", options=None, **settings):
            folder = quick_folder / name
            folder.mkdir()
            (folder / "queue.db").write_bytes(empty_queue.read_bytes())
            return await stack.enter_async_context(rehearsed(folder, options or {}, **settings))

        yield opened
