r"""Lines of a file of any size, cut on the byte `\n` alone and numbered from 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_LINE_BYTES = 64 << 20
BOM = b"\xef\xbb\xbf"


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line without its end; `content` is None when it is too long. `nbytes` counts its end too."""

    number: int
    content: bytes | None
    nbytes: int


def read_lines(file: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    r"""Every line that is not blank; a BOM at the start and one `\r` at the end of a line are dropped.

    Memory is bounded by `max_bytes`: the rest of a longer line is read past, and the next line is read on.
    """
    number = 0
    while piece := file.readline(max_bytes + 1):
        number += 1
        if len(piece) > max_bytes and not piece.endswith(b"\n"):
            yield Line(number, None, len(piece) + _read_past(file, max_bytes))
            continue
        content = piece.removeprefix(BOM) if number == 1 else piece
        content = content.removesuffix(b"\n").removesuffix(b"\r")
        if content and not content.isspace():
            yield Line(number, content, len(piece))


def _read_past(file: BinaryIO, max_bytes: int) -> int:
    """Bytes up to the end of the line."""
    nbytes = 0
    while piece := file.readline(max_bytes):
        nbytes += len(piece)
        if piece.endswith(b"\n"):
            break
    return nbytes
