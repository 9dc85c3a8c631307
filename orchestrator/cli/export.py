"""Results to files: page by page from the database, each row as a line of the format asked for."""

from __future__ import annotations

import csv
import io
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from orchestrator.cli.selecting import unknown_tag
from orchestrator.config.fields import shown
from orchestrator.core.model import PromptStatus
from orchestrator.store.listing import AS_BYTES, RESULT_COLUMNS, Chosen, Page, read_results
from orchestrator.store.overview import newest_prompt
from orchestrator.store.windows import FIRST_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from typing import BinaryIO

    from orchestrator.cli.screen import Bar, Screen
    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

    Written = BinaryIO | Screen

FIRST_PAGE_ROWS, PAGE_ROWS = 20, 1000
PAGE_BYTES = 16 << 20
ANSWER, RESPONSE = (RESULT_COLUMNS.index(name) for name in ("answer", "response"))
MAIN, ERRORS = 0, 1
"""Which of the two files a line belongs into."""
NEWLINES = bytes.maketrans(b"\r\n", b"  ")

Record = dict[str, Any]
Rendered = tuple[int, bytes] | None
"""MAIN or ERRORS, and the line; None where the format leaves the prompt out."""


async def export(
    database: Database,
    _loaded: Loaded,
    *,
    chosen: Chosen,
    form: str,
    files: tuple[Written, Written],
    counts: list[int],
    bar: Bar,
) -> None:
    """Write every chosen result, and say so where there is none; `counts` counts the lines of each file."""
    bar.total = newest = await database.read(newest_prompt)
    render = RENDERERS[form]
    if form == "csv":
        files[MAIN].write(csv_line(RESULT_COLUMNS))
    async for page in _pages(database, chosen):
        for row in page.rows:
            rendered = render(dict(zip(RESULT_COLUMNS, row, strict=True)))
            if rendered is not None:
                files[rendered[0]].write(rendered[1])
                counts[rendered[0]] += 1
        bar.show(page.next_id or newest, sum(counts))
    nothing = None if any(counts) else await unknown_tag(database, chosen.tag) or _nothing(chosen, form)
    if nothing is not None:
        click.echo(nothing, err=True)


def _nothing(chosen: Chosen, form: str) -> str | None:
    asked = [] if chosen.tag is None else [f"--tag {shown(chosen.tag)}"]
    asked += [f"--status {status}" for status in chosen.statuses]
    asked += ["--format openai"] if form == "openai" else []
    return f"no results for {' '.join(asked)}" if asked else None


async def _pages(database: Database, chosen: Chosen) -> AsyncIterator[Page]:
    """Page after page, each in a transaction of its own; fewer rows at a time where answers are large."""
    first: int | None = FIRST_ID
    limit = FIRST_PAGE_ROWS
    while first is not None:
        page = await database.read(partial(read_results, chosen=chosen, first_id=first, limit=limit))
        yield page
        first = page.next_id
        if page.rows:
            limit = next_limit(page.rows)


def next_limit(rows: Sequence[Sequence[Any]]) -> int:
    nbytes = sum(len(row[ANSWER] or "") + len(row[RESPONSE] or b"") for row in rows)
    return max(1, min(PAGE_ROWS, PAGE_BYTES * len(rows) // max(1, nbytes)))


# ---------------------------------------------------------------- one row


def embedded(stored: bytes | None) -> msgspec.Raw | str | None:
    """Stored JSON as it stands, on one line; as a string where it is no JSON."""
    if stored is None:
        return None
    try:
        stored.decode()
        msgspec.json.decode(stored)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return stored.decode(errors="replace")
    return msgspec.Raw(stored.translate(NEWLINES))


def readable(record: Record) -> Record:
    """The record with its user's columns, which are bytes, as text."""
    texts = {name: record[name].decode(errors="replace") for name in AS_BYTES if record[name] is not None}
    return {**record, **texts}


def as_jsonl(record: Record) -> Rendered:
    parts = {"response": embedded(record["response"]), "metadata": embedded(record["metadata"])}
    return MAIN, msgspec.json.encode({**readable(record), **parts}) + b"\n"


def as_openai(record: Record) -> Rendered:
    """A line of the output file, or of the error file; None for a prompt that has not ended with either."""
    if record["status"] not in {PromptStatus.DONE, PromptStatus.FAILED}:
        return None
    failed = record["status"] == PromptStatus.FAILED
    body = embedded(record["response"])
    response = None if body is None else {"status_code": record["status_code"], "request_id": None, "body": body}
    error = {"code": record["error_code"] or record["fault"], "message": record["error_message"]}
    line = {
        "id": f"batch_req_{record['id']}",
        "custom_id": record["custom_id"],
        "response": response,
        "error": error if failed else None,
    }
    return ERRORS if failed else MAIN, msgspec.json.encode(line) + b"\n"


def as_csv(record: Record) -> Rendered:
    return MAIN, csv_line(list(readable(record).values()))


def csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)  # with the terminator that has it quote both \r and \n
    return text.getvalue().removesuffix("\r\n").encode() + b"\n"


RENDERERS: Mapping[str, Callable[[Record], Rendered]] = {"jsonl": as_jsonl, "openai": as_openai, "csv": as_csv}
