"""A queue moves from a SQLite file to PostgreSQL: copied in the order of its keys, compared row by row, then let go.

The source is marked first and takes no more rows: it stands still however often the copy is broken off, and no daemon
works on it again. The target lets no daemon in before every row was compared. What is copied already shows in the
target itself: the next run goes on behind the last row there.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import sqlite3
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url

from orchestrator.errors import InputError, QueueMoved, StoreUnavailable
from orchestrator.store import postgresql
from orchestrator.store.cells import Cells, Row
from orchestrator.store.tables import (
    batch_states,
    lanes,
    prompt_states,
    prompts,
    provider_states,
    pruned_counts,
    replies,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Table

TABLES = (lanes, batch_states, prompts, prompt_states, replies, provider_states, pruned_counts)
NUMBERED = (prompts, lanes, batch_states, replies)
"""Tables that give their rows an id."""
CHUNK_ROWS, CHUNK_BYTES = 1000, 8 << 20
BUSY_SECONDS = 30.0
PATIENT = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
"""For a session that reads a whole table while it reads another."""
WRITES = ("INSERT ON prompts", "UPDATE ON prompts", "DELETE ON prompts", "UPDATE OF status ON prompt_states")
LEFT = "queue_has_moved_"
"""Names of the triggers that refuse these writes to the source begin so."""
CHECKSUM_DIGITS = 16
LINE = re.compile(r"COPY \w+, line (\d+)(?:, column (\w+))?")
BACK = "give the copy up with --undo, correct the row, and copy into another database"


@dataclass(frozen=True, slots=True)
class Compared:
    """One table that is the same on both sides; `replaced` values hold U+FFFD for what PostgreSQL cannot store."""

    table: str
    rows: int
    checksum: str
    replaced: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What a queue says of itself."""

    name: str
    moved_to: str | None
    copied_from: str | None
    home: str | None


