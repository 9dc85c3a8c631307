"""Collection beside its floor, and how often each byte of an output is downloaded.

python benchmarks/collection.py [LINES]
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import time
from typing import TYPE_CHECKING

import msgspec
from harness import as_in_the_daemon, cpu_seconds, drained, prompts, stages_of, stand, table

from orchestrator.api.client import Content
from orchestrator.stages import admit, collect, pack, poll, settle, submit
from orchestrator.store.reports import is_idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness import Stand

    from orchestrator.context import Context

MB = 1_000_000
CHUNK_LINES = 1000
RUN_SECONDS = 20.0
AT_ONCE = {"PACKING__LINGER_SECONDS": "0", "POLLING__MIN_SECONDS": "1", "POLLING__MAX_SECONDS": "1"}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    columns = ("lines", "MB", "CPU s", "floor CPU s", "floor / ours")
    title = "collecting one batch; the floor splits, parses and inserts the same lines"
    table(title, columns, [asyncio.run(collected(count))])
    columns = ("lines", "downloads", "MB of output", "MB downloaded", "ratio")
    title = f"a batch that answers for {RUN_SECONDS:.0f} s, polled every second"
    table(title, columns, [asyncio.run(polled(count))])


async def collected(count: int) -> tuple[object, ...]:
    with stand(AT_ONCE, answer_bytes=1000) as at:
        at.fill(prompts(count))
        async with stages_of(at) as context:
            for stage in (admit, pack, submit):
                await drained(stage, context)
            await asyncio.sleep(2)
            await drained(poll, context)
            output = await whole_output(context, at)
            spent = cpu_seconds()
            await drained(collect, context)
            ours = cpu_seconds() - spent
        floor = floor_of(output, at)
    return count, len(output) / MB, ours, floor, f"{floor / ours:.0%}"


async def whole_output(context: Context, at: Stand) -> bytes:
    with contextlib.closing(sqlite3.connect(at.database)) as queue:
        (file_id,) = queue.execute("SELECT output_file_id FROM batch_states").fetchone()
    async with context.clients["doubleword"].content(file_id, 0) as content:
        return b"".join([chunk async for chunk in content.chunks()])


def floor_of(output: bytes, at: Stand) -> float:
    """CPU seconds for the same lines with nothing known of prompts, states, faults or crashes."""
    with contextlib.closing(sqlite3.connect(at.folder / "floor.db", isolation_level=None)) as bare:
        bare.execute("PRAGMA journal_mode=WAL")
        bare.execute("CREATE TABLE reply (id INTEGER PRIMARY KEY, custom_id TEXT UNIQUE, answer TEXT, response TEXT)")
        spent = cpu_seconds()
        lines = output.split(b"\n")
        for start in range(0, len(lines), CHUNK_LINES):
            parsed = [msgspec.json.decode(line) for line in lines[start : start + CHUNK_LINES] if line]
            rows = [_row(one) for one in parsed]
            bare.execute("BEGIN IMMEDIATE")
            bare.executemany("INSERT INTO reply (custom_id, answer, response) VALUES (?, ?, ?)", rows)
            bare.execute("COMMIT")
        return cpu_seconds() - spent


def _row(one: dict) -> tuple[str, str, bytes]:  # type: ignore[type-arg]
    body = one["response"]["body"]
    return one["custom_id"], body["choices"][0]["message"]["content"], msgspec.json.encode(body)


class Meter:
    """Counts the bytes of every download."""

    def __init__(self) -> None:
        self.downloads = self.nbytes = 0

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Every client's downloads pass here for as long as this lasts."""
        meter, inner = self, Content.chunks

        async def chunks(content: Content) -> AsyncIterator[bytes]:
            meter.downloads += 1
            async for chunk in inner(content):
                meter.nbytes += len(chunk)
                yield chunk

        Content.chunks = chunks  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Content.chunks = inner  # type: ignore[method-assign]


async def polled(count: int) -> tuple[object, ...]:
    meter = Meter()
    with stand(AT_ONCE, answer_bytes=1000, latency_seconds=RUN_SECONDS) as at:
        at.fill(prompts(count))
        async with stages_of(at) as context:
            with meter.reading():
                await answered(context)
            size = len(await whole_output(context, at))
    return count, meter.downloads, size / MB, meter.nbytes / MB, f"{meter.nbytes / size:.2f}"


async def answered(context: Context) -> None:
    started = time.monotonic()
    while not await context.database.read(is_idle):
        for stage in (admit, pack, submit, poll, collect, settle):
            await drained(stage, context)
        await asyncio.sleep(0.1)
        assert time.monotonic() - started < 10 * RUN_SECONDS


if __name__ == "__main__":
    as_in_the_daemon()
    main()
