"""What every stage is given: settings, database, provider calls, clock and dice; and what a tick gives back."""

from __future__ import annotations

import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.core.admission import Defaults, Rules
from orchestrator.core.packing import Limits
from orchestrator.core.retry import Policy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from sqlalchemy import ColumnElement

    from orchestrator.api.client import Client
    from orchestrator.config import Config
    from orchestrator.config.profiles import Provider
    from orchestrator.store.batches import Dues
    from orchestrator.store.database import Database
    from orchestrator.store.providers import ProviderState


GATHERING = 6
"""Polls that are due within this part of the shortest interval between two are made together."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One pass of a stage: how many rows it moved, and whether to run again at once.

    `due_ms` is when it has work next as far as is known now; None: only when the database changes.
    """

    moved: int = 0
    more: bool = False
    due_ms: int | None = None


def earliest(*times_ms: int | None) -> int | None:
    """The first of these times, None being never."""
    return min((time_ms for time_ms in times_ms if time_ms is not None), default=None)


def steady() -> float:
    """Seconds that go on while the machine is suspended or the process is stopped, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def new_key(prefix: str = "orc-") -> str:
    """A batch's own name at the provider. Hex and hyphens only: listings treat `_` and `%` as wildcards."""
    return f"{prefix}{secrets.token_hex(12)}"


def key_prefix(queue_name: str) -> str:
    """What the keys of one queue's batches begin with, and those of no other."""
    return f"orc-{queue_name}-"


def shared_name(key: str) -> str:
    """What this batch's key shares with those of its queue's other batches."""
    return key.rpartition("-")[0]


def rules_of(config: Config) -> dict[str, Rules]:
    return {
        name: Rules(p.endpoints, p.completion_windows, p.max_line_bytes, p.max_file_bytes, p.mix_models)
        for name, p in config.providers.items()
    }


def defaults_of(config: Config) -> Defaults:
    given = config.defaults
    return Defaults(given.provider, given.model, given.endpoint, given.completion_window)


def limits_of(config: Config, provider: Provider) -> Limits:
    """The tighter of our own limits and the profile's."""
    packing = config.packing
    return Limits(min(packing.max_bytes, provider.max_file_bytes), min(packing.max_lines, provider.max_lines))


@dataclass(slots=True)
class Trust:
    """A wall clock against the steady one, by seconds that it is ahead of it.

    `trusted` is how far while nothing is wrong; after a jump `seen` is how far now, and `since` which steady time.
    """

    trusted: float | None = None
    seen: float = 0.0
    since: float | None = None


@dataclass(slots=True)
class Pruning:
    """What was deleted since the log last told of it, and when that was (Unix milliseconds)."""

    prompts: int = 0
    batches: int = 0
    told_at_ms: int = 0


@dataclass(slots=True)
class Backlog:
    """Whether more rows wait for admission than one tick takes, and since when (steady seconds); None: no."""

    since: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """`clock` gives Unix seconds, `steady` seconds that nobody can set, `dice` numbers in [0, 1).

    `holding` are the batches this process works on now, each with the steady time until which it is surely ours;
    `looks` are the kinds of batches that the look in the next step of the event loop asks for.
    `resting` are the providers that are not asked to delete files now, each with the time until which (Unix ms);
    `reread` says how far the last full reading of a batch's file came, so that one that breaks off goes on there, and
    `missed` how many looks in a row found that file, or the batch itself, gone, or its upload to have left no file;
    `strangers` remote batches of this queue that hold no prompt it still has, and `unread` those whose lines cannot be
    known, each with the steady time since when; `trust` how far the clock is believed;
    `speakers`, by event and provider, the batch whose failure the log told last, when (Unix ms), and how many of others
    were left out since.
    """

    config: Config
    database: Database
    clients: Mapping[str, Client]
    owner: str
    clock: Callable[[], float] = time.time
    dice: Callable[[], float] = random.random
    new_key: Callable[[], str] = new_key
    steady: Callable[[], float] = steady
    holding: dict[int, float] = field(default_factory=dict)
    looks: dict[ColumnElement[bool], asyncio.Future[Dues]] = field(default_factory=dict)
    resting: dict[str, int] = field(default_factory=dict)
    pruning: Pruning = field(default_factory=Pruning)
    backlog: Backlog = field(default_factory=Backlog)
    reread: dict[tuple[int, int, str], int] = field(default_factory=dict)
    missed: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    strangers: set[str] = field(default_factory=set)
    unread: dict[str, float] = field(default_factory=dict)
    trust: Trust = field(default_factory=Trust)
    speakers: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)

    def now_ms(self) -> int:
        return int(self.clock() * 1000)

    def in_ms(self, seconds: float) -> int:
        """The time `seconds` from now."""
        return self.now_ms() + int(seconds * 1000)

    def seconds_until(self, time_ms: int) -> float:
        """0 once the time has come."""
        return max(0.0, time_ms / 1000 - self.clock())

    def seconds_since(self, time_ms: int) -> float:
        """0 where the clock was set back to before that time."""
        return max(0.0, self.clock() - time_ms / 1000)

    def next_poll_ms(self) -> int:
        """Drawn so that the poll, which waits for others, is made in time."""
        low, high = self.config.polling.min_seconds, self.config.polling.max_seconds
        latest = max(low, high - self.gathering_seconds())
        return self.in_ms(low + (latest - low) * self.dice())

    def gathering_seconds(self) -> float:
        """How long a due poll may wait for others, to be made together with them."""
        return self.config.polling.min_seconds / GATHERING

    def provider(self, name: str) -> Provider | None:
        return self.config.providers.get(name)

    def retry_policy(self) -> Policy:
        retry = self.config.retry
        return Policy(retry.max_attempts, retry.max_returns, retry.base_seconds, retry.max_seconds)

    def rules(self) -> dict[str, Rules]:
        return rules_of(self.config)

    def defaults(self) -> Defaults:
        return defaults_of(self.config)

    def file_limits(self, provider: Provider, learned: ProviderState | None) -> Limits:
        """The tightest of our own limits, the profile's, and what the provider refused before (F35)."""
        limits = limits_of(self.config, provider)
        if learned is None:
            return limits
        return Limits(
            min(limits.max_bytes, learned.max_file_bytes or limits.max_bytes),
            min(limits.max_lines, learned.max_lines or limits.max_lines),
        )