class Move:
    """One run of the copy; `told` hears after each step how many rows more were copied or compared."""

    def __init__(self, source: Path, target: str, told: Callable[[int], None] = lambda _: None) -> None:
        self._path, self._address, self._told = source, shown_address(target), told
        with self._failures():
            self._target = postgresql.session(make_url(target), PATIENT)
            self._source = sqlite3.connect(source, timeout=BUSY_SECONDS, isolation_level=None)
            self._source.text_factory = bytes

    def close(self) -> None:
        self._source.close()
        self._target.close()

    def rows(self) -> int:
        """How many there are in all."""
        with self._failures():
            return sum(self._source.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES)

    def run(self) -> list[Compared]:
        """Copy what is missing, compare all, let go. Empty where all that was done before.

        Raises InputError, with the row, for one that PostgreSQL cannot hold and where the copy differs; QueueMoved
        where source or target belong to another move; StoreUnavailable when one of the databases fails.
        """
        with self._failures():
            if not self._begin():
                return []
            for table in TABLES:
                self._copy(table)
            compared = [self._compare(table) for table in TABLES]
            self._let_go()
            return compared

    def undo(self) -> list[Compared]:
        """Let the source work again and the target never; nothing was compared.

        Raises QueueMoved when the move is complete, or another.
        """
        with self._failures():
            ours, theirs = self._marks()
            self._require_this_move(ours)
            if theirs.name == ours.name and theirs.copied_from is None:
                raise QueueMoved(f"the copy is complete: this queue lives at {self._address}, where it may have paid")
            if theirs.name == ours.name:
                self._target.execute("UPDATE queue_state SET name = %s", (secrets.token_hex(4),))
            with self._marking():
                for number, _ in enumerate(WRITES):
                    self._source.execute(f"DROP TRIGGER IF EXISTS {LEFT}{number}")
                self._source.execute("UPDATE queue_state SET moved_to = NULL")
            return []

    # ------------------------------------------------------------ begin and end

    def _begin(self) -> bool:
        """Whether there is something to do. Both sides are marked then, the source first."""
        ours, theirs = self._marks()
        if ours.moved_to is not None and theirs.name == ours.name:
            return theirs.copied_from is not None
        if ours.moved_to is not None:
            self._require_this_move(ours)
        if theirs.home is not None or theirs.copied_from is not None or self._holds_rows():
            raise QueueMoved(f"{self._address} holds another queue, or part of one: name an empty database")
        self._check()
        self._leave()
        self._arrive(ours.name)
        return True

    def _require_this_move(self, ours: Mark) -> None:
        if ours.moved_to is None:
            raise QueueMoved(f"{self._path} has not moved: there is nothing to undo")
        if ours.moved_to != self._address:
            raise QueueMoved(f"{self._path} has moved to {ours.moved_to}, or is on its way there: name that with --to")

    def _marks(self) -> tuple[Mark, Mark]:
        found = "SELECT name, moved_to, copied_from, home FROM queue_state"
        ours = [value and value.decode() for value in self._source.execute(found).fetchone()]
        return Mark(*ours), Mark(*self._target.execute(found).fetchone())

    def _holds_rows(self) -> bool:
        """Whether the target is more than migrated, which counts what was pruned: nothing yet."""
        looks = (f"SELECT 1 FROM {table} LIMIT 1" for table in TABLES if table is not pruned_counts)
        return any(self._target.execute(look).fetchone() for look in looks)

    def _check(self) -> None:
        """Before anything is marked: a row that cannot be copied can still be corrected now."""
        cells = Cells(prompts)
        for row in self._read(cells, *self._bounds(cells)):
            cells.require_readable(row)

    def _leave(self) -> None:
        reason = f"this queue has moved to {self._address}".replace("'", "''")
        with self._marking():
            self._source.execute("UPDATE queue_state SET moved_to = ?", (self._address,))
            self._source.execute("UPDATE batch_states SET lease_until_ms = 0 WHERE lease_until_ms > 0")
            for number, write in enumerate(WRITES):
                self._source.execute(
                    f"CREATE TRIGGER IF NOT EXISTS {LEFT}{number} BEFORE {write} "
                    f"BEGIN SELECT RAISE(ABORT, '{reason}'); END"
                )

    @contextlib.contextmanager
    def _marking(self) -> Iterator[None]:
        self._source.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._source.execute("ROLLBACK")
            raise
        self._source.execute("COMMIT")

    def _arrive(self, name: str) -> None:
        """The ids that the target gives come after all that the source gave, whoever writes there meanwhile."""
        mark = "UPDATE queue_state SET name = %s, copied_from = %s WHERE home IS NULL AND copied_from IS NULL"
        with self._target.transaction():
            if not self._target.execute(mark, (name, f"sqlite:///{self._path}")).rowcount:
                raise QueueMoved(f"somebody else has begun to work at {self._address}: name an empty database")
            for table in NUMBERED:
                if (highest := self._highest_given(table)) > 0:
                    self._target.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {highest})")

    def _highest_given(self, table: Table) -> int:
        """Ids whose rows are gone count as well, where SQLite remembers them."""
        given = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?"
        remembered = int(self._source.execute(given, (table.name,)).fetchone()[0])
        return max(remembered, self._bounds(Cells(table))[1])

    def _let_go(self) -> None:
        """A source that was itself restored from a backup looks for what was sent since, wherever it lives."""
        restored = self._source.execute("SELECT backed_up_at_ms, looks, look_at_ms FROM queue_state").fetchone()
        self._target.execute(f"ANALYZE {', '.join(table.name for table in TABLES)}")
        self._target.execute(
            "UPDATE queue_state SET copied_from = NULL, backed_up_at_ms = %s, looks = %s, look_at_ms = %s", restored
        )

    # ------------------------------------------------------------ copying

    def _copy(self, table: Table) -> None:
        """Behind what is there already; a table without numbers is small, and copied anew."""
        cells = Cells(table)
        low, high = self._bounds(cells)
        if cells.is_numbered:
            last = self._target.execute(f"SELECT max({cells.key}) FROM {table}{cells.within(low, high)}").fetchone()[0]
            self._append(cells, low if last is None else last + 1, high)
            return
        with self._target.transaction():
            self._target.execute(f"DELETE FROM {table}")
            self._append(cells, low, high)

    def _append(self, cells: Cells, low: int, high: int) -> None:
        for chunk in _chunks(self._read(cells, low, high)):
            try:
                self._write(cells, chunk)
            except postgresql.errors() as error:
                raise _refusal(cells, chunk, error) or error from error
            self._told(len(chunk))

    def _write(self, cells: Cells, chunk: list[Row]) -> None:
        into = f"COPY {cells.table} ({', '.join(cells.names)}) FROM STDIN"
        cursor = self._target.cursor()
        with self._target.transaction(), self._stateless(cells), cursor.copy(into) as copy:
            for row in chunk:
                copy.write_row(row)

    @contextlib.contextmanager
    def _stateless(self, cells: Cells) -> Iterator[None]:
        """States come with their own history. In the same transaction: no crash leaves the trigger switched off."""
        switch = "ALTER TABLE prompts {} TRIGGER prompts_get_a_state"
        if cells.table != prompts.name:
            yield
            return
        self._target.execute(switch.format("DISABLE"))
        yield
        self._target.execute(switch.format("ENABLE"))

    # ------------------------------------------------------------ reading and comparing

    def _bounds(self, cells: Cells) -> tuple[int, int]:
        """The lowest and highest key of the source: what users write to the target meanwhile lies above them."""
        if not cells.is_numbered:
            return 0, 0
        found = f"SELECT coalesce(min({cells.key}), 1), coalesce(max({cells.key}), 0) FROM {cells.table}"
        low, high = self._source.execute(found).fetchone()
        return int(low), int(high)

    def _read(self, cells: Cells, low: int, high: int) -> Iterator[Row]:
        return map(cells.converted, self._source.execute(cells.in_sqlite(low, high)))

    def _compare(self, table: Table) -> Compared:
        cells = Cells(table)
        low, high = self._bounds(cells)
        ours, theirs, first = Sum(), Sum(), ""
        with self._target.cursor() as cursor, cursor.copy(f"COPY ({cells.in_postgresql(low, high)}) TO STDOUT") as copy:
            for mine, other in itertools.zip_longest(self._read(cells, low, high), copy.rows()):
                if ours.add(cells, mine) != theirs.add(cells, other):
                    first = first or str((mine or other)[0])
                if ours.rows % CHUNK_ROWS == 0:
                    self._told(CHUNK_ROWS)
        if first:
            raise InputError(
                f"{table} {first} differs: {self._path} has {ours}, {self._address} has {theirs}: no daemon will run "
                "there; give the copy up with --undo and copy into another database"
            )
        return Compared(table.name, ours.rows, ours.checksum, cells.replaced)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        again = "see to it, then run the same command again: it goes on where it stopped"
        try:
            yield
        except sqlite3.Error as error:
            raise StoreUnavailable(f"database {self._path}: {error}: {again}") from error
        except postgresql.errors() as error:
            reason = " ".join(str(error).split())
            raise StoreUnavailable(f"database {self._address}: {reason}: {again}") from error


