"""Where the queue stands: one look at it, and the one object that `status --json` and `/status.json` show."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.core.model import BatchStatus, PromptStatus
from orchestrator.core.polling import window_ms
from orchestrator.core.telling import duration, iso
from orchestrator.remedies import ACCOUNT, CREDIT, remedy
from orchestrator.remembered import Remembered
from orchestrator.store.home import Elsewhere, read_elsewhere
from orchestrator.store.overview import (
    ActiveBatch,
    Tags,
    Trouble,
    count_by_tag,
    count_prompts,
    list_active_batches,
    list_trouble,
)
from orchestrator.store.providers import ProviderState, list_provider_states
from orchestrator.store.recent import (
    FaultGroup,
    Faults,
    Step,
    count_ended,
    count_faults,
    count_in_batches,
    count_sent,
    group_faults,
    list_steps,
)
from orchestrator.store.reports import count_queued
from orchestrator.store.restoring import Restored, read_restored
from orchestrator.store.retention import read_pruned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.config import Config
    from orchestrator.store.database import Database


MINUTE_MS, HOUR_MS = 60_000, 3_600_000
STEP_MS, STEPS = 600_000, 72
"""Throughput: how long one step is, and how many of them reach back: twelve hours."""
FAULTS_SINCE_MS = 24 * HOUR_MS
MOST_FAULTS, MOST_STEPS, MOST_TROUBLE = 10, 12, 5
TRIES_TOLD = 3
"""Tries in a row that fail before a batch asks for attention: the first ones often heal by themselves."""
AT_THE_PROVIDER = (BatchStatus.SUBMITTED, BatchStatus.REPLACING, BatchStatus.ENDED)
NOT_SHOWN = ("remote_expires_at_ms", "input_file_id", "output_file_id", "error_file_id")


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that is shown, as of `at_ms`, from one snapshot, but for tags that were counted earlier.

    `in_batches` holds the prompts waiting in each; `unattended` tells that no daemon works on the queue.
    """

    database: str
    at_ms: int
    prompts: Mapping[str, int]
    tags: Tags
    pruned: Mapping[str, int]
    queued: Mapping[str, int]
    in_batches: Mapping[int, int]
    last_hour: Mapping[str, int]
    rates: Mapping[str, Mapping[str, int]]
    throughput: Mapping[str, Sequence[int]]
    batches: Sequence[ActiveBatch]
    pauses: Sequence[ProviderState]
    faults: Faults
    errors: Sequence[Trouble]
    steps: Sequence[Step]
    providers: frozenset[str]
    elsewhere: Elsewhere | None
    restored: Restored | None
    looks_needed: int
    unattended: bool


async def status_of(
    database: Database, config: Config, tags: Tags | None = None, *, unattended: bool = False
) -> dict[str, Any]:
    """The one object that `status --json` and `/status.json` show. `tags` are counted unless they are given."""
    at_ms = int(time.time() * 1000)
    look = partial(_look, database=database, config=config, at_ms=at_ms, tags=tags, unattended=unattended)
    return as_object(await database.read(look))


class Watched:
    """A queue that is looked at again and again: its tags are counted the less often, the longer that takes."""

    def __init__(self, database: Database, config: Config, unattended: Callable[[], bool] = lambda: False) -> None:
        self._database = database
        self._config = config
        self._unattended = unattended
        self._tags: Remembered[Tags] = Remembered(lambda: database.read(count_by_tag), 0, wait_seconds=None)

    async def status(self) -> dict[str, Any]:
        tags = await self._tags.get()
        return await status_of(self._database, self._config, tags, unattended=self._unattended())


async def _look(
    connection: AsyncConnection, database: Database, config: Config, at_ms: int, tags: Tags | None, *, unattended: bool
) -> Look:
    rates = {
        name: await _ended(connection, at_ms - span_ms, at_ms)
        for name, span_ms in (("last_minute", MINUTE_MS), ("last_hour", HOUR_MS))
    }
    until = at_ms + 1
    throughput = {
        status.value: await count_ended(connection, status, until - STEPS * STEP_MS, STEP_MS, until)
        for status in (PromptStatus.DONE, PromptStatus.FAILED)
    }
    return Look(
        database=database.named,
        at_ms=at_ms,
        prompts=await count_prompts(connection),
        tags=await count_by_tag(connection) if tags is None else tags,
        pruned=await read_pruned(connection),
        queued=await count_queued(connection),
        in_batches=await count_in_batches(connection),
        last_hour=await _last_hour(connection, at_ms - HOUR_MS, rates["last_hour"]),
        rates=rates,
        throughput=throughput,
        batches=await list_active_batches(connection),
        pauses=[state for state in (await list_provider_states(connection)).values() if state.pauses],
        faults=await group_faults(
            connection, at_ms - FAULTS_SINCE_MS, MOST_FAULTS, with_content=config.web.show_content
        ),
        errors=await list_trouble(connection, MOST_TROUBLE),
        steps=await list_steps(connection, MOST_STEPS),
        providers=frozenset(config.providers),
        elsewhere=await read_elsewhere(connection),
        restored=await read_restored(connection),
        looks_needed=config.submission.adopt_checks,
        unattended=unattended,
    )


