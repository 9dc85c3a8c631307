"""A client and the sandbox, or a bare socket, it talks to."""

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass

import msgspec

from orchestrator.api.client import Client
from orchestrator.config.profiles import BUILT_IN

KEY = "sk-very-secret-0123456789"
CHAT = "/v1/chat/completions"


def line(custom_id):
    body = {"model": "m", "messages": [{"role": "user", "content": f"What about {custom_id}?"}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}).encode() + b"\n"


async def each(chunks):
    for chunk in chunks:
        yield chunk


@dataclass
class Wire:
    sandbox: object
    client: Client
    clock: object

    async def upload(self, name="f.jsonl", lines=3):
        data = [line(f"q-{number}") for number in range(lines)]
        return await self.client.upload(name, sum(map(len, data)), each(data))

    async def batch(self, key="orc-1", lines=3):
        file = await self.upload(f"{key}.jsonl", lines)
        return await self.client.create_batch(file.id, CHAT, "24h", key)

    async def ended(self, lines=3):
        made = await self.batch(lines=lines)
        self.clock.advance(60)
        return await self.client.get_batch(made.id)

    async def read(self, file_id, skip=0):
        parts = []
        async with self.client.content(file_id, skip) as content:
            parts += [chunk async for chunk in content.chunks()]
        return b"".join(parts)

    @staticmethod
    @contextlib.asynccontextmanager
    async def answering(reply, **changes):
        """A client of a bare socket that reads a request's head, writes `reply` and closes."""

        async def answer(reader, writer):
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(reply)
                await writer.drain()
            writer.close()

        async with served(answer, **changes) as client:
            yield client

    @staticmethod
    @contextlib.asynccontextmanager
    async def noting():
        """A client of a bare socket that answers each call, with a cookie, and the heads of the calls.

        It is called by name: no client keeps a cookie of a bare address.
        """
        heads = []

        async def note(reader, writer):
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(
                b'HTTP/1.1 200 OK\r\nConnection: close\r\nSet-Cookie: a=b\r\nContent-Length: 10\r\n\r\n{"id":"x"}'
            )
            await writer.drain()
            writer.close()

        async with served(note, host="localhost") as client:
            yield client, heads

    @staticmethod
    @contextlib.asynccontextmanager
    async def draining():
        """A client of a bare socket that reads a whole request, and the sizes of what it read."""
        received = []

        async def drain(reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            left = int(re.search(rb"Content-Length: (\d+)", head)[1])
            while left:
                received.append(len(await reader.read(min(left, 1 << 18))))
                left -= received[-1]
            writer.write(b'HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n{"id":"f"}')
            await writer.drain()
            writer.close()

        async with served(drain) as client:
            yield client, received


@contextlib.asynccontextmanager
async def served(handle, host="127.0.0.1", **changes):
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://{host}:{server.sockets[0].getsockname()[1]}/v1"
    client = Client(msgspec.structs.replace(BUILT_IN["doubleword"], base_url=url, **changes))
    try:
        yield client
    finally:
        await client.close()
        server.close()
        await server.wait_closed()
