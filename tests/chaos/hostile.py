"""What a hostile or broken server answers in place of its reply. Each trick is `trick(request, status, headers, body)`;
the call itself was executed."""

import asyncio
import contextlib
import gzip
import json
import zlib

from aiohttp import web
from daemon_process import KEY

MIB = 1 << 20
PAGE = b"<!DOCTYPE html><html><head><title>Please log in</title></head><body><h1>Guest network</h1></body></html>"
JSON_HEADERS = {"Content-Type": "application/json"}


def reply(body, status=200, **headers):
    told = {**JSON_HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def trick(request, *_):
        return web.Response(status=status, body=body, headers=told)

    return trick


def real_reply_with(**headers):
    """The real reply under these headers."""

    async def trick(request, status, told, body):
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers={**told, **extra})

    return trick


def raw(data):
    """These bytes in place of a reply, headers and all; then the connection is closed."""

    async def trick(request, *_):
        request.transport.write(data)
        request.transport.close()
        return web.Response()

    return trick


def stream(pieces, status=200, length=None, **headers):
    """A body of any length, sent as fast as it is taken, never held."""

    async def trick(request, *_):
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        response = web.StreamResponse(status=status, headers=told)
        if length is not None:
            response.content_length = length
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            async for piece in pieces():
                await response.write(piece)
            await response.write_eof()
        return response

    return trick


async def for_ever(piece):
    while True:
        yield piece


async def repeated(first, piece, times, last=b""):
    yield first
    for _ in range(times):
        yield piece
    yield last


async def trickled(data, seconds=1.0):
    for byte in data:
        yield bytes([byte])
        await asyncio.sleep(seconds)


async def one_byte_a_second(request, status, headers, body):
    return await stream(lambda: trickled(body), status)(request)


async def never(request, *_):
    """A half-open connection: the request is taken, and no byte ever comes back."""
    await asyncio.Event().wait()


async def compressed(request, status, headers, body):
    """The real reply, compressed although nobody asked for it."""
    return await reply(gzip.compress(body), status, Content_Encoding="gzip")(request)


def bomb(nbytes, piece=b" " * MIB, first=b"{"):
    """`nbytes` of text in a thousandth of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(first)] + [packer.compress(piece) for _ in range(nbytes // len(piece))]
    return b"".join([*parts, packer.flush()])


def redirect(address, status):
    return reply(b"", status, Location=address)


def swarm(opening, item, closing, nbytes):
    """JSON of `nbytes` that is made of as many values as fit in."""
    return opening + item * ((nbytes - len(opening) - len(closing)) // len(item)) + closing


def echo(status):
    """The key, as some servers and proxies repeat what they were sent."""
    return reply(json.dumps({"error": {"message": f"unexpected header Authorization: Bearer {KEY}"}}).encode(), status)
