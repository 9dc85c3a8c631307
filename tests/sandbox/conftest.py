from contextlib import AsyncExitStack

import aiohttp
import pytest
from sandbox_client import Client, Clock

from orchestrator.sandbox import Options, serve


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def start(clock):
    async with AsyncExitStack() as stack:

        async def started(**settings):
            defaults = {"clock": clock, "seed": 7, "validate_seconds": 1.0, "latency_seconds": 10.0, "order": "input"}
            sandbox = await stack.enter_async_context(serve(Options(**(defaults | settings))))
            # Without keep-alive the client cannot quietly repeat a GET whose connection was cut.
            connector = aiohttp.TCPConnector(force_close=True)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            return Client(sandbox, session, clock)

        yield started


@pytest.fixture
async def client(start):
    return await start()
