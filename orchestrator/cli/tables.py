"""Tables on the screen: drawn on a terminal, aligned plain text in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orchestrator.config.fields import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table


Block = tuple[str, "Sequence[str]", "Sequence[Sequence[object]]"]
"""Title, columns and rows of one table."""


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns; numbers stand on the right, None is a blank."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415

        Console().print(drawn(title, columns, rows))
    else:
        cells, right = _cells(columns, rows)
        _print_plain(title, columns, cells, right)


def drawn(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """The table as a terminal shows it."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    cells, right = _cells(columns, rows)
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name, numbers in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _cells(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[list[str]], list[bool]]:
    """Rows as text, and which columns hold numbers."""
    cells = [["" if value is None else shown(str(value)) for value in row] for row in rows]
    return cells, [all(isinstance(row[at], int | None) for row in rows) for at in range(len(columns))]


def _print_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    click.echo(f"{title}:")
    for row in (columns, *rows):
        aligned = [
            cell.rjust(width) if numbers else cell.ljust(width)
            for cell, width, numbers in zip(row, widths, right, strict=True)
        ]
        click.echo(f"  {'  '.join(aligned).rstrip()}")
    click.echo()
