"""`status --watch`: the same look again and again; redrawn in place on a terminal, a line per change in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from orchestrator.cli.screen import say_json
from orchestrator.cli.tables import SHOWN_CHARACTERS, shortened
from orchestrator.core.telling import harmless, shown_status
from orchestrator.status import Watched
from orchestrator.store.schema import is_unattended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

BATCHES_TOLD = 3


async def watch(database: Database, loaded: Loaded, *, interval: float, as_json: bool) -> None:
    """Look until cancelled."""
    watched = Watched(database, loaded.config, partial(is_unattended, database.path))
    with _live() if sys.stdout.isatty() and not as_json else _lines(as_json=as_json) as show:
        while True:
            show(await watched.status())
            await asyncio.sleep(interval)


# ---------------------------------------------------------------- in a pipe


@contextlib.contextmanager
def _lines(*, as_json: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    last = ""

    def show(status: Mapping[str, Any]) -> None:
        nonlocal last
        line = told(status)
        if line != last:
            last = line
            if as_json:
                say_json(status)
            else:
                click.echo(f"{status['at']} {line}")

    yield show


def told(status: Mapping[str, Any]) -> str:
    """Everything that can change but the time, on one line."""
    words = [", ".join(f"{count} {name}" for name, count in status["prompts"].items())]
    if status["restored"]:
        words.append("restored from a backup: {looks}/{looks_needed} looks".format_map(status["restored"]))
    words += [
        f"batch {batch['id']} {shown_status(batch)} {batch['lines_received']}/{batch['lines']}"
        for batch in status["batches"][:BATCHES_TOLD]
    ]
    if len(status["batches"]) > BATCHES_TOLD:
        words.append(f"{len(status['batches']) - BATCHES_TOLD} more batches")
    words += [f"{pause['provider']} paused: {pause['reason']}" for pause in status["pauses"]]
    if status["errors"]:
        words.append(f"last error: {status['errors'][0]['message']}")
    return shortened(harmless("; ".join(words)), SHOWN_CHARACTERS)


# ---------------------------------------------------------------- on a terminal


@contextlib.contextmanager
def _live() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    from rich.live import Live  # noqa: PLC0415

    from orchestrator.cli.dashboard import screenful  # noqa: PLC0415

    with Live(auto_refresh=False, vertical_overflow="crop") as live:

        def show(status: Mapping[str, Any]) -> None:
            live.update(screenful(status, live.console.height), refresh=True)

        yield show
