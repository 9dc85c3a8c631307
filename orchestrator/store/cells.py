"""Rows as text that is the same for the same values, read from SQLite or from PostgreSQL, as its COPY takes them."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import Boolean, Integer, LargeBinary

from orchestrator.core.model import PromptStatus
from orchestrator.errors import InputError
from orchestrator.store.tables import Instant, Json, prompts, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, Table

Row = tuple[str | None, ...]

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+00")
WAITS = quoted((PromptStatus.QUEUED, PromptStatus.BATCHED))
WILL_BE_SENT = f"(SELECT status IN ({WAITS}) FROM prompt_states WHERE prompt_id = prompts.id)"
LONGEST_NUMBER = 100_000
"""Digits; about as many as PostgreSQL takes."""


class Cells:
    """One table. `replaced` counts the values converted so far that hold what PostgreSQL cannot store (F28)."""

    def __init__(self, table: Table) -> None:
        (key,) = table.primary_key.columns
        self.table, self.key = table.name, key.name
        self.names = [column.name for column in table.c]
        self.is_numbered = isinstance(key.type, Integer)
        self.replaced = 0
        self._columns = [*table.c]
        self._waits = WILL_BE_SENT if table is prompts else "0"
        self._json = [number for number, column in enumerate(table.c) if column.type is Json]

    def in_sqlite(self, low: int, high: int) -> str:
        """SELECT of the rows whose keys lie between these, both included, in their order; of all without numbers."""
        cells = ", ".join(_in_sqlite(column) for column in self._columns)
        return f"SELECT {cells}, {self._waits} FROM {self.table}{self.within(low, high)} ORDER BY {self.key}"

    def in_postgresql(self, low: int, high: int) -> str:
        cells = ", ".join(_in_postgresql(column) for column in self._columns)
        order = self.key if self.is_numbered else f'{self.key} COLLATE "C"'
        return f"SELECT {cells} FROM {self.table}{self.within(low, high)} ORDER BY {order}"

    def within(self, low: int, high: int) -> str:
        return f" WHERE {self.key} BETWEEN {low} AND {high}" if self.is_numbered else ""

    def converted(self, found: Sequence[Any]) -> Row:
        """A row as SQLite gives it, text as bytes. Raises InputError for what would be sent as something else."""
        *cells, waits = found
        row = tuple([self._text(cell, column) for cell, column in zip(cells, self._columns, strict=True)])
        damaged = [number for number, cell in enumerate(row) if cell is not None and "\0" in cell]
        if not damaged:
            return row
        if waits:
            self._refuse(row[0], damaged[0], "holds a NUL or is no UTF-8, which PostgreSQL does not store")
        self.replaced += len(damaged)
        return tuple([cell and cell.replace("\0", "\N{REPLACEMENT CHARACTER}") for cell in row])

    def comparable(self, row: Row) -> Row:
        """PostgreSQL keeps of JSON what it means, not how it was written."""
        cells = [*row]
        for number in self._json:
            cells[number] = cells[number] and same_json(cells[number] or "")
        return tuple(cells)

    def _text(self, cell: Any, column: Column[Any]) -> str | None:  # noqa: ANN401 - what SQLite gives
        if not isinstance(cell, bytes):
            return None if cell is None else str(cell)
        return f"\\x{cell.hex()}" if isinstance(column.type, LargeBinary) else _decoded(cell)

    def require_readable(self, row: Row) -> None:
        """Raises InputError for a time or JSON that PostgreSQL takes for none."""
        for cell, column in zip(row, self._columns, strict=True):
            if cell is not None and column.type is Instant and not TIME.fullmatch(cell):
                self._refuse(row[0], self.names.index(column.name), "is no time")
            if cell is not None and column.type is Json and same_json(cell) is None:
                self._refuse(row[0], self.names.index(column.name), "is no JSON that PostgreSQL can hold")

    def _refuse(self, key: str | None, number: int, why: str) -> NoReturn:
        raise InputError(
            f"{self.table} {key}: {self.names[number]} {why}: correct it, set it to NULL, or delete the row"
        )


def _decoded(cell: bytes) -> str:
    """What is no UTF-8 comes as NUL, which PostgreSQL stores just as little."""
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell.decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", "\0")


def _in_sqlite(column: Column[Any]) -> str:
    """A time that SQLite cannot read comes as it was written."""
    name = column.name
    return f"coalesce(strftime('%Y-%m-%d %H:%M:%f', {name}) || '+00', {name})" if column.type is Instant else name


def _in_postgresql(column: Column[Any]) -> str:
    name = column.name
    if column.type is Instant:
        return f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS') || '+00'"
    return f"{name}::integer" if isinstance(column.type, Boolean) else name


def same_json(text: str) -> str | None:
    """The same text for what means the same; None for what PostgreSQL takes for no JSON."""
    try:
        value = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refused)
        same = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        same.encode()
    except (ValueError, RecursionError):
        return None
    return same


def _number(text: str) -> str:
    """As text that no string can be mistaken for."""
    number = Decimal(text)
    if abs(number.adjusted()) > LONGEST_NUMBER:
        raise ValueError
    plain = f"{abs(number):f}" if number else "0"
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return f"\0{'-' if number < 0 else ''}{plain}"


def _refused(name: str) -> NoReturn:
    raise ValueError(name)
