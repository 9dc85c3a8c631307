"""Names for rows that bring none, from which a later run can tell what is stored already. Pure.

`e-SOURCE-RUN-LINE-DIGEST`: which input it is, when the run began, the line's number, and a digest of every row up to
this one. So the greatest name of a source tells how far its newest run came, and what it had read by then. All fields
have a fixed width and stand in ASCII's order, so that an index finds the greatest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import InputError
from orchestrator.intake.formats import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE_BYTES, DIGEST_BYTES = 4, 6
SALT_CHARACTERS = 4
NAME = re.compile(r"e-[0-9a-f]{8}-(?P<run>[0-9a-f]{15})-(?P<line>[0-9]{10})-(?P<digest>[0-9a-f]{12})")

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a run came: everything up to `line` is stored, and `digest` is that of the rows up to there."""

    run: str
    line: int
    digest: str

    @property
    def began_at_ms(self) -> int:
        return int(self.run[:-SALT_CHARACTERS], 16)


def source_of(path: bytes) -> str:
    return blake2b(path, digest_size=SOURCE_BYTES).hexdigest()


def new_run(now_ms: int, salt: int) -> str:
    """Later runs are greater; the salt, below 2**16, tells runs of one moment apart."""
    return f"{now_ms:011x}{salt:04x}"


def names_between(source: str) -> tuple[str, str]:
    """All names of this source lie between these two."""
    return f"e-{source}-0", f"e-{source}-g"


def mark_of(name: str | None) -> Mark | None:
    """What a name tells; None where it is none of ours."""
    found = NAME.fullmatch(name or "")
    return Mark(found["run"], int(found["line"]), found["digest"]) if found else None


def name_of(source: str, run: str, line: int, digest: str) -> str:
    return f"e-{source}-{run}-{line:010}-{digest}"


def named(entries: Iterator[Entry], source: str, run: str, mark: Mark | None = None) -> Iterator[Entry]:
    """The same entries, every row with a custom_id; those up to `mark` are told to be stored.

    With a mark, `run` is its run. Raises InputError where the rows up to it are not those that it tells of.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    unproven = mark
    file = ""
    for entry in entries:
        file = entry.file
        if entry.row is not None:
            digest.update(_encode(entry.row))
        if unproven is not None and entry.line >= unproven.line:
            _prove(entry, digest.hexdigest(), unproven)
            unproven = None
        row = entry.row
        if row is not None and row.custom_id is None:
            row = msgspec.structs.replace(row, custom_id=name_of(source, run, entry.line, digest.hexdigest()))
        stored = mark is not None and entry.line <= mark.line
        yield Entry(entry.file, entry.line, row, entry.mistake, entry.nbytes, stored=stored)
    if unproven is not None:
        raise _changed(file, unproven)


def _prove(entry: Entry, digest: str, mark: Mark) -> None:
    if entry.row is None or (entry.line, digest) != (mark.line, mark.digest):
        raise _changed(entry.file, mark)


def _changed(file: str, mark: Mark) -> InputError:
    return InputError(
        f"{file or 'the input'} is not what was enqueued up to line {mark.line}: undo the changes above that line, "
        "give the --template, --lines or --csv of that run, or put what is missing into a file of its own"
    )
