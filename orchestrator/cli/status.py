"""`status`: where the queue stands."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import as_json
from orchestrator.cli.screen import say_json, wrapped
from orchestrator.cli.tables import MODEL_CHARACTERS, shortened
from orchestrator.core.model import PromptStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestrator.cli.tables import Block
    from orchestrator.config import Loaded
    from orchestrator.store.database import Database
    from orchestrator.store.overview import ActiveBatch, Trouble
    from orchestrator.store.providers import ProviderState

ROWS_SHOWN = 20
TROUBLE_SHOWN = 5
REASON_CHARACTERS = 160
STATUSES = tuple(status.value for status in PromptStatus)
EPILOG = """\b
--json prints one object:
  database  what database.url names
  at        the time of this look (all times are UTC, ISO 8601)
  prompts   {"queued", "batched", "done", "failed", "cancelled"}: how many
  tags      [{"tag", and the same five}], tag null for prompts without
  pruned    {"done", "failed", "cancelled"}: how many more there were, which
            were deleted for their age
  rates     {"last_minute", "last_hour"}, each {"done", "failed"}: how many
            prompts ended so
  batches   [{"id", "key", "provider", "endpoint", "model",
            "completion_window", "status", "remote_status",
            "remote_batch_id", "lines", "lines_received", "remote_total",
            "remote_completed", "remote_failed", "created_at",
            "submitted_at", "age_seconds", "last_error"}]: those under way
  pauses    [{"provider", "since", "next_try_at", "reason", "remedy"}]
  errors    [{"at", "batch_id", "custom_id", "fault", "message"}]: the last,
            newest first; of a whole batch where custom_id is null
With --watch, one such object per line, whenever something has changed.
"""
REMEDIES = {
    "line": "add credit or raise the spending limit at the provider",
    "call": "check the API key and the account at the provider",
}


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that is shown, as of `at_ms`."""

    database: str
    at_ms: int
    prompts: Mapping[str, int]
    tags: Mapping[str | None, Mapping[str, int]]
    pruned: Mapping[str, int]
    rates: Mapping[str, Mapping[str, int]]
    batches: Sequence[ActiveBatch]
    pauses: Sequence[ProviderState]
    errors: Sequence[Trouble]


@click.command("status", epilog=EPILOG)
@click.option("--watch", is_flag=True, help="Look again and again until Ctrl-C; in a pipe, a line per change.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=86_400),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Pause between two looks of --watch.",
)
@as_json
@click.pass_obj
def command(config_path: Path | None, /, *, watch: bool, interval: float, as_json: bool) -> None:
    """Show where the queue stands.

    Prompts by status and tag, how many ended of late, batches under way, paused providers and what to do, the last
    errors. Works while a daemon runs, and when none does.
    """
    if watch:
        _watch(config_path, interval, as_json=as_json)
        return
    from orchestrator.cli.opening import with_database  # noqa: PLC0415

    look = with_database(config_path, look_at, doing="counting prompts")
    if as_json:
        say_json(as_object(look))
    else:
        _show(look)


def _watch(config_path: Path | None, interval: float, *, as_json: bool) -> None:
    try:
        from orchestrator.cli.opening import with_database  # noqa: PLC0415
        from orchestrator.cli.watch import watch  # noqa: PLC0415

        with_database(config_path, partial(watch, interval=interval, as_json=as_json))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


async def look_at(database: Database, _loaded: Loaded) -> Look:
    from orchestrator.store.overview import count_prompts, list_active_batches, list_trouble  # noqa: PLC0415
    from orchestrator.store.providers import list_provider_states  # noqa: PLC0415
    from orchestrator.store.retention import read_pruned  # noqa: PLC0415

    at_ms = int(time.time() * 1000)
    counts = await database.read(partial(count_prompts, now_ms=at_ms))
    return Look(
        database=database.named,
        at_ms=at_ms,
        prompts={status: sum(each[status] for each in counts.tags.values()) for status in STATUSES},
        tags=counts.tags,
        pruned=await database.read(read_pruned),
        rates=counts.ended,
        batches=await database.read(list_active_batches),
        pauses=[state for state in (await database.read(list_provider_states)).values() if state.pauses],
        errors=await database.read(lambda connection: list_trouble(connection, TROUBLE_SHOWN)),
    )


# ---------------------------------------------------------------- as JSON


def as_object(look: Look) -> dict[str, Any]:
    """The object that `--json` prints; its shape is EPILOG's."""
    return {
        "database": look.database,
        "at": iso(look.at_ms),
        "prompts": dict(look.prompts),
        "tags": [{"tag": tag, **counts} for tag, counts in look.tags.items()],
        "pruned": dict(look.pruned),
        "rates": look.rates,
        "batches": [_batch_object(batch, look.at_ms) for batch in look.batches],
        "pauses": [_pause_object(state) for state in look.pauses],
        "errors": [_error_object(trouble) for trouble in look.errors],
    }


