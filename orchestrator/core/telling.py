"""How texts, times and states are told to people, in the terminal and on the page alike."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def harmless(text: str, keep: str = "") -> str:
    r"""The text with every character that is not printable spelled out as JSON does (`\u001b`), but those to keep."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else json.dumps(each)[1:-1] for each in text)


def iso(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def seconds_ago(moment: str, at: str) -> float:
    """How long `moment` lies before `at`, both as `iso` writes them."""
    return (datetime.fromisoformat(at) - datetime.fromisoformat(moment)).total_seconds()


def duration(seconds: float) -> str:
    """Two units at most: 42s, 3m 5s, 2h 10m, 3d 4h; 0s for what lies ahead."""
    left = max(0, int(seconds))
    parts = [(left // 86400, "d"), (left // 3600 % 24, "h"), (left // 60 % 60, "m"), (left % 60, "s")]
    first = next((at for at, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])


def shown_status(batch: Mapping[str, Any]) -> str:
    """What a batch is doing: in the provider's words once it is there."""
    at_provider = batch["status"] == "submitted" and batch["remote_status"]
    return str(batch["remote_status"] if at_provider else batch["status"])


def left_of_window(batch: Mapping[str, Any], at: str) -> str:
    """How much of its window a batch has left, or how far it is past it; empty while that is not known."""
    if batch["expires_at"] is None:
        return ""
    left = seconds_ago(at, batch["expires_at"])
    return f"{duration(left)} left" if left >= 0 else f"{duration(-left)} over"
