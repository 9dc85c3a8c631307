"""Writing what the readers found: a thousand rows per transaction, and never silent about what is stored."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.config.fields import shown
from orchestrator.errors import OrchestratorError
from orchestrator.store.intake import CustomIdTaken, Unstorable, insert_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from orchestrator.intake.formats import Entry
    from orchestrator.intake.rows import Row
    from orchestrator.store.database import Database

CHUNK_ROWS = 1000
CHUNK_BYTES = 8 << 20
LOOKS = 5
"""Times that other programs may take a custom_id of the same chunk between our look and our INSERT."""
TAKEN = 'custom_id "{}" exists already: use another, or pass --on-conflict skip'


@dataclass(slots=True)
class Totals:
    """What became of the lines so far. `modelless` rows that were stored have no model of their own."""

    enqueued: int = 0
    skipped: int = 0
    bad_lines: int = 0
    modelless: int = 0
    nbytes: int = 0
    last: Entry | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`fixed` columns win over what the rows say; `skip` passes over a taken custom_id, else it is a mistake."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    skip: bool = False


def chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Runs of at most CHUNK_ROWS entries, closed earlier once they hold CHUNK_BYTES."""
    chunk: list[Entry] = []
    nbytes = 0
    for entry in entries:
        chunk.append(entry)
        nbytes += entry.nbytes
        if len(chunk) == CHUNK_ROWS or nbytes >= CHUNK_BYTES:
            yield chunk
            chunk, nbytes = [], 0
    if chunk:
        yield chunk


async def store(
    database: Database, found: Iterator[list[Entry]], plan: Plan, told: Callable[[Totals, list[tuple[str, str]]], None]
) -> Totals:
    """Store chunk after chunk; `told` hears after each what there is so far, and the mistakes in it by line.

    Raises what reading or the database raises, its line lengthened by how many prompts are stored and how to go on.
    """
    totals = Totals()
    try:
        for chunk in found:
            mistakes = await _store_chunk(database, chunk, plan, totals)
            told(totals, mistakes)
    except OrchestratorError as error:
        raise type(error)(f"{error}; {_how_to_go_on(totals)}") from error
    return totals


async def _store_chunk(database: Database, chunk: list[Entry], plan: Plan, totals: Totals) -> list[tuple[str, str]]:
    rows = [(entry, entry.row) for entry in chunk if entry.row is not None and not entry.stored]
    columns = [{**msgspec.structs.asdict(row), **plan.fixed} for _, row in rows]
    taken, refused = await _inserted(database, columns)
    stored = [row for index, (_, row) in enumerate(rows) if index not in taken and index not in refused]
    mistakes = {id(entry): entry.mistake for entry in chunk if entry.row is None}
    mistakes |= {id(rows[index][0]): why for index, why in refused.items()}
    if not plan.skip:
        mistakes |= {id(rows[index][0]): TAKEN.format(shown(rows[index][1].custom_id or "")) for index in taken}
    passed_over = sum(entry.stored and entry.row is not None for entry in chunk)
    _count(totals, chunk, stored, passed_over + (len(taken) if plan.skip else 0), len(mistakes))
    return [(entry.where, mistakes[id(entry)]) for entry in chunk if id(entry) in mistakes]


async def _inserted(database: Database, columns: list[dict[str, Any]]) -> tuple[set[int], dict[int, str]]:
    """Which rows were not inserted: those whose custom_id is taken, and those that the database cannot store, with why.

    It does not say which one that is: halves are tried for as long as one is refused.
    """
    if not columns:
        return set(), {}
    try:
        return await _inserted_whole(database, columns), {}
    except Unstorable as error:
        if len(columns) == 1:
            return set(), {0: str(error)}
    half = len(columns) // 2
    taken, refused = await _inserted(database, columns[:half])
    more_taken, more_refused = await _inserted(database, columns[half:])
    return taken | {half + index for index in more_taken}, refused | {half + i: why for i, why in more_refused.items()}


async def _inserted_whole(database: Database, columns: list[dict[str, Any]]) -> set[int]:
    """Most are new: which are not is looked up once one of them is not."""
    for look in (False, *[True] * LOOKS):
        with contextlib.suppress(CustomIdTaken):
            return await database.write(partial(insert_new, rows=columns, look=look))
    return await database.write(partial(insert_new, rows=columns, look=True))


def _count(totals: Totals, chunk: list[Entry], stored: list[Row], skipped: int, bad_lines: int) -> None:
    totals.enqueued += len(stored)
    totals.skipped += skipped
    totals.bad_lines += bad_lines
    totals.modelless += sum(not row.names_model for row in stored)
    totals.nbytes += sum(entry.nbytes for entry in chunk)
    totals.last = chunk[-1]


def _how_to_go_on(totals: Totals) -> str:
    if totals.last is None or not totals.enqueued:
        return "no prompt was stored"
    return f"{totals.enqueued} prompts are stored, all up to {totals.last.where}; run it again with --resume to go on"
