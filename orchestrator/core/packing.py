"""When a lane's prompts are sealed into a batch, and how many of them (product, `[packing]`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one input file, on the wire: bytes of the encoded lines, newlines included, and lines."""

    max_bytes: int
    max_lines: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is ready in one lane: lines and bytes (counted up to a limit), and since when the oldest waits."""

    lines: int
    nbytes: int
    oldest_ms: int


class Seal(StrEnum):
    FULL = "full"
    LINGERED = "lingered"


def seal(waiting: Waiting, limits: Limits, linger_seconds: float, now_ms: int) -> Seal | None:
    """Why this lane's next batch is due, or None when it should wait for more."""
    if not waiting.lines:
        return None
    if waiting.lines >= limits.max_lines or waiting.nbytes >= limits.max_bytes:
        return Seal.FULL
    if now_ms >= lingers_until_ms(waiting, linger_seconds):
        return Seal.LINGERED
    return None


def lingers_until_ms(waiting: Waiting, linger_seconds: float) -> int:
    """When a batch that does not fill up is sealed all the same."""
    return waiting.oldest_ms + int(linger_seconds * 1000)


def fitting(sizes: Iterable[int], room: Limits) -> int:
    """How many of these lines, from the first, stay within both bounds of what is left of a file."""
    count = nbytes = 0
    for size in sizes:
        nbytes += size
        if nbytes > room.max_bytes or count >= room.max_lines:
            break
        count += 1
    return count
