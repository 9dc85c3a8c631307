"""`status --watch`: the same look again and again; redrawn in place on a terminal, a line per change in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli.status import as_object, iso, look_at, parts
from orchestrator.config.fields import shown
from orchestrator.core.model import PromptStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Group

    from orchestrator.cli.status import Look
    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

ENDED = (PromptStatus.DONE, PromptStatus.FAILED, PromptStatus.CANCELLED)
BATCHES_TOLD = 3


async def watch(database: Database, loaded: Loaded, *, interval: float, as_json: bool) -> None:
    """Look until cancelled."""
    with _live() if sys.stdout.isatty() and not as_json else _lines(as_json=as_json) as show:
        while True:
            show(await look_at(database, loaded))
            await asyncio.sleep(interval)


# ---------------------------------------------------------------- in a pipe


@contextlib.contextmanager
def _lines(*, as_json: bool) -> Iterator[Callable[[Look], None]]:
    last = ""

    def show(look: Look) -> None:
        nonlocal last
        line = told(look)
        if line != last:
            click.echo(json.dumps(as_object(look), ensure_ascii=False) if as_json else f"{iso(look.at_ms)} {line}")
            last = line

    yield show


def told(look: Look) -> str:
    """Everything that can change but the time, on one line."""
    words = [", ".join(f"{count} {status}" for status, count in look.prompts.items())]
    for batch in look.batches[:BATCHES_TOLD]:
        status = batch.remote_status if batch.status == "submitted" and batch.remote_status else batch.status
        words.append(f"batch {batch.id} {status} {batch.lines_received}/{batch.lines}")
    if len(look.batches) > BATCHES_TOLD:
        words.append(f"{len(look.batches) - BATCHES_TOLD} more batches")
    words += [f"{state.name} paused: {state.pause_reason}" for state in look.pauses]
    if look.errors:
        words.append(f"last error: {look.errors[0].message}")
    return shown("; ".join(words))


# ---------------------------------------------------------------- on a terminal


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Look], None]]:
    from rich.live import Live  # noqa: PLC0415

    first: Look | None = None
    with Live(auto_refresh=False, vertical_overflow="crop") as live:

        def show(look: Look) -> None:
            nonlocal first
            first = first or look
            live.update(_drawn(look, first), refresh=True)

        yield show


def _drawn(look: Look, first: Look) -> Group:
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from orchestrator.cli.tables import drawn  # noqa: PLC0415

    shown_parts = [Text(part) if isinstance(part, str) else drawn(*part) for part in parts(look)]
    return Group(*shown_parts, Text(f"{iso(look.at_ms)}  {_rate(look, first)}  Ctrl-C ends", style="dim"))


def _rate(look: Look, first: Look) -> str:
    seconds = (look.at_ms - first.at_ms) / 1000
    ended = sum(look.prompts[status] for status in ENDED) - sum(first.prompts[status] for status in ENDED)
    return f"{max(0, ended) * 60 / seconds:.1f} prompts a minute" if seconds else ""