class Sum:
    """Of the rows of one side, in order."""

    def __init__(self) -> None:
        self.rows, self._sum = 0, sha256()

    def add(self, cells: Cells, row: Row | None) -> Row | None:
        """The row as it counts; None is none."""
        if row is None:
            return None
        counted = cells.comparable(row)
        self.rows += 1
        self._sum.update(repr(counted).encode())
        return counted

    @property
    def checksum(self) -> str:
        return self._sum.hexdigest()[:CHECKSUM_DIGITS]

    def __str__(self) -> str:
        return f"{self.rows} rows with checksum {self.checksum}"


def shown_address(target: str) -> str:
    """Without a password, wherever it stands."""
    url = make_url(target).difference_update_query(["password"])
    return url._replace(password=None).render_as_string()  # `set` takes None for no change


def _refusal(cells: Cells, chunk: list[Row], error: Any) -> InputError | None:  # noqa: ANN401 - the driver's error
    """Which row PostgreSQL cannot hold, where that is what it says."""
    place = LINE.search(error.diag.context or "")
    if place is None:
        return None
    row, column = chunk[int(place[1]) - 1], f" {place[2]}:" if place[2] else ""
    return InputError(f"{cells.table} {row[0]}:{column} {error.diag.message_primary}: {BACK}")


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Of at most CHUNK_ROWS, closed earlier once they hold CHUNK_BYTES."""
    chunk, nbytes = list[Row](), 0
    for row in rows:
        chunk.append(row)
        nbytes += sum(len(cell) for cell in row if cell is not None)
        if len(chunk) == CHUNK_ROWS or nbytes >= CHUNK_BYTES:
            yield chunk
            chunk, nbytes = [], 0
    if chunk:
        yield chunk
