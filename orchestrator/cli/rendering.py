"""One result as a line of each format. Pure."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.core.model import PromptStatus
from orchestrator.store.listing import AS_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MAIN, ERRORS = "main", "errors"
NEWLINES = bytes.maketrans(b"\r\n", b"  ")

Record = dict[str, Any]
Rendered = tuple[str, bytes] | None
"""Which file the line belongs into, and the line; None where the format leaves the prompt out."""


def embedded(stored: bytes | None) -> msgspec.Raw | str | None:
    """Stored JSON as it stands, on one line; as a string where it is no JSON."""
    if stored is None:
        return None
    try:
        stored.decode()
        msgspec.json.decode(stored)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return stored.decode(errors="replace")
    return msgspec.Raw(stored.translate(NEWLINES))


def readable(record: Record) -> Record:
    """The record with its user's columns, which are bytes, as text."""
    texts = {name: record[name].decode(errors="replace") for name in AS_BYTES if record[name] is not None}
    return {**record, **texts}


def as_jsonl(record: Record) -> Rendered:
    parts = {"response": embedded(record["response"]), "metadata": embedded(record["metadata"])}
    return MAIN, msgspec.json.encode({**readable(record), **parts}) + b"\n"


def as_openai(record: Record) -> Rendered:
    """A line of the output file, or of the error file; None for a prompt that has not ended with either."""
    if record["status"] not in {PromptStatus.DONE, PromptStatus.FAILED}:
        return None
    failed = record["status"] == PromptStatus.FAILED
    body = embedded(record["response"])
    response = None if body is None else {"status_code": record["status_code"], "request_id": None, "body": body}
    error = {"code": record["error_code"] or record["fault"], "message": record["error_message"]}
    line = {
        "id": f"batch_req_{record['id']}",
        "custom_id": record["custom_id"],
        "response": response,
        "error": error if failed else None,
    }
    return ERRORS if failed else MAIN, msgspec.json.encode(line) + b"\n"


def as_csv(record: Record) -> Rendered:
    return MAIN, csv_line(list(readable(record).values()))


def csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


RENDERERS: Mapping[str, Callable[[Record], Rendered]] = {"jsonl": as_jsonl, "openai": as_openai, "csv": as_csv}
