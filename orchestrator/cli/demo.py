"""`demo`: the whole way of a few dozen prompts, against the sandbox, in this process."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.demo_script import DESIGNED, prompts, settings
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from rich.live import Live

    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

OTHERWISE = 1
LATENCY_SECONDS = 1.5
LOOK_SECONDS = 0.25
DEADLINE_SECONDS = 60.0
ANSWERS_SHOWN = 5
API_KEY = "demo"
BATCH_COLUMNS = ("id", "endpoint", "status", "lines", "lines_done", "lines_failed", "lines_resent")


@dataclass(frozen=True, slots=True)
class End:
    """How it went: results by custom_id, batches in their order, and how long it took."""

    results: dict[str, dict[str, Any]]
    batches: Sequence[dict[str, Any]]
    seconds: float

    def surprises(self) -> list[str]:
        """The custom_ids of prompts that did not end as designed."""
        expected = {row["custom_id"]: DESIGNED.get(row["custom_id"]) for row in prompts()}
        return [name for name, fault in expected.items() if self._ended(name) != ("failed" if fault else "done", fault)]

    def _ended(self, custom_id: str) -> tuple[str, str | None]:
        found = self.results.get(custom_id, {"status": "missing", "fault": None})
        return found["status"], found["fault"]


@click.command("demo")
def command() -> int:
    """See it work: no key, no network, under 20 seconds.

    Starts the sandbox on a free loopback port and a fresh queue in a temporary folder, enqueues a few dozen prompts
    (some fail once, some for ever, one is invalid, one is refused), runs the daemon until all have ended and shows what
    came of them. The folder is kept. The exit code is 1 when a prompt did not end as designed.
    """
    import asyncio  # noqa: PLC0415

    folder = _new_folder()
    end = asyncio.run(_play(folder))
    _show(folder, end)
    return OTHERWISE if end.surprises() else 0


def _new_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="orchestrator-demo-"))
    except OSError as error:
        raise InputError(f"no temporary folder can be made: {error}: point TMPDIR to one that is writable") from error


async def _play(folder: Path) -> End:
    from orchestrator.config import load  # noqa: PLC0415
    from orchestrator.sandbox import Options, serve  # noqa: PLC0415

    started = time.monotonic()
    async with serve(Options(latency_seconds=LATENCY_SECONDS, seed=1)) as sandbox:
        click.echo(f"a fake provider answers at {sandbox.url}\nthe queue is {folder / 'queue.db'}")
        _write_files(folder, sandbox.url)
        loaded = load(folder / "orchestrator.toml", {})
        async with _opened(loaded) as database:
            await _enqueue(database, folder)
            await _answer(database, loaded, folder)
            return await _read_end(database, time.monotonic() - started)


def _write_files(folder: Path, base_url: str) -> None:
    (folder / "key").write_text(API_KEY)
    (folder / "orchestrator.toml").write_text(settings(str(folder), base_url))
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in prompts()))


@contextlib.asynccontextmanager
async def _opened(loaded: Loaded) -> AsyncIterator[Database]:
    from orchestrator.store.database import Database  # noqa: PLC0415
    from orchestrator.store.schema import make_private_file, migrate  # noqa: PLC0415

    database = Database(loaded.config.database.url)
    try:
        make_private_file(str(loaded.config.database.path))
        await migrate(database)
        yield database
    finally:
        await database.close()


async def _enqueue(database: Database, folder: Path) -> None:
    from orchestrator.intake.formats import read_jsonl  # noqa: PLC0415
    from orchestrator.intake.storing import Plan, chunks, store  # noqa: PLC0415

    with (folder / "prompts.jsonl").open("rb") as file:
        totals = await store(database, chunks(read_jsonl(file, "prompts.jsonl")), Plan(), lambda _totals, _bad: None)
    click.echo(f"{totals.enqueued} prompts enqueued from {folder / 'prompts.jsonl'}")


async def _answer(database: Database, loaded: Loaded, folder: Path) -> None:
    """Run the daemon until every prompt has ended; its log goes to a file."""
    import asyncio  # noqa: PLC0415

    from orchestrator.daemon import run  # noqa: PLC0415
    from orchestrator.telemetry import configure  # noqa: PLC0415

    with (folder / "daemon.log").open("w") as log, _screen() as screen:
        with contextlib.redirect_stderr(log):
            configure("info", "json")
        watch = asyncio.create_task(_watch(database, screen))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_SECONDS):
                    counts = await run(loaded, until_idle=True)
                    if counts["queued"] + counts["batched"]:
                        raise click.Abort
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


async def _read_end(database: Database, seconds: float) -> End:
    from orchestrator.store.listing import RESULT_COLUMNS, Chosen, read_results  # noqa: PLC0415
    from orchestrator.store.timeline import list_batches  # noqa: PLC0415
    from orchestrator.store.windows import FIRST_ID  # noqa: PLC0415

    page = await database.read(partial(read_results, chosen=Chosen(), first_id=FIRST_ID, limit=len(prompts())))
    records = [dict(zip(RESULT_COLUMNS, row, strict=True)) for row in page.rows]
    batches = await database.read(partial(list_batches, before_id=None, limit=len(prompts())))
    return End({record["custom_id"]: record for record in records}, batches[::-1], seconds)


# ---------------------------------------------------------------- while it runs


@contextlib.contextmanager
def _screen() -> Iterator[Live | None]:
    """A place on the terminal that is drawn over and over; None in a pipe."""
    if not sys.stdout.isatty():
        yield None
        return
    from rich.live import Live  # noqa: PLC0415

    with Live(refresh_per_second=8, transient=True) as live:
        yield live


async def _watch(database: Database, screen: Live | None) -> None:
    import asyncio  # noqa: PLC0415

    from orchestrator.store.overview import list_active_batches  # noqa: PLC0415
    from orchestrator.store.reports import count_by_status  # noqa: PLC0415

    shown: dict[str, int] = {}
    while True:
        counts, batches = await database.read(count_by_status), await database.read(list_active_batches)
        if screen is not None:
            screen.update(_drawn(counts, len(batches)))
        elif counts != shown:
            told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
            click.echo(f"{told}; {len(batches)} batches under way")
        shown = counts
        await asyncio.sleep(LOOK_SECONDS)


def _drawn(counts: dict[str, int], batches: int) -> Any:  # noqa: ANN401 - whatever rich can draw
    from rich.console import Group  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    ended = counts["done"] + counts["failed"] + counts["cancelled"]
    line = "  ".join(f"{count} {status}" for status, count in counts.items() if status != "cancelled")
    return Group(Text(f"{line}  {batches} batches under way"), ProgressBar(sum(counts.values()), ended, width=60))


# ---------------------------------------------------------------- when it is over


def _show(folder: Path, end: End) -> None:
    from orchestrator.cli.tables import show_table  # noqa: PLC0415

    click.echo()
    answers = [record for record in end.results.values() if record["answer"]][:: len(end.results) // ANSWERS_SHOWN]
    show_table("some answers", ["prompt", "answer"], [[each["custom_id"], each["answer"]] for each in answers])
    failures = [record for record in end.results.values() if record["status"] == "failed"]
    columns = ("custom_id", "fault", "attempts", "error_message")
    show_table("failures, with reasons", columns, [[each[name] for name in columns] for each in failures])
    heads = [name.removeprefix("lines_") for name in BATCH_COLUMNS]
    show_table("batches", heads, [[batch[name] for name in BATCH_COLUMNS] for batch in end.batches])
    _say_how_it_went(end)
    click.echo(closing(folder))


def _say_how_it_went(end: End) -> None:
    counts = {status: sum(each["status"] == status for each in end.results.values()) for status in ("done", "failed")}
    line = f"{counts['done']} done, {counts['failed']} failed, in {end.seconds:.0f} s"
    surprises = end.surprises()
    if surprises:
        click.echo(f"{line}; not as designed: {', '.join(surprises)}: see the log", err=True)
    else:
        click.echo(f"{line}: as designed")


def closing(folder: Path) -> str:
    """What to type next; the queue stays where it is."""
    return f"""
Everything is kept in {folder}
(the log is daemon.log). Ask it in SQL:

    sqlite3 {folder / "queue.db"}
    SELECT custom_id, status, answer FROM results;
    SELECT custom_id, attempt, fault, error_message FROM attempts;
    SELECT * FROM batches;
    SELECT * FROM progress;

In a queue of your own a prompt is one row, and `orchestrator run` answers it:

    INSERT INTO prompts (prompt) VALUES ('Write a haiku about rain');
"""  # noqa: S608 - shown, never run
