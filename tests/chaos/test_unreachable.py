"""The provider cannot be reached, or somebody else answers in its place; the key goes to nobody else."""

import asyncio
import contextlib
import socket
import ssl

import pytest
import trustme
from chaos import hostile
from chaos.scene import LONG
from daemon_process import KEY

TIMES = 12 if LONG else 2
QUICK_TIMEOUTS = {"request_timeout_seconds": 0.7, "upload_timeout_seconds": 1.0}


class Door:
    """One address, at which nobody listens at first. `taken` is what came in while it did not lead to the provider."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.socket.getsockname())
        self.answer = None
        self.calls = 0
        self.taken = b""

    async def opened(self, answer):
        self.answer = answer
        return await asyncio.start_server(self._come_in, sock=self.socket)

    async def _come_in(self, reader, writer):
        self.calls += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self.answer(reader, writer)
        writer.close()

    async def silent(self, reader, _writer):
        """The connection is taken, and that was it."""
        while data := await reader.read(1 << 16):
            self.taken += data

    async def untrusted(self, reader, writer):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        await writer.start_tls(context)
        self.taken += await reader.read()

    async def no_tls(self, reader, writer):
        self.taken += await reader.read(1 << 16)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    @staticmethod
    def to(url):
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")

        async def lead(reader, writer):
            inner, outer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(piped(reader, outer), piped(inner, writer))

        return lead


async def piped(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture
async def door():
    door = Door()
    yield door
    door.socket.close()


def delays(scene):
    return scene.events("submit.delayed")


def failed_calls(scene):
    """Told of the first, the second, the fourth and so on."""
    return max((one["tries"] for one in delays(scene)), default=0)


TROUBLE = {
    "refused": ("http", None, "cannot reach"),
    "never answers": ("http", "silent", "in time"),
    "untrusted certificate": ("https", "untrusted", "certificate"),
    "no TLS": ("https", "no_tls", "SSL"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_a_provider_that_cannot_be_reached_is_waited_for(stage_scene, door, trouble):
    scheme, answer, words = TROUBLE[trouble]
    scene = await stage_scene(f"provider: {trouble}", **{"providers.doubleword": QUICK_TIMEOUTS})
    scene.point_to(f"{scheme}://{door.address}/v1")
    scene.watched()
    scene.queue.ask_many(5)
    server = await door.opened(getattr(door, answer)) if answer else None
    await scene.daemon.start("--until-idle")
    await scene.until(lambda: failed_calls(scene) >= TIMES)
    scene.did("call failed", failed_calls(scene))
    assert all(words in one["reason"] for one in delays(scene)), delays(scene)
    if scheme == "https":
        assert (door.calls > 0, b"HTTP/1.1" in door.taken) == (True, False)
        await scene.daemon.kill()
        scene.point_to(f"http://{door.address}/v1")
    door.answer = door.to(scene.proxy.url)
    server = server or await door.opened(door.answer)
    if scheme == "https":
        await scene.calm_run()
    await scene.ends_well()
    server.close()
    scene.check()


async def test_a_name_that_is_no_address_is_waited_for(stage_scene):
    scene = await stage_scene("provider: name does not resolve")
    url = scene.proxy.url
    scene.point_to("http://provider.invalid:9/v1")
    scene.watched()
    scene.queue.ask_many(5)
    await scene.daemon.start()
    await scene.until(lambda: failed_calls(scene) >= TIMES)
    scene.did("call failed", failed_calls(scene))
    assert all("provider.invalid" in one["reason"] for one in delays(scene)), delays(scene)
    await scene.daemon.kill()
    scene.point_to(url)
    await scene.calm_run()
    scene.check()


async def test_no_redirect_is_followed_and_no_other_host_is_called(stage_scene, door):
    scene = await stage_scene("redirected to another host", packing={"linger_seconds": 0, "max_lines": 2})
    scene.watched()
    scene.queue.ask_many(4)
    server = await door.opened(door.silent)
    for status in (301, 302, 303, 307, 308):
        for method, path in (
            ("POST", "/files$"),
            ("POST", "/batches$"),
            ("GET", "/batches/[^/]+$"),
            ("GET", "/content$"),
        ):
            scene.proxy.spoil(method, path, hostile.redirect(f"http://{door.address}/v1/elsewhere", status))
    scene.did("redirect", len(scene.proxy.spoilings))
    await scene.calm_run()
    server.close()
    assert [one for one in scene.proxy.spoilings if one.times and one.method == "GET"] == []
    assert (door.calls, door.taken) == (0, b"")
    assert KEY.encode() not in door.taken
    scene.check()
