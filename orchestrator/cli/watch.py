"""`status --watch`: the same look again and again; redrawn in place on a terminal, a line per change in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli.screen import harmless, say_json
from orchestrator.cli.status import as_object, iso, look_at, parts
from orchestrator.cli.tables import SHOWN_CHARACTERS, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Group

    from orchestrator.cli.status import Look
    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

BATCHES_TOLD = 3
TABLES, LINES_BESIDE_ROWS, LINES_OF_PAUSES = 3, 18, 8
"""Tables whose length can grow; titles, heads, sums and blank lines around their rows."""


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
            last = line
            if as_json:
                say_json(as_object(look))
            else:
                click.echo(f"{iso(look.at_ms)} {line}")

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
    return shortened(harmless("; ".join(words)), SHOWN_CHARACTERS)


# ---------------------------------------------------------------- on a terminal


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Look], None]]:
    from rich.live import Live  # noqa: PLC0415

    with Live(auto_refresh=False, vertical_overflow="crop") as live:

        def show(look: Look) -> None:
            live.update(_drawn(look, live.console.height), refresh=True)

        yield show


def _drawn(look: Look, height: int) -> Group:
    """Everything on one screen: each table gets its share of the lines."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from orchestrator.cli.tables import drawn  # noqa: PLC0415

    shown: list[Text | Group] = [Text(f"{iso(look.at_ms)}  Ctrl-C ends", style="dim")]
    taken = LINES_BESIDE_ROWS + (LINES_OF_PAUSES if look.pauses else 0)
    for part in parts(look, most=max(1, (height - taken) // TABLES)):
        shown += [Text(""), Text(harmless(part)) if isinstance(part, str) else drawn(*part, one_line=True)]
    return Group(*shown)