async def _ended(connection: AsyncConnection, since_ms: int, at_ms: int) -> dict[str, int]:
    span_ms = at_ms + 1 - since_ms
    return {
        status.value: sum(await count_ended(connection, status, since_ms, span_ms, at_ms + 1))
        for status in (PromptStatus.DONE, PromptStatus.FAILED)
    }


async def _last_hour(connection: AsyncConnection, since_ms: int, ended: Mapping[str, int]) -> dict[str, int]:
    """What went along each arrow: an attempt that failed and did not end its prompt sent it back to the queue."""
    packed, submitted = await count_sent(connection, since_ms)
    resent = max(0, await count_faults(connection, since_ms) - ended["failed"])
    return {"packed": packed, "submitted": submitted, **ended, "resent": resent}


# ---------------------------------------------------------------- as one object


def as_object(look: Look) -> dict[str, Any]:
    """Its shape is told by `orchestrator status --help`."""
    return {
        "database": look.database,
        "at": iso(look.at_ms),
        "attention": list(_attention(look)),
        "restored": _restored_object(look),
        "prompts": dict(look.prompts),
        "flow": _flow(look),
        "tags": [{"tag": tag, **counts} for tag, counts in look.tags.named.items()],
        "other_tags": look.tags.others,
        "pruned": dict(look.pruned),
        "rates": look.rates,
        "throughput": {"since": iso(look.at_ms - STEPS * STEP_MS), "step_seconds": STEP_MS // 1000, **look.throughput},
        "batches": [_batch_object(batch, look) for batch in look.batches],
        "pauses": [_pause_object(state) for state in look.pauses],
        "faults_since": iso(look.faults.since_ms),
        "faults": [_with_time(group, "last_at_ms") for group in look.faults.groups],
        "errors": [_with_time(trouble, "at_ms") for trouble in look.errors],
        "events": [_event_object(step) for step in look.steps],
    }


def _flow(look: Look) -> dict[str, Any]:
    """Where the prompts are now, and how many went along each arrow in the last hour."""
    at_provider = {batch.id for batch in look.batches if batch.status in AT_THE_PROVIDER}
    running = sum(count for batch_id, count in look.in_batches.items() if batch_id in at_provider)
    prompts = look.prompts
    return {
        **look.queued,
        "packed": prompts["batched"] - running,
        "running": running,
        **{status: prompts[status] for status in ("done", "failed", "cancelled")},
        "last_hour": dict(look.last_hour),
    }


def _batch_object(batch: ActiveBatch, look: Look) -> dict[str, Any]:
    facts, length_ms = asdict(batch), window_ms(batch.completion_window)
    last_error = facts.pop("last_error")
    for name in NOT_SHOWN:
        del facts[name]
    times = {name.removesuffix("_ms"): iso(facts.pop(name)) for name in ("created_at_ms", "submitted_at_ms")}
    return {
        **facts,
        "model": batch.model or None,
        **times,
        "age_seconds": max(0, look.at_ms - batch.created_at_ms) // 1000,
        "window_seconds": None if length_ms is None else length_ms // 1000,
        "expires_at": iso(expires_at_ms(batch)),
        "waiting": look.in_batches.get(batch.id, 0),
        "last_error": last_error,
    }


def expires_at_ms(batch: ActiveBatch) -> int | None:
    """When the provider's window ends: as it says, else counted from the submission."""
    length_ms = window_ms(batch.completion_window)
    if batch.submitted_at_ms is None or batch.remote_expires_at_ms is not None or length_ms is None:
        return batch.remote_expires_at_ms
    return batch.submitted_at_ms + length_ms


def _restored_object(look: Look) -> dict[str, Any] | None:
    if look.restored is None:
        return None
    return {
        "backed_up_at": iso(look.restored.backed_up_at_ms),
        "looks": look.restored.looks,
        "looks_needed": look.looks_needed,
        "next_look_at": iso(look.restored.look_at_ms or None),
    }


def _pause_object(state: ProviderState) -> dict[str, Any]:
    return {
        "provider": state.name,
        "since": iso(state.paused_at_ms),
        "next_try_at": iso(state.resume_at_ms),
        "reason": state.pause_reason,
        "remedy": CREDIT if state.paused_by == "line" else remedy(state.pause_reason or "", otherwise=ACCOUNT),
    }


def _with_time(found: Trouble | FaultGroup, moment: str) -> dict[str, Any]:
    facts = asdict(found)
    return {moment.removesuffix("_ms"): iso(facts.pop(moment)), **facts}


def _event_object(step: Step) -> dict[str, Any]:
    told = {
        "packed": f"{step.lines} prompts for {step.provider}",
        "submitted": f"{step.lines} prompts, accepted by {step.provider}",
        "ended": f"{step.remote_status or 'over'} at {step.provider}",
        "settled": f"{step.done} done, {step.failed} failed, {step.resent} sent again",
    }
    return {"at": iso(step.at_ms), "event": step.step, "batch_id": step.batch_id, "text": told[step.step]}


# ---------------------------------------------------------------- what needs somebody


def _attention(look: Look) -> Iterator[dict[str, str]]:
    """What a person should know or do, the worst first; nothing when all is well. Of a queue that moved, only that."""
    if look.elsewhere is not None:
        yield {"level": "warning", **look.elsewhere._asdict()}
        return
    for state in look.pauses:
        what = f"{state.name} is paused, nothing is sent there: {state.pause_reason or 'its account is refused'}"
        yield {"level": "error", "what": what, "todo": _pause_object(state)["remedy"]}
    for name in sorted({batch.provider for batch in look.batches} - look.providers):
        yield {
            "level": "error",
            "what": f"batches wait for provider {name}, which left the settings",
            "todo": f"put the table [providers.{name}] back, with its key, and start the daemon again",
        }
    if look.unattended and look.prompts["queued"] + look.prompts["batched"]:
        yield {"level": "warning", "what": "no daemon works on this queue", "todo": "start it: `orchestrator run`"}
    if look.restored is not None:
        yield {
            "level": "warning",
            "what": f"restored from the backup of {iso(look.restored.backed_up_at_ms)}: nothing is sent until it is "
            f"known what was sent since; {look.restored.looks} of {look.looks_needed} looks at the providers are done",
            "todo": "let a daemon run: it goes on by itself; if it lasts, its log says why (loop.failed)",
        }
    yield from _batches_in_trouble(look)
    failed = sum(look.throughput["failed"])
    if failed:
        yield {
            "level": "warning",
            "what": f"{failed} prompts failed in the last {STEPS * STEP_MS // HOUR_MS} hours",
            "todo": "`orchestrator failures` shows why; correct it, then `orchestrator retry`",
        }


def _batches_in_trouble(look: Look) -> Iterator[dict[str, str]]:
    """An outage is one story, however many batches it meets."""
    late = [batch for batch in look.batches if _late_seconds(batch, look) > 0]
    for (provider,), batches in _grouped(late, lambda batch: (batch.provider,)):
        seconds = max(_late_seconds(batch, look) for batch in batches)
        past = "is past its window by" if len(batches) == 1 else "are past their windows, the longest by"
        yield {
            "level": "warning",
            "what": f"{_named(batches)} at {provider} {past} {duration(seconds)}",
            "todo": "look at the provider's status page; in the end its rest is sent again",
        }
    failing = [batch for batch in look.batches if batch.tries >= TRIES_TOLD]
    for (provider, error), batches in _grouped(failing, lambda batch: (batch.provider, batch.shared_error)):
        yield {
            "level": "warning",
            "what": f"{_named(batches)} at {provider}: {_tries(batches)} in a row failed, the last with {error}",
            "todo": remedy(error),
        }


def _late_seconds(batch: ActiveBatch, look: Look) -> float:
    """How long the window of a batch that runs has been over."""
    expires = expires_at_ms(batch)
    return 0.0 if expires is None or batch.status != BatchStatus.SUBMITTED else (look.at_ms - expires) / 1000


def _grouped(
    batches: Sequence[ActiveBatch], reason: Callable[[ActiveBatch], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[ActiveBatch]]]:
    """Those that share a reason, the most first."""
    groups = defaultdict[tuple[str, ...], list["ActiveBatch"]](list)
    for batch in batches:
        groups[reason(batch)].append(batch)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _named(batches: Sequence[ActiveBatch]) -> str:
    return f"batch {batches[0].id}" if len(batches) == 1 else f"{len(batches)} batches"


def _tries(batches: Sequence[ActiveBatch]) -> str:
    tries = {batch.tries for batch in batches}
    return f"{max(tries)} tries" if len(tries) == 1 else f"up to {max(tries)} tries"