def iso(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _batch_object(batch: ActiveBatch, now_ms: int) -> dict[str, Any]:
    facts = asdict(batch)
    last_error = facts.pop("last_error")
    times = {name.removesuffix("_ms"): iso(facts.pop(name)) for name in ("created_at_ms", "submitted_at_ms")}
    age_seconds = max(0, now_ms - batch.created_at_ms) // 1000
    return {**facts, "model": batch.model or None, **times, "age_seconds": age_seconds, "last_error": last_error}


def _pause_object(state: ProviderState) -> dict[str, Any]:
    return {
        "provider": state.name,
        "since": iso(state.paused_at_ms),
        "next_try_at": iso(state.resume_at_ms),
        "reason": state.pause_reason,
        "remedy": REMEDIES.get(state.paused_by or "", REMEDIES["call"]),
    }


def _error_object(trouble: Trouble) -> dict[str, Any]:
    facts = asdict(trouble)
    return {"at": iso(facts.pop("at_ms")), **facts}


# ---------------------------------------------------------------- on the screen


def _show(look: Look) -> None:
    from orchestrator.cli.tables import show_table  # noqa: PLC0415

    for part in parts(look):
        if isinstance(part, str):
            click.echo(f"{wrapped(part)}\n")
        else:
            show_table(*part)


def parts(look: Look, most: int = ROWS_SHOWN) -> Iterator[Block | str]:
    """What is shown, one under the other: tables of so many rows at most, and lines."""
    yield f"prompts in {look.database}", ["tag", *STATUSES], _prompt_rows(look, most)
    if any(look.pruned.values()):
        yield f"deleted for their age: {_told(look.pruned)}"
    if any(look.rates["last_hour"].values()):
        yield "ended in the " + "; ".join(_rate(name, ended) for name, ended in look.rates.items())
    if look.batches:
        columns = ["batch", "provider", "model", "status", "received", "at provider", "age"]
        rows = [_batch_row(batch, look.at_ms) for batch in look.batches]
        yield "batches under way", columns, _first(rows, most)
    if look.pauses:
        pauses = [_pause_object(state) for state in look.pauses]
        rows = [[pause[name] for name in ("provider", "since", "next_try_at")] for pause in pauses]
        yield "paused providers", ["provider", "since", "next try"], rows
        for pause in pauses:
            reason = shortened(pause["reason"] or "paused", REASON_CHARACTERS)
            yield f"{pause['provider']}: {reason}: {pause['remedy']}; it goes on by itself"
    if look.errors:
        columns = ["ago", "batch", "prompt", "fault", "message"]
        rows = [
            [duration((look.at_ms - e.at_ms) / 1000), _text(e.batch_id), e.custom_id, e.fault, e.message]
            for e in look.errors[:most]
        ]
        yield "last errors", columns, rows


def _rate(window: str, ended: Mapping[str, int]) -> str:
    return f"{window.replace('_', ' ')}: {_told(ended)}"


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _prompt_rows(look: Look, most: int) -> list[list[object]]:
    """Every tag's counts, the largest first, and their sum."""
    total = ["total", *look.prompts.values()]
    by_size = sorted(look.tags.items(), key=lambda item: -sum(item[1].values()))
    rows: list[list[object]] = [[_label(tag), *counts.values()] for tag, counts in by_size]
    return [*_first(rows, most), total] if set(look.tags) - {None} else [total]


def _label(tag: str | None) -> str:
    return "(no tag)" if tag is None else tag or '""'


def _first(rows: list[list[object]], most: int) -> list[list[object]]:
    if len(rows) <= most:
        return rows
    blank = [None] * (len(rows[0]) - 1)
    return [*rows[:most], [f"… {len(rows) - most} more", *blank]]


def _batch_row(batch: ActiveBatch, now_ms: int) -> list[object]:
    ended = (batch.remote_completed or 0) + (batch.remote_failed or 0)
    return [
        str(batch.id),
        batch.provider,
        shortened(batch.model, MODEL_CHARACTERS) if batch.model else "several",
        batch.remote_status if batch.status == "submitted" and batch.remote_status else batch.status,
        f"{batch.lines_received}/{batch.lines}",
        "" if batch.remote_total is None else f"{ended}/{batch.remote_total}",
        duration((now_ms - batch.created_at_ms) / 1000),
    ]


def duration(seconds: float) -> str:
    """Two units at most: 42s, 3m 5s, 2h 10m, 3d 4h; 0s for what lies ahead."""
    left = max(0, int(seconds))
    parts = [(left // 86400, "d"), (left // 3600 % 24, "h"), (left // 60 % 60, "m"), (left % 60, "s")]
    first = next((at for at, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])


def _text(value: object) -> str | None:
    return None if value is None else str(value)
