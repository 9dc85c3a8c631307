"""A request read back from an input file, and whether it asks what would be asked now."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

ASKED = ("model", "messages", "input", "prompt", "system", "instructions")
"""What makes a question; providers reorder, respell and drop other members (doubleword-api 1.5)."""
IMAGE_DEPTH = 6
"""Lists and objects around an image: `messages[0].content[0].image_url.url`."""

_TOKEN = re.compile(r"dw-img://(?:([0-9a-f]{64})(?![0-9a-f]))?")
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


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


def same_question(request: Request, body: bytes, hash_of: Callable[[str], str | None] = lambda _: None) -> bool:
    """Whether a request asks what this body would; `hash_of` gives the SHA-256 of an image in a `data:` URI."""
    try:
        ours = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return all(_alike(request.body.get(name), ours.get(name), hash_of, IMAGE_DEPTH) for name in ASKED)


def _alike(theirs: object, ours: object, hash_of: Callable[[str], str | None], depth: int) -> bool:
    """Equal but for the tokens that a provider shows in the place of images (doubleword-api 1.5)."""
    if theirs == ours:
        return True
    if isinstance(theirs, str) and isinstance(ours, str):
        return _stands_for(theirs, ours, hash_of)
    if not depth:
        return False
    if isinstance(theirs, dict) and isinstance(ours, dict):
        inner = [(theirs[name], ours.get(name)) for name in theirs]
        return theirs.keys() == ours.keys() and all(_alike(*pair, hash_of, depth - 1) for pair in inner)
    if isinstance(theirs, list) and isinstance(ours, list):
        inner = list(zip(theirs, ours, strict=False))
        return len(theirs) == len(ours) and all(_alike(*pair, hash_of, depth - 1) for pair in inner)
    return False


def _stands_for(token: str, image: str, hash_of: Callable[[str], str | None]) -> bool:
    """Whether this is the token of an image: of this one where both hashes are known. What an address led to is not."""
    found = _TOKEN.match(token)
    if found is None or not image.startswith("data:"):
        return found is not None and _ADDRESS.match(image) is not None
    return found[1] is None or hash_of(image) in (None, found[1])
