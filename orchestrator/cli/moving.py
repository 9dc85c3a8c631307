"""`copy`: a queue moves from SQLite to PostgreSQL."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import TEXT, as_json
from orchestrator.cli.screen import Bar, say_json
from orchestrator.core.telling import harmless
from orchestrator.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.store.moving import Compared, Move

HELP = """Move a queue from SQLite to PostgreSQL, with its history and its open batches.

Stop the daemon first, and give an empty database. From then on the file takes no more prompts, and `run` refuses to
work on it. Broken off, whatever did it, the same command goes on where it stopped. In the end every row is compared;
only then does a daemon run on the copy: name it in database.url.
"""
EPILOG = """\b
--json prints one object:
  moved_to  where the queue lives now; null after --undo
  tables    one object for each that was compared: table, rows, checksum, and
            replaced, the values that hold U+FFFD for a NUL or for bytes that
            are no UTF-8. Empty when the move was complete, and after --undo
"""


@click.command("copy", help=HELP, epilog=EPILOG, short_help="Move the queue from SQLite to PostgreSQL.")
@click.option("--from", "source", type=TEXT, required=True, metavar="URL", help="The queue: sqlite:///FILE.")
@click.option(
    "--to", "target", type=TEXT, required=True, metavar="URL", help="An empty database: postgresql://USER@HOST/NAME."
)
@click.option("--undo", is_flag=True, help="Give up a copy that is not complete: the file is the queue again.")
@as_json
def command(*, source: str, target: str, undo: bool, as_json: bool) -> None:
    import asyncio  # noqa: PLC0415

    from orchestrator.config.checks import database_problem  # noqa: PLC0415
    from orchestrator.store.moving import shown_address  # noqa: PLC0415
    from orchestrator.store.schema import only_daemon  # noqa: PLC0415

    for option, url, scheme in (("--from", source, "sqlite:///"), ("--to", target, "postgresql://")):
        problem = database_problem(url) or ("" if url.startswith(scheme) else f"must begin with {scheme}")
        if problem:
            raise click.UsageError(f"{option}: {problem}")
    path = Path(source.removeprefix("sqlite:///"))
    if not path.exists():
        raise StoreUnavailable(f"database {path} does not exist: check --from")
    with only_daemon(str(path)), Bar("rows") as bar:
        asyncio.run(_migrated(source, target))
        with _opened(path, target, bar) as move:
            compared = move.undo() if undo else move.run()
    _tell(compared, None if undo else shown_address(target), path, as_json=as_json)


async def _migrated(*urls: str) -> None:
    from orchestrator.store.database import Database  # noqa: PLC0415
    from orchestrator.store.schema import migrate  # noqa: PLC0415

    for url in urls:
        database = Database(url)
        try:
            await migrate(database)
        finally:
            await database.close()


@contextlib.contextmanager
def _opened(path: Path, target: str, bar: Bar) -> Iterator[Move]:
    """A move that shows on the bar how far it is: each row is copied and compared."""
    from orchestrator.store.moving import Move  # noqa: PLC0415

    done = 0

    def told(rows: int) -> None:
        nonlocal done
        done += rows
        bar.show(done, done // 2)

    with contextlib.closing(Move(path, target, told)) as move:
        bar.total = 2 * move.rows()
        yield move


def _tell(compared: list[Compared], moved_to: str | None, path: Path, *, as_json: bool) -> None:
    if as_json:
        say_json({"moved_to": moved_to, "tables": [asdict(one) for one in compared]})
        return
    for one in compared:
        note = f", {one.replaced} values with a NUL or no UTF-8 hold U+FFFD there" if one.replaced else ""
        click.echo(f"{one.table}: {one.rows} rows, checksum {one.checksum}, the same on both sides{note}")
    if moved_to is None:
        click.echo(harmless(f"{path} is the queue again; what was copied stays locked, and can be dropped"))
    else:
        click.echo(harmless(f"the queue lives at {moved_to} now: name that in database.url and run the daemon"))
