import contextlib

import pytest
from daemon_process import Daemon
from proxy import proxied

from orchestrator.sandbox import Options, serve


@pytest.fixture
async def sandbox():
    async with serve(Options(seed=7, validate_seconds=0.0, latency_seconds=0.2)) as served:
        yield served


@pytest.fixture
async def make_daemon(quick_folder, empty_queue):
    """A daemon on a migrated, empty queue; killed at the end, whatever happens."""
    made = []

    def make(base_url, name="run", *, migrated=True, **tables):
        folder = quick_folder / name
        folder.mkdir(exist_ok=True)
        if migrated:
            (folder / "queue.db").write_bytes(empty_queue.read_bytes())
        made.append(Daemon(folder, base_url, **tables))
        return made[-1]

    yield make
    for daemon in made:
        if daemon.is_running:
            await daemon.kill()


@pytest.fixture
async def daemon(make_daemon, sandbox):
    return make_daemon(sandbox.url)


@pytest.fixture
async def through_proxy(make_daemon, sandbox):
    """A daemon behind a proxy that can hold its calls."""
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(sandbox.url))
        yield proxy, make_daemon(proxy.url)
