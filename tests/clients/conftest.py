from contextlib import AsyncExitStack

import pytest
from openai import AsyncOpenAI
from rig import Clock
from sdk_lines import CHAT, jsonl, lines

from orchestrator.sandbox import Options, serve


class Desk:
    """A sandbox on a clock of its own and an SDK client that drives it."""

    def __init__(self, sandbox, clock, client):
        self.sandbox = sandbox
        self.clock = clock
        self.client = client

    @property
    def dialect(self):
        return self.sandbox.provider.dialect.name

    async def upload(self, rows, name="questions.jsonl", **more):
        return await self.client.files.create(file=(name, jsonl(rows)), purpose="batch", **more)

    async def create(self, file_id, endpoint=CHAT, **more):
        return await self.client.batches.create(
            input_file_id=file_id, endpoint=endpoint, completion_window="24h", **more
        )

    async def batch(self, rows=(), endpoint=CHAT, **more):
        uploaded = await self.upload(rows or lines("a"))
        return await self.create(uploaded.id, endpoint, **more)

    async def ended(self, rows=(), endpoint=CHAT, **more):
        created = await self.batch(rows, endpoint, **more)
        self.clock.advance(1000)
        return await self.client.batches.retrieve(created.id)


@pytest.fixture
async def open_desk(monkeypatch):
    """Open a desk; `sdk` are settings of its client. The SDK checks every reply where the dialect is its own."""
    monkeypatch.setenv("NO_PROXY", "*")
    async with AsyncExitStack() as stack:

        async def opened(dialect="openai", sdk=None, **options):
            clock = Clock()
            timing = {"validate_seconds": 1.0, "latency_seconds": 10.0, "order": "input"}
            chosen = Options(**{"dialect": dialect, "clock": clock, "seed": 7, **timing, **options})
            sandbox = await stack.enter_async_context(serve(chosen))
            wanted = {"max_retries": 0, "_strict_response_validation": dialect == "openai", **(sdk or {})}
            client = AsyncOpenAI(base_url=sandbox.url, api_key="sk-of-the-test", **wanted)
            return Desk(sandbox, clock, await stack.enter_async_context(client))

        yield opened


@pytest.fixture(params=["doubleword", "openai"])
async def desk(request, open_desk):
    return await open_desk(request.param)
