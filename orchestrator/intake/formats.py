"""What a file holds, line by line: rows and mistakes, each with its number. Reads, never writes."""

from __future__ import annotations

import csv
import io
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import msgspec

from orchestrator.intake.cells import check_header, check_separator, parse_cells
from orchestrator.intake.lines import MAX_LINE_BYTES, read_lines
from orchestrator.intake.rows import BadLine, Row, checked_row, parse_row
from orchestrator.intake.template import parse_with_template

if TYPE_CHECKING:
    from _csv import Reader
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from orchestrator.intake.lines import Line
    from orchestrator.intake.template import Template

TOO_LONG = f"longer than {MAX_LINE_BYTES >> 20} MB: shorten it"
ARRAY = "is a JSON array: write one object per line, as `jq -c '.[]' FILE` does"
QUOTED = 'write " within a cell as ""'
TORN = {
    "unexpected end": ("a quote that opens here is never closed", f"close it, and {QUOTED}"),
    "field larger": (f"a cell is longer than {MAX_LINE_BYTES >> 20} MB", "close its quote, or shorten it"),
    "": ("a quote that opens here is not closed properly", QUOTED),
}
"""How a message of the csv module begins, and what we say instead."""


class Entry(msgspec.Struct, frozen=True):
    """One line of the user's: its row, or the mistake in it. `nbytes` is what was read for it.

    Line 0 is the whole file: nothing of it can be read. `stored` tells that an earlier run stored its row.
    """

    file: str
    line: int
    row: Row | None
    mistake: str
    nbytes: int
    stored: bool = False

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


def read_jsonl(file: BinaryIO, name: str, template: Template | None = None) -> Iterator[Entry]:
    """JSON lines: rows, lines of batch files, or with a template anything whose fields fill it."""
    lines = read_lines(file)
    first = next(lines, None)
    if first is None:
        return
    if (first.content or b"").lstrip().startswith(b"["):
        yield Entry(name, 0, None, ARRAY, first.nbytes)
        return
    parse = parse_row if template is None else partial(parse_with_template, template=template)
    yield from _read(chain([first], lines), name, parse)


def read_text(file: BinaryIO, name: str, template: Template | None = None) -> Iterator[Entry]:
    """Plain text, one prompt per line; a template may call the line `{line}`."""
    return _read(read_lines(file), name, partial(_parse_text, template=template))


def read_csv(file: BinaryIO, name: str, template: Template | None = None) -> Iterator[Entry]:
    """CSV with a header: our columns, or with a template any. A header we cannot use is the file's one bad line.

    `file` is closed in the end.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    top = _top(text)
    records = csv.reader(chain(top, text), strict=True)
    try:
        header = _header(top, records, template)
    except BadLine as mistake:
        yield Entry(name, len(top), None, str(mistake), 0)
    except csv.Error as error:
        yield Entry(name, len(top), None, _torn(error, "nothing of the file is read"), 0)
    else:
        yield from _read_records(records, header, name, template)


def _top(text: Iterable[str]) -> list[str]:
    """The lines up to the first that is not blank: the header, or where it begins."""
    top: list[str] = []
    for line in text:
        top.append(line)
        if line.strip():
            return top
    return []


def _header(top: list[str], records: Reader, template: Template | None) -> list[str]:
    """The header; leaves the records below it. Raises BadLine and csv.Error for one that cannot be used."""
    if not top:
        return []
    check_separator(top[-1], template)
    header = next(islice(records, len(top) - 1, None), [])
    check_header(header, template)
    return header


def _read_records(records: Reader, header: list[str], name: str, template: Template | None) -> Iterator[Entry]:
    while True:
        line = records.line_num + 1
        try:
            record = next(records, None)
            if record is None:
                return
            row = parse_cells(header, record, template) if record else None
        except (BadLine, csv.Error) as mistake:
            yield Entry(name, line, None, _explained(mistake, line, records.line_num), 0)
            continue
        if row is not None:
            yield Entry(name, line, row, "", sum(map(len, record)))


def _explained(mistake: BadLine | csv.Error, first: int, last: int) -> str:
    """What is wrong, with the lines that are left out where they are several: a stray quote swallows many."""
    lines = f"lines {first} to {last}" if last > first else ""
    if isinstance(mistake, csv.Error):
        return _torn(mistake, lines and f"{lines} are left out")
    return f"{mistake} ({lines})" if lines else str(mistake)


def _torn(error: csv.Error, left_out: str) -> str:
    wrong, remedy = next(told for begin, told in TORN.items() if str(error).startswith(begin))
    return f"{wrong}, and {left_out}: {remedy}" if left_out else f"{wrong}: {remedy}"


def _read(lines: Iterable[Line], name: str, parse: Callable[[bytes], Row]) -> Iterator[Entry]:
    for line in lines:
        if line.content is None:
            yield Entry(name, line.number, None, TOO_LONG, line.nbytes)
            continue
        try:
            yield Entry(name, line.number, parse(line.content), "", line.nbytes)
        except BadLine as mistake:
            yield Entry(name, line.number, None, str(mistake), line.nbytes)


def _parse_text(line: bytes, template: Template | None) -> Row:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 (byte {error.start}): save the file as UTF-8") from None
    if "\0" in text:
        raise BadLine("holds a NUL, as a file in UTF-16 does: save the file as UTF-8")
    prompt = text if template is None else template.fill(lambda _field: text)
    return checked_row({"prompt": prompt}, priority=0, body=None, metadata=None)
