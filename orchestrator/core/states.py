"""The two move tables. The schema's triggers and CHECKs, the guards of UPDATEs and the diagrams derive from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.core.model import BatchStatus as B
from orchestrator.core.model import PromptStatus as P

if TYPE_CHECKING:
    from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Move:
    before: StrEnum
    after: StrEnum
    by: str


PROMPT_MOVES = (
    Move(P.QUEUED, P.BATCHED, "pack"),
    Move(P.QUEUED, P.FAILED, "admit"),
    Move(P.BATCHED, P.QUEUED, "submit"),
    Move(P.BATCHED, P.QUEUED, "collect"),
    Move(P.BATCHED, P.QUEUED, "settle"),
    Move(P.BATCHED, P.FAILED, "submit"),
    Move(P.BATCHED, P.FAILED, "collect"),
    Move(P.BATCHED, P.FAILED, "settle"),
    Move(P.BATCHED, P.DONE, "collect"),
    # A late success of an earlier attempt is taken whenever it arrives: it was paid for.
    Move(P.QUEUED, P.DONE, "collect"),
    Move(P.FAILED, P.DONE, "collect"),
    Move(P.CANCELLED, P.DONE, "collect"),
    # `orchestrator cancel` takes a prompt out of a batch that is not sent yet; a sent one ends when its line does not.
    Move(P.QUEUED, P.CANCELLED, "user"),
    Move(P.BATCHED, P.CANCELLED, "cancel"),
    Move(P.BATCHED, P.CANCELLED, "submit"),
    Move(P.BATCHED, P.CANCELLED, "collect"),
    Move(P.BATCHED, P.CANCELLED, "settle"),
    Move(P.FAILED, P.QUEUED, "user"),
    Move(P.CANCELLED, P.QUEUED, "user"),
)

BATCH_MOVES = (
    Move(B.PACKING, B.SEALED, "pack"),
    Move(B.PACKING, B.DISCARDED, "pack"),
    Move(B.SEALED, B.UPLOADING, "submit"),
    Move(B.SEALED, B.DISCARDED, "submit"),
    Move(B.UPLOADING, B.UPLOADED, "submit"),
    Move(B.UPLOADING, B.SEALED, "submit"),
    Move(B.UPLOADING, B.DISCARDED, "submit"),
    Move(B.UPLOADED, B.CREATING, "submit"),
    Move(B.UPLOADED, B.SEALED, "submit"),
    Move(B.UPLOADED, B.DISCARDED, "submit"),
    Move(B.CREATING, B.SUBMITTED, "submit"),
    Move(B.CREATING, B.UPLOADED, "submit"),
    Move(B.CREATING, B.SEALED, "submit"),
    Move(B.CREATING, B.DISCARDED, "submit"),
    Move(B.SUBMITTED, B.REPLACING, "poll"),
    Move(B.REPLACING, B.SUBMITTED, "submit"),
    Move(B.REPLACING, B.UPLOADED, "submit"),
    Move(B.SUBMITTED, B.ENDED, "poll"),
    Move(B.ENDED, B.SUBMITTED, "settle"),  # lines are missing: perhaps it is not over, or its files have other names
    Move(B.ENDED, B.SETTLED, "settle"),
)

PROMPT_ENDS = (P.DONE, P.FAILED, P.CANCELLED)
BATCH_ENDS = (B.SETTLED, B.DISCARDED)


def before(after: StrEnum, by: str, moves: tuple[Move, ...]) -> tuple[StrEnum, ...]:
    """The states from which stage `by` may move to `after`; empty when it may not."""
    return tuple(move.before for move in moves if move.after == after and move.by == by)


def pairs(moves: tuple[Move, ...]) -> tuple[tuple[StrEnum, StrEnum], ...]:
    """Each legal (before, after) once, whoever makes it."""
    return tuple(dict.fromkeys((move.before, move.after) for move in moves))
