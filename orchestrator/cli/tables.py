"""Tables on the screen: drawn on a terminal, aligned plain text in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click

from orchestrator.core.telling import harmless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group
    from rich.table import Table


Block = tuple[str, "Sequence[str]", "Sequence[Sequence[object]]"]
"""Title, columns and rows of one table."""
SHOWN_CHARACTERS, MODEL_CHARACTERS = 200, 40
SHORT_CELLS, LEAST_CELLS = 16, 10
"""A column no wider than the first keeps its width on a terminal; those of long texts share what is left, each at least
the second."""


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns, then a blank line; numbers stand on the right, None is a blank."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415

        Console(highlight=False).print(drawn(title, columns, rows))
    else:
        cells, right = _cells(columns, rows)
        _print_plain(title, columns, cells, right)
    click.echo()


def drawn(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, one_line: bool = False) -> Group:
    """The table as a terminal shows it; with `one_line` a row takes one line, and long texts are cut."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    cells, right = _cells(columns, rows)
    cut: Literal["ellipsis"] | None = "ellipsis" if one_line else None
    table = _new_table()
    for at, name in enumerate(columns):
        short = max(_width(row[at]) for row in [columns, *cells]) <= SHORT_CELLS
        table.add_column(
            name,
            justify="right" if right[at] else "left",
            overflow="ellipsis" if short else "fold",
            no_wrap=short,
            min_width=None if short else LEAST_CELLS,
        )
    for row in cells:
        table.add_row(*(Text(cell, no_wrap=one_line or None, overflow=cut) for cell in row))
    return Group(Text(harmless(title), style="bold"), table)


def _new_table() -> Table:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    return Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)


def _cells(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[list[str]], list[bool]]:
    """Rows as text, and which columns hold numbers."""
    cells = [["" if value is None else _cell(str(value)) for value in row] for row in rows]
    return cells, [all(isinstance(row[at], int | None) for row in rows) for at in range(len(columns))]


def _cell(text: str) -> str:
    return shortened(harmless(text), SHOWN_CHARACTERS)


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _print_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    widths = [max(map(_width, column)) for column in zip(columns, *rows, strict=True)]
    click.echo(f"{harmless(title)}:")
    for row in (columns, *rows):
        aligned = [
            " " * (width - _width(cell)) + cell if numbers else cell + " " * (width - _width(cell))
            for cell, width, numbers in zip(row, widths, right, strict=True)
        ]
        click.echo(f"  {'  '.join(aligned).rstrip()}")


def _width(text: str) -> int:
    """How many cells of a terminal it takes."""
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len(text)
