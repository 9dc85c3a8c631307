"""The first bytes of an input: what it is where it is no text that we read."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

    from _typeshed import WriteableBuffer

HEAD_BYTES = 16
COMPRESSIONS = {
    rb"\x1f\x8b": ("gzip", "gunzip -c"),
    rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)": ("bzip2", "bunzip2 -c"),
    rb"\xfd7zXZ": ("xz", "xz -dc"),
    rb"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
}
"""More than the letters that the format begins with, where a text may begin with them too."""
OTHERS = {
    rb"PK(?:\x03\x04|\x05\x06)": "is a workbook or zip: save it as CSV UTF-8, or unpack it",
    rb"\xd0\xcf\x11\xe0": "is a workbook or a document: save it as CSV UTF-8",
    rb"\xff\xfe\0\0|\0\0\xfe\xff": "is UTF-32: save it as UTF-8",
    rb"\xff\xfe|\xfe\xff": "is UTF-16: save it as UTF-8",
    rb"PAR1\x15": "is Parquet: save it as CSV or as JSON lines",
    rb"%PDF-|\x89PNG|\xff\xd8\xff|\x7fELF|SQLite format 3\0": "is binary, not text: give JSON lines, CSV or plain text",
}


class Rewound(io.RawIOBase):
    """A file from its beginning, of which `head` was read already."""

    def __init__(self, head: bytes, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._head = head
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        piece = self._head[: len(view)] or self._file.read1(len(view))
        self._head = self._head[len(view) :]
        view[: len(piece)] = piece
        return len(piece)


def peeked(file: io.BufferedIOBase) -> tuple[bytes, BinaryIO]:
    """The first bytes of a file, and the file with these still in it; waits for them in a pipe."""
    head = file.read(HEAD_BYTES)
    whole = len(head) < HEAD_BYTES
    return head, io.BytesIO(head) if whole else io.BufferedReader(Rewound(head, file), 1 << 16)


def compression_of(head: bytes) -> tuple[str, str] | None:
    """Its name, and the command that unpacks it from its standard input."""
    return next((found for magic, found in COMPRESSIONS.items() if re.match(magic, head)), None)


def no_text(head: bytes) -> str | None:
    """Why we cannot read a file that begins like this, with the remedy; None for what may be text."""
    return next((found for magic, found in OTHERS.items() if re.match(magic, head)), None)
