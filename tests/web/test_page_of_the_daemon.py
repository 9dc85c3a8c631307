"""`orchestrator run` with `web.listen`: what it serves, and what happens when it cannot."""

import asyncio
import contextlib
import socket
import sys

import aiohttp
import pytest
from daemon_process import Daemon

from orchestrator.sandbox import Options, serve

TOKEN = "a-token-of-this-test"
ANYWHERE = {"listen": "0.0.0.0:0", "token_env": "PAGE_TOKEN"}


@pytest.fixture
async def make_daemon(quick_folder):
    async with contextlib.AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(serve(Options(seed=7, validate_seconds=0.0, latency_seconds=0.1)))

        def make(**tables):
            daemon = Daemon(quick_folder, sandbox.url, **tables)

            async def kill():
                if daemon.is_running:
                    await daemon.kill()

            stack.push_async_callback(kill)
            return daemon

        yield make


async def get(url, path):
    async with aiohttp.ClientSession() as visitor, visitor.get(url.rstrip("/") + path) as response:
        return response.status


async def test_a_daemon_with_a_page_serves_it_while_it_works(make_daemon):
    daemon = make_daemon(web={"listen": "127.0.0.1:0"})
    await daemon.started()
    url = (await daemon.told("page.listening"))["url"]
    assert [await get(url, path) for path in ("/healthz", "/readyz")] == [200, 200]
    daemon.queue.ask_many(3)
    await daemon.told("settle.settled")
    daemon.signal()
    assert await daemon.ended() == 0


async def test_a_port_that_is_taken_costs_the_daemon_no_work(make_daemon):
    with socket.create_server(("127.0.0.1", 0)) as other:
        daemon = make_daemon(web={"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        await daemon.started()
        await daemon.told("page.unavailable")
        daemon.queue.ask_many(3)
        await daemon.told("settle.settled")
        daemon.signal()
        assert await daemon.ended() == 0
    assert daemon.queue.count("done") == 3


@pytest.mark.parametrize("token", [None, "", "too-short"])
async def test_a_page_for_others_without_its_token_is_refused_at_the_start(make_daemon, token):
    daemon = make_daemon(web=ANYWHERE)
    daemon.environment = {} if token is None else {"PAGE_TOKEN": token}
    await daemon.start()
    assert await daemon.ended() == 2
    assert "PAGE_TOKEN: holds no token" in daemon.text()
    assert len(daemon.text().strip().splitlines()) == 1


async def test_the_token_stands_in_no_log_line(make_daemon):
    daemon = make_daemon(web=ANYWHERE)
    daemon.environment = {"PAGE_TOKEN": TOKEN}
    await daemon.started()
    assert (await daemon.told("page.listening"))["token"] == "needed"
    daemon.signal()
    await daemon.ended()
    assert TOKEN not in daemon.text()


async def test_a_daemon_without_a_page_does_not_load_it():
    loaded = "[name for name in sys.modules if name.startswith(('aiohttp.web', 'orchestrator.web'))]"
    words = f"import sys, orchestrator.daemon; print({loaded})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", words, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert told.decode().strip() == "[]"
