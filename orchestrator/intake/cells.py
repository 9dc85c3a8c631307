"""One record of a CSV file to one row of `prompts`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.intake.rows import COLUMNS, JSON_COLUMNS, BadLine, checked_row, unknown_key
from orchestrator.intake.template import missing_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.intake.rows import Row
    from orchestrator.intake.template import Template

SEPARATORS = {";": ";", "\t": "tabs"}


def check_separator(line: str, template: Template | None) -> None:
    """Raises BadLine for the line of a header that names our columns, or the template's, with no comma between."""
    if "," in line:
        return
    known = {*(COLUMNS if template is None else template.fields)}
    for separator, shown in SEPARATORS.items():
        names = [name.strip(' "\r\n') for name in line.split(separator)]
        if len(names) > 1 and not known.isdisjoint(names):
            raise BadLine(f"separated by {shown}: save it with commas")


def check_header(header: Sequence[str], template: Template | None) -> None:
    """Raises BadLine for a header that names a column twice, or without a template one that we do not have."""
    for index, name in enumerate(header):
        if not name.strip() and (template is None or name in header[:index]):
            raise BadLine(f"column {index + 1} has no name: name it, or delete the column")
        if name in header[:index]:
            raise BadLine(f'column "{name}" comes twice: rename one of them')
        if template is None and name not in COLUMNS:
            raise _unknown_column(name)


def _unknown_column(name: str) -> BadLine:
    meant = name.strip().lower()
    if meant in COLUMNS:
        return BadLine(f'column "{name}" is "{meant}" but for its case or blanks around: write {meant}')
    return unknown_key(name, COLUMNS, "column")


def parse_cells(header: Sequence[str], record: Sequence[str], template: Template | None) -> Row:
    """Read one record; an empty cell is a column left out. Raises BadLine."""
    if len(record) != len(header):
        raise BadLine(f"{len(record)} cells where the header has {len(header)}: quote cells that hold commas")
    cells = dict(zip(header, record, strict=True))
    for name, cell in cells.items():
        _check_text(name, cell)
    if template is not None:
        return _filled(cells, template)
    given = {name: cell for name, cell in cells.items() if cell}
    texts = {name: cell for name, cell in given.items() if name not in JSON_COLUMNS and name != "priority"}
    body, metadata = (given[name].encode() if name in given else None for name in JSON_COLUMNS)
    return checked_row(texts, priority=_whole(given.get("priority", "0")), body=body, metadata=metadata)


def _filled(cells: dict[str, str], template: Template) -> Row:
    def value_of(field: str) -> str:
        if field not in cells:
            raise missing_field(field, cells)
        return cells[field]

    texts = {"custom_id": cells.get("custom_id") or None, "prompt": template.fill(value_of)}
    return checked_row(texts, priority=0, body=None, metadata=None)


def _check_text(name: str, cell: str) -> None:
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise BadLine(f"{name} is not UTF-8: save the file as UTF-8") from None


def _whole(cell: str) -> int:
    try:
        number = int(cell)
    except ValueError:
        number = 2**63
    if not -(2**63) <= number < 2**63:
        raise BadLine("priority must be a whole number of 64 bits")
    return number
