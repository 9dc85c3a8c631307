"""From the table to the socket, and what a claim costs on queues of different lengths.

python benchmarks/upload.py [PROMPTS]
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from harness import as_in_the_daemon, cpu_seconds, drained, prompts, stages_of, stand, table

from orchestrator.api.client import Client
from orchestrator.core.model import Batch, BatchStatus
from orchestrator.lease import held
from orchestrator.stages import admit, pack
from orchestrator.store.batches import statuses
from orchestrator.store.queue import list_lines
from orchestrator.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from orchestrator.context import Context

MB = 1_000_000
CLAIMS = 9
AT_ONCE = {"PACKING__LINGER_SECONDS": "0", "PROVIDERS__DOUBLEWORD__MAX_ACTIVE_BATCHES_PER_LANE": "100"}
SINK = r"""
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    client = server.accept()[0]
    head, _, body = client.recv(1 << 16).partition(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    left, buffer = size - len(body), bytearray(1 << 20)
    while left > 0:
        left -= client.recv_into(buffer)
    client.sendall(b'HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n{"id":"f"}')
"""
"""Reads one upload and keeps nothing of it."""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    sizes = ((count, 1000), (count // 10, 10_000), (count // 1000, 1 * MB))
    columns = ["prompts", "bytes each", "MB", "MB per s", "MB per CPU s"]
    table("one file, from the table to a socket", columns, (asyncio.run(uploaded(*size)) for size in sizes))
    columns = ["queue", "admit, CPU µs a prompt", "seal a batch of 1,000, CPU ms"]
    table("admission and claim", columns, (asyncio.run(claimed(length)) for length in (count, 10 * count)))


async def uploaded(count: int, nbytes: int) -> tuple[object, ...]:
    with stand(AT_ONCE) as at, sink() as url:
        at.fill(prompts(count, nbytes))
        async with stages_of(at) as context, one_sealed(context) as batch:
            lines = await context.database.read(partial(list_lines, batch_id=batch.id))
            size = sum(line.nbytes for line in lines)
            client = Client(msgspec.structs.replace(context.config.providers["doubleword"], base_url=url))
            started, spent = time.monotonic(), cpu_seconds()
            await client.upload("input.jsonl", size, Upload(context, batch, lines).chunks())
            wall, cpu = time.monotonic() - started, cpu_seconds() - spent
            await client.close()
    return len(lines), nbytes, size / MB, size / MB / wall, size / MB / cpu


@contextlib.contextmanager
def sink() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def one_sealed(context: Context) -> AsyncIterator[Batch]:
    await drained(admit, context)
    await drained(pack, context)
    async with held(context, statuses(BatchStatus.SEALED)) as batch:
        assert isinstance(batch, Batch)
        yield batch


async def claimed(length: int) -> tuple[object, ...]:
    with stand({**AT_ONCE, "PACKING__MAX_LINES": "1000"}) as at:
        at.fill(prompts(length, 100))
        async with stages_of(at) as context:
            spent = cpu_seconds()
            await drained(admit, context)
            admitted = cpu_seconds() - spent
            took = sorted([await sealed(context) for _ in range(CLAIMS)])
    return length, admitted / length * 1e6, took[CLAIMS // 2]


async def sealed(context: Context) -> float:
    """CPU milliseconds for finding what is ready and sealing one batch of it."""
    spent = cpu_seconds()
    assert (await pack(context)).moved
    return (cpu_seconds() - spent) * 1000


if __name__ == "__main__":
    as_in_the_daemon()
    main()
