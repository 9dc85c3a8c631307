import asyncio
import contextlib

import aiohttp
import pytest
from daemon_process import until

from orchestrator.vitals import Vitals
from orchestrator.web.server import serve
from orchestrator.web.site import Site


class Page:
    """The page of one rig, and a visitor to it."""

    def __init__(self, rig, vitals, url, visitor):
        self.rig = rig
        self.vitals = vitals
        self.url = url
        self.visitor = visitor

    async def get(self, path, **options):
        """Status, headers and body of one answer."""
        async with self.visitor.get(self.url + path, **options) as response:
            return response.status, response.headers, await response.text()

    async def json(self, path):
        async with self.visitor.get(self.url + path) as response:
            return response.status, await response.json()


@pytest.fixture
async def serving():
    """Serve the page of a rig on a free port of this machine."""
    async with contextlib.AsyncExitStack() as stack:

        async def served(rig, token=None, vitals=None):
            vitals = vitals or Vitals()
            task = asyncio.create_task(serve(Site(rig.context, vitals, token)))
            stack.push_async_callback(asyncio.wait, [task])
            stack.callback(task.cancel)
            await until(lambda: rig.told("page.listening"), "it listens")
            visitor = await stack.enter_async_context(aiohttp.ClientSession())
            return Page(rig, vitals, rig.told("page.listening")[-1]["url"].rstrip("/"), visitor)

        yield served


@pytest.fixture
async def page(start, serving):
    return await serving(await start(web={"listen": "127.0.0.1:0"}))
