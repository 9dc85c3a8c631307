"""A request read back from an input file, and whether it asks what would be asked now."""

from __future__ import annotations

from typing import Any

import msgspec

ASKED = ("model", "messages", "input", "prompt", "system", "instructions")
"""What makes a question; providers reorder, respell and drop other members (doubleword-api 1.5)."""


class Request(msgspec.Struct, frozen=True):
    """One line of an input file."""

    custom_id: str
    body: dict[str, Any]


def parse_request(line: bytes) -> Request | None:
    """None for what is no request."""
    try:
        return msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def same_question(request: Request, body: bytes) -> bool:
    """Whether a request asks what this body would."""
    try:
        ours = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return all(request.body.get(name) == ours.get(name) for name in ASKED)
