"""Whether a user's row can be sent, and where it belongs: its lane, its model and its size on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from orchestrator.core.lines import InvalidPrompt, encode_body, encode_line, text_of
from orchestrator.core.model import Lane, Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping


QUOTED_CHARACTERS = 80
AROUND_BYTES = 1024
"""More than stands around the text in a line."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one provider takes; sizes in bytes."""

    endpoints: tuple[str, ...]
    completion_windows: tuple[str, ...]
    max_line_bytes: int
    max_file_bytes: int
    mix_models: bool


@dataclass(frozen=True, slots=True)
class Defaults:
    provider: str
    model: str | None
    endpoint: str
    completion_window: str


class Placed(msgspec.Struct, frozen=True, gc=False):
    lane: Lane
    model: str
    line_bytes: int


def place(prompt: Prompt, rules: Mapping[str, Rules], defaults: Defaults) -> Placed:
    """Where this row goes. Raises InvalidPrompt, naming the mistake and the remedy, when it cannot be sent."""
    if not prompt.not_before_readable:
        raise InvalidPrompt("not_before is no time: write it as datetime('now') does, such as 2026-01-31 18:00:00")
    provider = _chosen(prompt.provider, "provider", defaults.provider)
    if provider not in rules:
        known = ", ".join(sorted(rules))
        named = _quoted(provider)
        raise InvalidPrompt(f"unknown provider {named}: use one of {known}, or add [providers.{named[1:-1]}]")
    allowed, texts = rules[provider], (prompt.prompt, prompt.system, prompt.body)
    _check_size("text", sum(map(len, filter(None, texts))), allowed.max_line_bytes, provider)
    endpoint = _allowed(prompt.endpoint, "endpoint", defaults.endpoint, provider, allowed.endpoints)
    windows = allowed.completion_windows
    window = _allowed(prompt.completion_window, "completion_window", defaults.completion_window, provider, windows)
    body, model = encode_body(prompt, endpoint, defaults.model)
    _check_size("request body", len(body), allowed.max_line_bytes, provider)
    nbytes = len(encode_line(prompt.custom_id, endpoint, b"")) + len(body)
    _check_size("line", nbytes, allowed.max_file_bytes, provider)
    return Placed(Lane(provider, endpoint, window, "" if allowed.mix_models else model), model, nbytes)


def most_line_bytes(rules: Mapping[str, Rules]) -> int:
    """A row with more text than this is too much for each of these providers, however it is written (F35)."""
    return max(allowed.max_line_bytes for allowed in rules.values())


def _chosen(value: bytes | None, column: str, default: str) -> str:
    return default if value is None or not value.strip() else text_of(value, column)


def _allowed(value: bytes | None, column: str, default: str, provider: str, known: tuple[str, ...]) -> str:
    chosen = _chosen(value, column, default)
    if chosen not in known:
        raise InvalidPrompt(f"{column} {_quoted(chosen)} is not offered by {provider}: use one of {', '.join(known)}")
    return chosen


def _quoted(value: str) -> str:
    """A user's value in a message: on one line, and no longer than a line."""
    return repr(value if len(value) <= QUOTED_CHARACTERS else value[:QUOTED_CHARACTERS] + "…")


def _check_size(what: str, nbytes: int, most: int, provider: str) -> None:
    if nbytes > most:
        raise InvalidPrompt(over_size(what, nbytes, most, provider))


def over_size(what: str, nbytes: int, most: int, provider: str) -> str:
    return f"{what} of {nbytes} bytes is over the {most} bytes that {provider} takes: shorten the prompt"
