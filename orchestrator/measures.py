"""Figures for whoever listens: every event of the log, and what is measured without being a line there.

Nobody listens unless metrics are served; then it costs a call of an empty function per transaction, tick or call.
"""

from __future__ import annotations

import contextlib
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_listeners: list[Callable[[str, Mapping[str, Any]], None]] = []
_uncommitted: ContextVar[list[tuple[str, dict[str, Any]]]] = ContextVar("uncommitted")


@contextlib.contextmanager
def listening(listener: Callable[[str, Mapping[str, Any]], None]) -> Iterator[None]:
    """Hand every event and figure to `listener`, which must be quick and never raise."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def is_listened() -> bool:
    return bool(_listeners)


def measure(what: str, /, **facts: Any) -> None:  # noqa: ANN401 - numbers, and words of our own
    for listener in _listeners:
        listener(what, facts)


def measure_once_committed(what: str, /, **facts: Any) -> None:  # noqa: ANN401
    """A figure of what a transaction writes: told when it is committed, forgotten when it is rolled back."""
    _uncommitted.get([]).append((what, facts))


@contextlib.contextmanager
def transaction(kind: str) -> Iterator[None]:
    """Around one transaction: measures how long it takes, and tells what it wrote once that is committed."""
    noted: list[tuple[str, dict[str, Any]]] = []
    token, began_at = _uncommitted.set(noted), time.monotonic()
    try:
        yield
        for what, facts in noted:
            measure(what, **facts)
    finally:
        _uncommitted.reset(token)
        measure("store.transacted", kind=kind, seconds=time.monotonic() - began_at)
