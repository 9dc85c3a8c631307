import contextlib

import msgspec
import pytest
from api_wire import KEY, Wire
from rig import Clock

from orchestrator.api.client import Client
from orchestrator.config.profiles import BUILT_IN
from orchestrator.sandbox import Options, serve


@pytest.fixture
async def wire(monkeypatch):
    """A client and the sandbox it talks to."""
    monkeypatch.setenv("DOUBLEWORD_API_KEY", KEY)
    async with contextlib.AsyncExitStack() as stack:
        clock = Clock()
        options = Options(clock=clock, seed=7, validate_seconds=1.0, latency_seconds=10.0, order="input")
        sandbox = await stack.enter_async_context(serve(options))
        provider = msgspec.structs.replace(BUILT_IN["doubleword"], base_url=sandbox.url)
        client = Client(provider)
        stack.push_async_callback(client.close)
        yield Wire(sandbox, client, clock)


@pytest.fixture
async def answers(monkeypatch):
    """A client and a bare server that answers each request with the bytes it was given."""
    monkeypatch.setenv("DOUBLEWORD_API_KEY", KEY)
    async with contextlib.AsyncExitStack() as stack:

        async def served(reply, **changes):
            return await stack.enter_async_context(Wire.answering(reply, **changes))

        yield served


@pytest.fixture
async def noted(monkeypatch):
    """A client, and the heads of the calls it makes."""
    monkeypatch.setenv("DOUBLEWORD_API_KEY", KEY)
    async with Wire.noting() as client_and_heads:
        yield client_and_heads


@pytest.fixture
async def draining(monkeypatch):
    """A client and a server that takes everything in, keeps only sizes, and says that a file was stored."""
    monkeypatch.setenv("DOUBLEWORD_API_KEY", KEY)
    async with contextlib.AsyncExitStack() as stack:

        async def served():
            return await stack.enter_async_context(Wire.draining())

        yield served
