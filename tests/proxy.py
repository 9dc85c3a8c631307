"""A proxy before the sandbox: it can hold a call before or after forwarding it, halfway through either body, change
what is answered, and answer itself. The sandbox has no such faults, and a kill at an exact moment needs them."""

import asyncio
import contextlib
import io
import re
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

DROPPED = {"content-length", "transfer-encoding", "connection", "date", "server", "host"}


@dataclass
class Gate:
    """One rendezvous: `reached` is set when the call stands there; it goes on when `open` is set, or is dropped.

    when: "before" forwarding, "after" it, "mid-request" or "mid-response" (after `nbytes` of that body).
    """

    method: str
    path: str
    when: str
    nbytes: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: bool = False

    async def wait(self):
        self.reached.set()
        await self.open.wait()

    def drop(self):
        """Let the held call go nowhere."""
        self.dropped = True
        self.open.set()


@dataclass
class Spoiling:
    """The next `times` matching calls are forwarded, and then answered by `trick(request, status, headers, body)`."""

    method: str
    path: str
    trick: object
    times: int


class Proxy:
    """`target` gives the path and query under which a request is forwarded; one with more than `most_bytes` is cut."""

    def __init__(self, upstream, session):
        self.upstream = upstream.removesuffix("/v1")
        self.session = session
        self.gates = []
        self.rewrites = []
        self.spoilings = []
        self.target = lambda request: request.path_qs
        self.most_bytes = 1 << 40
        self.seen = []
        self.bodies = []
        self.url = ""

    def hold(self, method, path, when, nbytes=0):
        """Hold the next call whose method and path match; each gate strikes once."""
        gate = Gate(method, path, when, nbytes)
        self.gates.append(gate)
        return gate

    def rewrite(self, method, path, change):
        """Pass every matching reply through `change(status, headers, body)`."""
        self.rewrites.append((method, path, change))

    def spoil(self, method, path, trick, times=1):
        """Let `trick` answer the next `times` calls that match, although they were executed."""
        self.spoilings.append(Spoiling(method, path, trick, times))

    def _trick(self, request):
        for spoiling in self.spoilings:
            if spoiling.times and spoiling.method == request.method and re.search(spoiling.path, request.path):
                spoiling.times -= 1
                return spoiling.trick
        return None

    def _gate(self, request, when):
        for gate in self.gates:
            hit = gate.method == request.method and re.search(gate.path, request.path) and gate.when == when
            if hit and not gate.reached.is_set():
                gate.reached.set()
                return gate
        return None

    async def handle(self, request):
        self.seen.append((request.method, request.path_qs, dict(request.headers)))
        too_long = (request.content_length or 0) > self.most_bytes
        if too_long or await self._held(self._gate(request, "before")):
            return self._cut(request)
        gate = self._gate(request, "mid-request")
        if gate is not None:
            await request.content.readexactly(gate.nbytes)
            await gate.wait()
            return self._cut(request)
        sent = await request.read()
        self.bodies.append((request.method, request.path, sent))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in DROPPED}
        url = URL(self.upstream + self.target(request), encoded=True)
        try:
            async with self.session.request(
                request.method, url, data=io.BytesIO(sent) if sent else None, headers=headers, allow_redirects=False
            ) as answer:
                status, body = answer.status, await answer.read()
                told = {name: value for name, value in answer.headers.items() if name.lower() not in DROPPED}
        except aiohttp.ClientError:
            return self._cut(request)
        if await self._held(self._gate(request, "after")):
            return self._cut(request)
        return await self._answered(request, status, told, body)

    async def _answered(self, request, status, told, body):
        trick = self._trick(request)
        if trick is not None:
            return await trick(request, status, told, body)
        for method, path, change in self.rewrites:
            if method == request.method and re.search(path, request.path):
                status, told, body = change(status, told, body)
        gate = self._gate(request, "mid-response")
        if gate is not None:
            response = web.StreamResponse(status=status, headers=told)
            await response.prepare(request)
            await response.write(body[: gate.nbytes])
            await gate.wait()
            return self._cut(request)
        return web.Response(status=status, body=body, headers=told)

    @staticmethod
    async def _held(gate):
        if gate is not None:
            await gate.wait()
        return gate is not None and gate.dropped

    @staticmethod
    def _cut(request):
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


@contextlib.asynccontextmanager
async def proxied(upstream):
    """A proxy before `upstream` (a base URL that ends in /v1), listening while the block runs."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        proxy = Proxy(upstream, session)
        app = web.Application(client_max_size=1 << 40)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            yield proxy
        finally:
            for gate in proxy.gates:
                gate.drop()
            await runner.cleanup()
