"""API keys that were sent: they are never said again, whatever a provider repeats in its errors."""

from __future__ import annotations

from typing import AnyStr

SHORTEST_CHARS = 8
"""A shorter one is no secret (local servers take any): hiding it would only garble texts."""
HIDDEN = "[key]"

_sent: set[str] = set()


def remember(key: str) -> str:
    """Keep `key` out of what is said from now on."""
    if len(key) >= SHORTEST_CHARS:
        _sent.add(key)
    return key


def hidden(said: AnyStr) -> AnyStr:
    """`said`, text or bytes, without any key."""
    for key in _sent:
        if isinstance(said, str):
            said = said.replace(key, HIDDEN)
        else:
            said = said.replace(key.encode(errors="replace"), HIDDEN.encode())
    return said
