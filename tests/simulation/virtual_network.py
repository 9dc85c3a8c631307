"""Connections in memory: real bytes between the real client and the real server, lost and cut as a network does."""

import asyncio
import contextvars
from collections import deque

import aiohttp
from virtual_loop import PROCESS

LATENCY_SECONDS = 0.02
FINE, CUT, SILENT = "fine", "cut", "silent"


class Network:
    """The way to one server. `odds` are shares of connections that go wrong; `up` is False during an outage.

    A connection that is cut breaks off after some bytes, in one direction; a silent one swallows what follows.
    """

    def __init__(self, serve, rng):
        self.serve = serve
        self.rng = rng
        self.up = True
        self.odds = {CUT: 0.0, SILENT: 0.0}
        self.told = []
        self._outside = contextvars.copy_context()

    async def connect(self, factory, connection_key):
        await asyncio.sleep(LATENCY_SECONDS)
        if not self.up:
            raise aiohttp.ClientConnectorError(connection_key, OSError(111, "Connection refused"))
        client, server = factory(), self._outside.run(self.serve)
        near = _End(client, contextvars.copy_context())
        far = _End(server, self._outside.copy())
        near.peer, far.peer = far, near
        self._doom(near, far)
        process = PROCESS.get()
        if process is not None:
            process.belongings.append(near)
        far.context.run(server.connection_made, far)
        client.connection_made(near)
        return client

    def _doom(self, near, far):
        chance, fate = self.rng.random(), FINE
        for name, share in self.odds.items():
            chance -= share
            if chance < 0:
                fate = name
                break
        if fate is FINE:
            return
        end = self.rng.choice((near, far))
        end.fate, end.left = fate, int(10 ** self.rng.uniform(0, 4))
        self.told.append((asyncio.get_running_loop().time(), f"connection {fate} after {end.left} bytes"))


class Connector(aiohttp.BaseConnector):
    """Stands in for aiohttp's TCP connector."""

    allowed_protocol_schema_set = frozenset({"", "http", "https"})

    def __init__(self, network, limit):
        super().__init__(limit=limit)
        self.network = network

    async def _create_connection(self, req, traces, timeout):  # noqa: ARG002, ASYNC109 - aiohttp's signature
        return await self.network.connect(self._factory, req.connection_key)


class _End(asyncio.Transport):
    """One end. What it sends arrives in order, each piece some time later; `left` bytes until its fate strikes."""

    def __init__(self, protocol, context):
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.protocol = protocol
        self.context = context
        self.loop = asyncio.get_running_loop()
        self.peer = None
        self.fate, self.left = FINE, 0
        self._inbox = deque()
        self._paused = False
        self._closing = False
        self._lost = False

    # ---- what a protocol calls

    def write(self, data):
        if self._closing or not data:
            return
        data = bytes(data)
        if self.fate is FINE:
            self._send(self.peer._arrived, data)
            return
        passed, self.left = data[: self.left], max(0, self.left - len(data))
        if passed:
            self._send(self.peer._arrived, passed)
        if not self.left and self.fate is CUT:
            self._break()

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    def write_eof(self):
        self._send(self.peer._finished)

    def can_write_eof(self):
        return True

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def is_closing(self):
        return self._closing

    def is_reading(self):
        return not self._paused

    def pause_reading(self):
        self._paused = True

    def resume_reading(self):
        self._paused = False
        if self._inbox:
            self.loop.call_soon(self._deliver, context=self.context)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def close(self):
        if not self._closing:
            self._closing = True
            self._send(self.peer._finished)
            self.loop.call_soon(self._lose, None, context=self.context)

    def abort(self):
        self._break()

    # ---- what happens to it

    def vanish(self):
        """Its process is dead: what was sent still arrives, then the other side sees the end."""
        if not self._closing:
            self._closing = self._lost = True
            self._send(self.peer._finished)

    def _send(self, arrive, *data):
        self.peer._inbox.append((arrive, data))
        self.loop.call_later(LATENCY_SECONDS, self.peer._deliver, context=self.peer.context)

    def _deliver(self):
        if self._inbox and not self._paused and not self._lost:
            arrive, data = self._inbox.popleft()
            arrive(*data)
            if self._inbox:
                self.loop.call_soon(self._deliver, context=self.context)

    def _arrived(self, data):
        self.protocol.data_received(data)

    def _finished(self):
        if not self.protocol.eof_received():
            self.close()

    def _break(self):
        """Reset: what is under way in either direction is lost."""
        for end in (self, self.peer):
            if not end._lost:
                end._closing = True
                end._inbox.clear()
                end.loop.call_soon(end._lose, ConnectionResetError("reset"), context=end.context)

    def _lose(self, error):
        if not self._lost:
            self._lost = self._closing = True
            self.protocol.connection_lost(error)
