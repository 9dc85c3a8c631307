"""What reaches the screen: foreign text moves no cursor there, and whatever takes long shows that it lives."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
import time
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Self

import click

from orchestrator.core.telling import harmless

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.progress import Progress, TaskID

QUIET_SECONDS = 1.0


def wrapped(line: str, indent: str = "") -> str:
    """The line without harm; on a terminal wrapped between words, what follows indented."""
    if not sys.stdout.isatty():
        return harmless(line)
    width = get_terminal_size().columns
    return textwrap.fill(harmless(line), width, subsequent_indent=indent, break_on_hyphens=False)


def say_json(facts: object) -> None:
    """One object on one line; what a terminal would act on is escaped there."""
    text = json.dumps(facts, ensure_ascii=False)
    click.echo(harmless(text) if sys.stdout.isatty() else text)


def silence_stdout() -> None:
    """Nobody reads on (`| head`), or it cannot be written: what is still buffered goes nowhere, without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.buffer.fileno())
    os.close(nowhere)


class Screen:
    """Standard output as a terminal, to which lines of results are written without letting them act on it."""

    def write(self, lines: bytes) -> int:
        return sys.stdout.buffer.write(harmless(lines.decode(errors="replace"), keep="\n").encode())

    def flush(self) -> None:
        sys.stdout.buffer.flush()


class Bar:
    """A bar on stderr, once it takes long, if that is a terminal. Without a total it only counts."""

    def __init__(self, noun: str, total: int | None = None, *, wanted: bool = True) -> None:
        self.total = total
        self._noun = noun
        self._wanted = wanted and sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._drawn is not None:
            self._drawn[0].stop()

    def show(self, completed: int, count: int) -> None:
        """`completed` of the total is behind us, in which there were `count` of what is counted."""
        if self._drawn is None and self._wanted and time.monotonic() - self._started > QUIET_SECONDS:
            self._drawn = _new_bar(self._noun, self.total)
        if self._drawn is not None:
            progress, task = self._drawn
            progress.update(task, completed=completed, count=count)

    def print(self, line: str) -> None:
        """A line on stderr, above the bar."""
        if self._drawn is None:
            click.echo(harmless(line), err=True)
        else:
            self._drawn[0].console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)


def _new_bar(noun: str, total: int | None) -> tuple[Progress, TaskID]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(compact=True))
    counted = TextColumn(f"{{task.fields[count]}} {noun}")
    progress = Progress(*(columns if total else columns[:1]), counted, console=Console(stderr=True), transient=True)
    task = progress.add_task("", total=total, count=0)
    progress.start()
    return progress, task


@contextlib.asynccontextmanager
async def sign_of_life(doing: str) -> AsyncIterator[None]:
    """Meanwhile stderr, if it is a terminal, tells what is being done, once that takes long."""
    import asyncio  # noqa: PLC0415

    spinning = asyncio.create_task(_spin(doing)) if sys.stderr.isatty() else None
    try:
        yield
    finally:
        if spinning is not None:
            spinning.cancel()
            await asyncio.gather(spinning, return_exceptions=True)


async def _spin(doing: str) -> None:
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(QUIET_SECONDS)
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(doing, total=None)
        await asyncio.Event().wait()
