"""What would become of prompts: every check that the table and the daemon make, without either."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from orchestrator.config.fields import shown
from orchestrator.core.admission import Placed, place
from orchestrator.core.lines import InvalidPrompt
from orchestrator.core.model import Lane, Prompt
from orchestrator.intake.naming import DIGEST_BYTES, name_of, new_run, source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.core.admission import Defaults, Rules
    from orchestrator.core.packing import Limits
    from orchestrator.intake.formats import Entry
    from orchestrator.intake.rows import Row

SENT = ("prompt", "system", "body", "model", "endpoint", "completion_window", "provider")
NAMELESS = name_of(source_of(b""), new_run(0, 0), 0, "0" * 2 * DIGEST_BYTES)
"""As long as every custom_id that `enqueue` makes up."""


@dataclass(slots=True)
class Share:
    """What one lane gets: prompts, their model if it is one, bytes on the wire, batches, and how full the last is."""

    prompts: int = 0
    model: str | None = None
    nbytes: int = 0
    batches: int = 0
    _lines_in_last: int = 0
    _bytes_in_last: int = 0

    def add(self, model: str, nbytes: int, limits: Limits) -> None:
        self.model = model if self.model == model or not self.prompts else None
        self.prompts += 1
        self.nbytes += nbytes
        full = self._lines_in_last >= limits.max_lines or self._bytes_in_last + nbytes > limits.max_bytes
        if not self.batches or full:
            self.batches += 1
            self._lines_in_last = self._bytes_in_last = 0
        self._lines_in_last += 1
        self._bytes_in_last += nbytes


@dataclass(slots=True)
class Findings:
    """`nbytes_read` is what was read of the files so far."""

    lines: int = 0
    prompts: int = 0
    bad_lines: int = 0
    nbytes_read: int = 0
    models: dict[str, int] = field(default_factory=dict)
    lanes: dict[Lane, Share] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(share.nbytes for share in self.lanes.values())

    @property
    def batches(self) -> int:
        return sum(share.batches for share in self.lanes.values())


class Checker:
    """Judges entry after entry; memory does not grow with them, since custom_ids seen go to a temporary file."""

    def __init__(
        self,
        fixed: Mapping[str, str],
        rules: Mapping[str, Rules],
        defaults: Defaults,
        limits_of: Callable[[str], Limits],
    ) -> None:
        self.findings = Findings()
        self._fixed = fixed
        self._rules = rules
        self._defaults = defaults
        self._limits_of = limits_of
        self._seen = sqlite3.connect("", isolation_level=None)  # no name: a private file that vanishes by itself

    def __enter__(self) -> Self:
        self._seen.execute("CREATE TABLE seen (custom_id TEXT PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID")
        self._seen.execute("BEGIN")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._seen.close()

    def check(self, entry: Entry) -> str | None:
        """The mistake in this line and its remedy; None when it would be stored and sent."""
        self.findings.lines += 1
        self.findings.nbytes_read += entry.nbytes
        mistake = entry.mistake if entry.row is None else self._judge(entry, entry.row)
        self.findings.bad_lines += mistake is not None
        return mistake

    def _judge(self, entry: Entry, row: Row) -> str | None:
        first = self._first_place(row.custom_id, entry.where)
        if first is not None:
            return f'custom_id "{shown(row.custom_id or "")}" stands at {first} already: use another'
        try:
            placed = place(self._prompt(row), self._rules, self._defaults)
        except InvalidPrompt as mistake:
            return str(mistake)
        self._count(placed)
        return None

    def _first_place(self, custom_id: str | None, where: str) -> str | None:
        if custom_id is None:
            return None
        added = self._seen.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (custom_id, where))
        if added.rowcount:
            return None
        (place,) = self._seen.execute("SELECT place FROM seen WHERE custom_id = ?", (custom_id,)).fetchone()
        return str(place)

    def _prompt(self, row: Row) -> Prompt:
        texts = {name: self._fixed.get(name, getattr(row, name)) for name in SENT}
        columns = {name: None if text is None else text.encode() for name, text in texts.items()}
        readable = row.not_before is None or self._is_time(row.not_before)
        return Prompt(0, row.custom_id or NAMELESS, **columns, not_before_readable=readable)

    def _is_time(self, text: str) -> bool:
        return bool(
            self._seen.execute("SELECT ?1 LIKE '____-__-__%' AND julianday(?1) IS NOT NULL", (text,)).fetchone()[0]
        )

    def _count(self, placed: Placed) -> None:
        found = self.findings
        found.prompts += 1
        found.models[placed.model] = found.models.get(placed.model, 0) + 1
        share = found.lanes.setdefault(placed.lane, Share())
        share.add(placed.model, placed.line_bytes, self._limits_of(placed.lane.provider))
