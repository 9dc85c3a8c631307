"""One place where the HTTP client's exceptions and the provider's refusals become ours."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from orchestrator.core.account import is_about_account, is_about_whole_account
from orchestrator.core.remote import parse_object
from orchestrator.errors import (
    AccountBlocked,
    NotFound,
    NotSent,
    ProviderError,
    Rejected,
    ReplyLost,
    Throttled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MESSAGE_CHARS = 500
PHRASES = {status.value: status.phrase for status in HTTPStatus}
ERROR_BYTES = 1 << 20
"""Longest body of an error that is read as JSON."""
LONGEST_WAIT_SECONDS = 24 * 3600.0
"""A server that asks for more is asked again all the same: what it said may have been a slip."""

_LINE = re.compile(r"\bline\s*:?\s*#?(\d{1,9})\b", re.IGNORECASE)
_NO_FILE_YET = re.compile(r"cannot find file|input file not found|file with id .* not found", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"^POST /batches: .*\bmodel\b.*\b(does not exist|not found|no access|not available|no longer available|deprecated)",
    re.IGNORECASE,
)
_NOT_FROM_THE_API = re.compile(rb"\s*<|.{0,40}failed to read multipart", re.IGNORECASE)
_UNVERIFIED = re.compile(r"\bunverified\b", re.IGNORECASE)
_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.ConnectionTimeoutError)

NO_VERDICTS = (408, 409, 423, 425)
"""Nothing is wrong with what was sent: it is there already, is held by another, or comes too early."""
FORBIDDEN, NOT_FOUND, GONE, TOO_LARGE, TOO_MANY, UNAVAILABLE = 403, 404, 410, 413, 429, 503


@contextlib.asynccontextmanager
async def translated(call: str, base_url: str) -> AsyncIterator[None]:
    """Turn what the HTTP client raises into NotSent or ReplyLost, naming the call and the address."""
    try:
        yield
    except _NOT_CONNECTED as error:
        raise NotSent(f"{call}: cannot reach {base_url}: {_reason(error)}") from error
    except TimeoutError as error:
        raise ReplyLost(f"{call}: no reply from {base_url} in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ReplyLost(f"{call}: connection to {base_url} broke: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    inner = getattr(error, "os_error", None) or error
    return _plain(str(inner)) or type(inner).__name__


def refusal(call: str, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """The exception for a reply that is no success (doubleword-api 1.1, 2.1 and 5)."""
    message = f"{call}: {status} {_redirected(status, headers) or _explained(status, said(body))}".rstrip()
    wait = retry_after_seconds(headers, body)
    if status == TOO_MANY:
        blocked = is_about_account(message) or _UNVERIFIED.search(message)
        return (
            AccountBlocked(message, status=status)
            if blocked
            else Throttled(message, status=status, retry_after_seconds=wait)
        )
    if status >= 500 or status < 400 or status in NO_VERDICTS or _is_no_verdict(status, body):  # noqa: PLR2004
        return ReplyLost(message, status=status, retry_after_seconds=wait)
    line = named_line(said(body))
    if _NO_FILE_YET.search(message) or _is_not_there(status, line, message):
        return NotFound(message, status=status)
    if status in (401, 402) or (line is None and (status == FORBIDDEN or is_about_whole_account(message))):
        return AccountBlocked(message, status=status)
    return Rejected(message, status=status, line=line)


def _is_not_there(status: int, line: int | None, message: str) -> bool:
    """What the address names; a line or a model that is not there is the request's own mistake."""
    return status in (NOT_FOUND, GONE) and line is None and not _NO_MODEL.search(message)


def _redirected(status: int, headers: Mapping[str, str]) -> str:
    target = _plain(headers.get("Location", ""))
    return f"redirects to {target}: correct base_url" if 300 <= status < 400 and target else ""  # noqa: PLR2004


def _explained(status: int, words: str) -> str:
    """The words without the status, which a proxy's page says in its title and again below; what it means if none."""
    words = re.sub(rf"^{status}\b[\s:]*", "", words)
    title, _, rest = words.partition(f" {status} ")
    return (rest if rest.startswith(title) else words) or PHRASES.get(status, "")


def _is_no_verdict(status: int, body: bytes) -> bool:
    """A page of a proxy, or a body that broke on its way, says nothing about the request; a proxy's size limit does."""
    return status not in (401, 402, FORBIDDEN, TOO_LARGE) and _NOT_FROM_THE_API.match(body) is not None


def said(body: bytes) -> str:
    """The readable part of an error body: plain text, a JSON error of either shape, or a stripped HTML page."""
    told = _object(body)
    if told is not None:
        error = told.get("error")
        inner = error if isinstance(error, dict) else {}
        parts = [inner.get("code"), inner.get("message"), told.get("message"), error]
        found = " ".join(part for part in parts if isinstance(part, str))
        if found:
            return found[:MESSAGE_CHARS]
    return _plain(re.sub(r"<[^<>]*>", " ", body[:20_000].decode(errors="replace")))


def _object(body: bytes) -> dict[str, Any] | None:
    return parse_object(body) if len(body) <= ERROR_BYTES else None


def _plain(text: str) -> str:
    """One printable line of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MESSAGE_CHARS]


def named_line(message: str) -> int | None:
    """The 1-based line a refusal names (F22)."""
    found = _LINE.search(message)
    return int(found.group(1)) or None if found else None


def retry_after_seconds(headers: Mapping[str, str], body: bytes) -> float:
    """The larger of the `Retry-After` header (seconds or a date) and the body's `retry_after_seconds`, up to a day."""
    told = _object(body) or {}
    asked = told.get("retry_after_seconds")
    from_body = float(asked) if isinstance(asked, int | float) and 0 <= asked < 1e6 else 0.0  # noqa: PLR2004
    return min(max(from_body, _header_seconds(headers.get("Retry-After", ""))), LONGEST_WAIT_SECONDS)


def _header_seconds(value: str) -> float:
    seconds = value.strip()
    if seconds.isascii() and seconds.isdigit():
        return float(seconds[:7])
    moment = _moment(value)
    return 0.0 if moment is None else max(0.0, (moment - datetime.now(UTC)).total_seconds())


def date_of(headers: Mapping[str, str]) -> float | None:
    """The server's clock by its `Date` header, in Unix seconds."""
    moment = _moment(headers.get("Date", ""))
    return None if moment is None else moment.timestamp()


def _moment(value: str) -> datetime | None:
    """The time a header names; None for anything that is no time."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)
