"""`results`: what became of the prompts, streamed."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import TEXT
from orchestrator.core.model import PromptStatus
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from orchestrator.config import Loaded
    from orchestrator.store.database import Database
    from orchestrator.store.listing import Chosen

PAGE_ROWS = 1000
PAGE_BYTES = 16 << 20
FORMATS = ("jsonl", "openai", "csv")
STATUSES = tuple(status.value for status in PromptStatus)


@click.command("results")
@click.option("--tag", type=TEXT, help="Only prompts with this tag.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these; may be repeated.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="See above.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to FILE, not stdout.")
@click.pass_obj
def command(
    config_path: Path | None,
    /,
    *,
    tag: str | None,
    statuses: tuple[str, ...],
    form: str,
    as_json: bool,
    output: Path | None,
) -> None:
    """Print the results in the order the prompts came in, whatever their status.

    \b
    jsonl   one object per prompt with every column of the view results;
            response and metadata are embedded as JSON
    openai  lines as a provider's output file has them for prompts that are
            done, as its error file has them for failed ones; with -o FILE the
            latter go to FILE-errors.jsonl; others are left out
    csv     the same columns, under a header

    A FILE appears under its name when it is complete.
    """  # noqa: D301 - click reads the escape
    from orchestrator.cli.opening import with_database  # noqa: PLC0415
    from orchestrator.store.listing import Chosen  # noqa: PLC0415

    chosen = Chosen(tag, tuple(statuses))
    counts = {MAIN: 0, ERRORS: 0}
    try:
        with _opened(output, "jsonl" if as_json else form) as files:
            with_database(config_path, partial(_write, chosen=chosen, form=form, files=files, counts=counts))
            for file in files.values():
                file.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        raise InputError(f"{output or 'standard output'}: cannot be written: {error.strerror or error}") from error
    if output is not None:
        _tell(output, form, counts)


async def _write(
    database: Database,
    _loaded: Loaded,
    chosen: Chosen,
    form: str,
    files: Mapping[str, BinaryIO],
    counts: dict[str, int],
) -> None:
    render, columns = RENDERERS[form], _columns()
    if form == "csv":
        files[MAIN].write(csv_line(columns))
    async for rows in _pages(database, chosen):
        for row in rows:
            rendered = render(dict(zip(columns, row, strict=True)))
            if rendered is not None:
                files[rendered[0]].write(rendered[1])
                counts[rendered[0]] += 1


async def _pages(database: Database, chosen: Chosen) -> AsyncIterator[Sequence[Sequence[Any]]]:
    """Page after page, each in a transaction of its own; fewer rows at a time where answers are large."""
    from orchestrator.store.listing import read_results  # noqa: PLC0415

    after: int | None = 0
    limit = PAGE_ROWS
    while after is not None:
        page = await database.read(partial(read_results, chosen=chosen, after_id=after, limit=limit))
        yield page.rows
        after = page.next_after
        if page.rows:
            limit = _next_limit(page.rows)


def _next_limit(rows: Sequence[Sequence[Any]]) -> int:
    answer, response = _columns().index("answer"), _columns().index("response")
    nbytes = sum(len(row[answer] or "") + len(row[response] or b"") for row in rows)
    return max(1, min(PAGE_ROWS, PAGE_BYTES * len(rows) // max(1, nbytes)))


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def _opened(output: Path | None, form: str) -> Iterator[dict[str, BinaryIO]]:
    with contextlib.ExitStack() as stack:
        if output is None:
            stdout = sys.stdout.buffer
            yield {MAIN: stdout, ERRORS: stdout}
            return
        files = {MAIN: stack.enter_context(_appearing(output))}
        if form == "openai":
            files[ERRORS] = stack.enter_context(_appearing(errors_path(output)))
        yield files


def errors_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}-errors.jsonl")


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is complete; pipes and devices are written as they are."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _silence_stdout() -> None:
    """Nobody reads on (`| head`): what is still buffered goes nowhere, without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.buffer.fileno())
    os.close(nowhere)


def _tell(output: Path, form: str, counts: Mapping[str, int]) -> None:
    line = f"{counts[MAIN]} results written to {output}"
    if form == "openai":
        line += f", {counts[ERRORS]} errors to {errors_path(output)}"
    click.echo(line, err=True)
