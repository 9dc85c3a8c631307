"""The page costs the daemon nothing: not its start, not its work, not its end."""

import asyncio
import contextlib
import socket

import aiohttp
import pytest
from daemon_process import until

from orchestrator.errors import StoreUnavailable
from orchestrator.remembered import SHARE, Remembered
from orchestrator.vitals import Vitals
from orchestrator.web import server
from orchestrator.web.routes import Route
from orchestrator.web.site import Site


@pytest.fixture
def taken():
    """A port of this machine that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other


async def test_a_port_that_is_taken_is_told_less_and_less_often_and_had_once_it_is_free(start, taken, monkeypatch):
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.01)
    listen = f"127.0.0.1:{taken.getsockname()[1]}"
    rig = await start(web={"listen": listen})
    task = asyncio.create_task(server.serve(Site(rig.context, Vitals(), None)))
    await until(lambda: len(rig.told("page.unavailable")) >= 3)
    assert [told["tries"] for told in rig.told("page.unavailable")[:3]] == [1, 2, 4]
    told = rig.told("page.unavailable")[0]
    assert (told["listen"], told["tries"]) == (listen, 1)
    assert "in use" in told["reason"]
    taken.close()
    await until(lambda: rig.told("page.listening"))
    assert rig.told("page.listening")[0]["url"] == f"http://{listen}/"
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 64 + ".example"])
async def test_a_host_that_is_none_is_told_in_the_log(start, host, monkeypatch):
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.01)
    rig = await start(web={"listen": f"{host}:0"})
    task = asyncio.create_task(server.serve(Site(rig.context, Vitals(), None)))
    await until(lambda: rig.told("page.unavailable") or task.done())
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
def with_route(monkeypatch):
    def use(answer):
        monkeypatch.setattr(server, "routes", lambda _site: [Route("/odd", answer)])

    return use


@pytest.mark.parametrize("error", [ValueError("a bug"), StoreUnavailable("database q: is busy"), TimeoutError()])
async def test_a_request_that_fails_ends_as_one_clear_line_and_the_next_is_served(start, serving, with_route, error):
    async def fails(_request):
        raise error

    with_route(fails)
    rig = await start(web={"listen": "127.0.0.1:0"})
    page = await serving(rig)
    for _ in range(2):
        status, _, body = await page.get("/odd")
        assert status == (500 if isinstance(error, ValueError) else 503)
        assert len(body.strip().splitlines()) == 1
        assert "Traceback" not in body
    assert len(rig.told("page.failed")) == (2 if isinstance(error, ValueError) else 0)


async def test_a_crowd_is_turned_away_at_the_door(page, monkeypatch):
    """Each connection takes a file descriptor that the work may need."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    host, _, port = page.url.removeprefix("http://").rpartition(":")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        async with aiohttp.ClientSession() as late:
            with pytest.raises(aiohttp.ClientError):
                await late.get(page.url + "/healthz")

    async def is_served():
        with contextlib.suppress(aiohttp.ClientError):
            return (await page.get("/healthz"))[0] == 200

    async with asyncio.timeout(10):
        while not await is_served():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTT"])
async def test_who_asks_nothing_is_shown_out_and_the_others_stay(start, serving, monkeypatch, said):
    monkeypatch.setattr(server, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(server, "_silent", set())
    page = await serving(await start(web={"listen": "127.0.0.1:0"}))
    host, _, port = page.url.removeprefix("http://").rpartition(":")
    async with aiohttp.ClientSession() as talking, asyncio.timeout(20):
        await (await talking.get(page.url + "/healthz")).read()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        await reader.read()
        writer.close()
        await asyncio.sleep(0.5)
        assert (await talking.get(page.url + "/healthz")).status == 200
        assert len(talking.connector._conns) == 1
    assert not server._silent


async def test_a_visitor_who_never_leaves_does_not_hold_up_the_end(start, serving, with_route):
    async def waits(_request):
        await asyncio.Event().wait()

    with_route(waits)
    page = await serving(await start(web={"listen": "127.0.0.1:0"}))
    visit = asyncio.create_task(page.get("/odd"))
    task = next(task for task in asyncio.all_tasks() if task.get_coro().__name__ == "serve")
    await asyncio.sleep(0.05)
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    with pytest.raises(aiohttp.ClientError):
        await visit


# ---------------------------------------------------------------- answers that cost something


async def test_an_answer_is_asked_for_once_for_all_who_wait_and_then_kept():
    asked = []

    async def ask():
        asked.append(1)
        await asyncio.sleep(0.01)
        return len(asked)

    remembered = Remembered(ask, 60)
    assert await asyncio.gather(*(remembered.get() for _ in range(5))) == [1] * 5
    assert await remembered.get() == 1


async def test_an_answer_that_took_long_is_kept_for_longer():
    asked = []

    async def ask():
        asked.append(1)
        await asyncio.sleep(0.02)

    remembered, began_at = Remembered(ask, 0), asyncio.get_running_loop().time()
    await remembered.get()
    await remembered.get()
    assert len(asked) == 1
    async with asyncio.timeout(30):
        while len(asked) == 1:
            await asyncio.sleep(0.02)
            await remembered.get()
    assert asyncio.get_running_loop().time() - began_at > 0.02 * SHARE


async def test_an_answer_that_never_comes_is_waited_for_by_one_task_only():
    asked, go = [], asyncio.Event()

    async def ask():
        asked.append(1)
        await go.wait()
        return "late"

    remembered = Remembered(ask, 60, wait_seconds=0.01)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await remembered.get()
    assert len(asked) == 1
    go.set()
    assert await remembered.get() == "late"


async def test_an_answer_that_failed_is_asked_for_again_after_a_while():
    asked = []

    async def ask():
        asked.append(1)
        if len(asked) == 1:
            raise StoreUnavailable("busy")
        return "well"

    remembered = Remembered(ask, 0.01)
    with pytest.raises(StoreUnavailable):
        await remembered.get()
    await asyncio.sleep(0.1)
    assert await remembered.get() == "well"
