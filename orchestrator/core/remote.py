"""What a provider says of a batch, read tolerantly: servers differ in case, types and shape (F36, F37, F38, F6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

ID_CHARS, STATUS_CHARS, TEXT_CHARS = 1000, 100, 2000
"""The longest that is taken for an id, and how much is kept of a status and of a complaint."""
ERRORS_KEPT, METADATA_KEPT = 1000, 100
"""How many complaints and metadata values of one batch are read."""
MOST_VALUES = 500_000
"""JSON values in one reply: the smallest take thirty times their bytes when they are read."""


class RemoteState(StrEnum):
    """What a remote status means to us; an unknown one means RUNNING (F36)."""

    VALIDATING = "validating"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (RemoteState.COMPLETED, RemoteState.FAILED, RemoteState.EXPIRED, RemoteState.CANCELLED)


_STATES = {
    "validating": RemoteState.VALIDATING,
    "completed": RemoteState.COMPLETED,
    "complete": RemoteState.COMPLETED,
    "succeeded": RemoteState.COMPLETED,
    "success": RemoteState.COMPLETED,
    "partially_succeeded": RemoteState.COMPLETED,
    "failed": RemoteState.FAILED,
    "error": RemoteState.FAILED,
    "expired": RemoteState.EXPIRED,
    "timeout_exceeded": RemoteState.EXPIRED,
    "cancelling": RemoteState.CANCELLING,
    "canceling": RemoteState.CANCELLING,
    "cancellation_requested": RemoteState.CANCELLING,
    "cancelled": RemoteState.CANCELLED,
    "canceled": RemoteState.CANCELLED,
}


def state_of(status: str) -> RemoteState:
    """The meaning of a remote status in any case, with or without a `JOB_STATE_` prefix."""
    return _STATES.get(status.strip().lower().removeprefix("job_state_"), RemoteState.RUNNING)


@dataclass(frozen=True, slots=True)
class RemoteError:
    """One complaint about the whole file; `line` is 1-based, None when no line is named (F22)."""

    code: str | None
    message: str | None
    line: int | None


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as the provider shows it; None where it shows nothing. Times in Unix milliseconds."""

    id: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    input_file_id: str | None = None
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    errors: tuple[RemoteError, ...] = ()
    metadata_values: frozenset[str] = frozenset()
    created_at_ms: int | None = None
    expires_at_ms: int | None = None

    @property
    def state(self) -> RemoteState:
        return state_of(self.status)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    id: str
    name: str | None
    nbytes: int | None
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, as plain objects. `last_id` is None on the last page."""

    items: tuple[dict[str, Any], ...]
    last_id: str | None


def parse_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in `data`, or None for anything else, and for one of more values than anybody needs."""
    if data.count(b",") > MOST_VALUES:
        return None
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def parse_batch(told: dict[str, Any]) -> RemoteBatch | None:
    """Read a batch object; one wrapped as `{"job": {…}}` is taken out of it. None when it has no id."""
    inner = told.get("job")
    if "id" not in told and isinstance(inner, dict):
        told = inner
    remote_id, counts = _id(told.get("id")), told.get("request_counts")
    if remote_id is None:
        return None
    counted = counts if isinstance(counts, dict) else told
    return RemoteBatch(
        id=remote_id,
        status=_text(told.get("status"), STATUS_CHARS) or "unknown",
        output_file_id=_id(told.get("output_file_id")),
        error_file_id=_id(told.get("error_file_id")),
        input_file_id=_id(told.get("input_file_id")),
        total=_count(counted.get("total")),
        completed=_count(counted.get("completed")),
        failed=_count(counted.get("failed")),
        errors=tuple(_errors(told.get("errors"))),
        metadata_values=metadata_values(told),
        created_at_ms=_time_ms(told.get("created_at")),
        expires_at_ms=_time_ms(told.get("expires_at")),
    )


def metadata_values(told: dict[str, Any]) -> frozenset[str]:
    """The texts in a batch object's metadata, by which it is known to be ours."""
    metadata = told.get("metadata")
    values = [*metadata.values()][:METADATA_KEPT] if isinstance(metadata, dict) else []
    return frozenset(value for value in values if isinstance(value, str))


def parse_file(told: dict[str, Any]) -> RemoteFile | None:
    """Read a file object; None when it has no id."""
    file_id = _id(told.get("id"))
    if file_id is None:
        return None
    purpose = _text(told.get("purpose"), STATUS_CHARS)
    return RemoteFile(file_id, _text(told.get("filename")), _count(told.get("bytes")), purpose)


def parse_page(told: dict[str, Any]) -> Page | None:
    """Read a listing; anything that is no object in `data` is passed over.

    None when there is no `data`, or more of it and no id to go on from. An empty one may be null: some servers say so.
    """
    data = told.get("data", False)
    if not isinstance(data, list | None):
        return None
    items = tuple(item for item in data or () if isinstance(item, dict))
    last = _id(told.get("last_id")) or (_id(items[-1].get("id")) if items else None)
    goes_on = told.get("has_more") is True
    return None if goes_on and items and last is None else Page(items, last if goes_on else None)


def _errors(told: object) -> list[RemoteError]:
    """`{"data": […]}`, a bare list, an object or a string; alone they are no verdict (F37)."""
    if isinstance(told, dict):
        inner = told.get("data")
        return _errors(inner) if isinstance(inner, list) else [_error(told)] if told else []
    if isinstance(told, list):
        return [_error(item) for item in told[:ERRORS_KEPT] if isinstance(item, dict | str)]
    return [_error(told)] if isinstance(told, str) and told else []


def _error(told: dict[str, Any] | str) -> RemoteError:
    if isinstance(told, str):
        return RemoteError(None, _text(told), None)
    line = _count(told.get("line"))
    return RemoteError(_text(told.get("code")), _text(told.get("message")), line or None)


def _text(value: object, most_chars: int = TEXT_CHARS) -> str | None:
    """Falsy is absent: some servers send "" for null (F6). NUL cannot stand in a text column everywhere (F28)."""
    return value[:most_chars].replace("\x00", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) and value else None


def _id(value: object) -> str | None:
    """What can be a part of a path: printable, of bounded length, and no step up in it."""
    fits = isinstance(value, str) and 0 < len(value) <= ID_CHARS and value.isprintable() and value not in (".", "..")
    return value if fits else None  # type: ignore[return-value]


def _count(value: object) -> int | None:
    plain = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if plain else None  # type: ignore[return-value]


def _time_ms(value: object) -> int | None:
    """Epoch seconds or ISO 8601; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * 1000) if 0 < value < 1e11 else None  # noqa: PLR2004
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
