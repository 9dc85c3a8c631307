"""How replies travel: resets, trickles, cut chunks, and the streamed body of a file with its faults."""

import asyncio
import socket
import struct
from collections.abc import Iterable, Iterator

from aiohttp import web

from orchestrator.sandbox.faults import Fault, Fired

BOM = b"\xef\xbb\xbf"
# SO_LINGER with zero seconds turns the close into a TCP reset.
NO_LINGER = struct.pack("ii", 1, 0)
CUTTING = ("reset-mid-body", "truncated-chunk", "torn-tail")


class Cut(Exception):
    """The connection has been cut on purpose; there is nobody left to answer."""


def reset(request: web.BaseRequest) -> Cut:
    """Reset the client's connection."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        transport.abort()
    return Cut()


def hung_up(request: web.BaseRequest) -> Cut:
    """End the client's connection so that what was written still arrives; a reset could overtake it."""
    if request.transport is not None:
        request.transport.close()
    return Cut()


class Stream:
    """A file's body on its way out, chunked; `sent` is bytes of body."""

    def __init__(self, request: web.Request, response: web.StreamResponse, fired: Fired) -> None:
        self.request = request
        self.response = response
        self.trickle = fired.get("one-byte-a-second")
        self.cut = next((fired[name] for name in CUTTING if name in fired), None)
        self.fired = fired
        self.sent = 0

    async def send(self, pieces: Iterable[bytes]) -> None:
        await self.response.prepare(self.request)
        for piece in framed(pieces, self.fired):
            await self.write(piece)
            # A long file must not keep other requests waiting.
            await asyncio.sleep(0)
        if self.cut is not None and self.cut.name != "torn-tail":
            raise hung_up(self.request)
        await self.response.write_eof()

    async def write(self, piece: bytes) -> None:
        if self.cut is not None and self.cut.name != "torn-tail":
            await self.write_until_cut(piece, self.cut)
        elif self.trickle is not None:
            await self.write_slowly(piece, self.trickle)
        else:
            await self.write_all(piece)

    async def write_all(self, piece: bytes) -> None:
        await self.response.write(piece)
        self.sent += len(piece)

    async def write_slowly(self, piece: bytes, trickle: Fault) -> None:
        for at in range(len(piece)):
            await self.write_all(piece[at : at + 1])
            await asyncio.sleep(1 / trickle.number("bytes_per_second"))

    async def write_until_cut(self, piece: bytes, cut: Fault) -> None:
        left = int(cut.number("nbytes")) - self.sent
        if left > len(piece):
            await self.write_all(piece)
            return
        await self.write_all(piece[:left])
        if cut.name == "truncated-chunk" and self.request.transport is not None:
            self.request.transport.write(b"ffff\r\n" + piece[left : left + 64])
        raise hung_up(self.request)


def framed(pieces: Iterable[bytes], fired: Fired) -> Iterator[bytes]:
    """The pieces with the faults that concern line ends and the file's first and last bytes (F25, F29)."""
    held = BOM if "bom" in fired else b""
    crlf = "crlf" in fired
    for piece in pieces:
        if held:
            yield held
        held = piece.replace(b"\n", b"\r\n") if crlf else piece
    if "no-final-newline" in fired:
        held = held.rstrip(b"\r\n")
    if "torn-tail" in fired:
        held = held[: -int(fired["torn-tail"].number("nbytes"))]
    if held:
        yield held
