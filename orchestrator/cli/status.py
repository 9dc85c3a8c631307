"""`status`: where the queue stands."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import as_json
from orchestrator.cli.screen import say_json, wrapped
from orchestrator.cli.tables import MODEL_CHARACTERS, shortened
from orchestrator.core.telling import duration, seconds_ago, shown_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from orchestrator.cli.tables import Block
    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

ROWS_SHOWN = 20
REASON_CHARACTERS = 160
EPILOG = """\b
--json prints one object, the same that the daemon's page /status.json shows:
  database  what database.url names
  at        the time of this look (all times are UTC, ISO 8601)
  attention [{"level", "what", "todo"}]: what needs somebody, the worst
            first; empty when all is well; level is error or warning
  restored  null; in a queue restored from a backup, until it is known what
            was sent since, {"backed_up_at", "looks", "looks_needed",
            "next_look_at"}: looks at the providers that are done
  prompts   {"queued", "batched", "done", "failed", "cancelled"}: how many
  flow      where they are: queued ones are "new" (not looked at yet),
            "ready" or "waiting" for their time, batched ones "packed" (not
            sent yet) or "running"; "done", "failed", "cancelled"; and in
            "last_hour" how many were {"packed", "submitted", "done",
            "failed", "resent"}
  tags      [{"tag", and the five of prompts}], tag null for those without
  other_tags  the five of all other prompts, where there are over 10,000 tags
  pruned    {"done", "failed", "cancelled"}: how many more there were, which
            were deleted for their age
  rates     {"last_minute", "last_hour"}, each {"done", "failed"}: how many
            prompts ended so
  throughput {"since", "step_seconds", "done": [...], "failed": [...]}: how
            many ended so in each step of the last twelve hours
  batches   [{"id", "key", "provider", "endpoint", "model",
            "completion_window", "status", "remote_status",
            "remote_batch_id", "lines", "lines_received", "tries",
            "remote_total", "remote_completed", "remote_failed",
            "created_at", "submitted_at", "age_seconds", "window_seconds",
            "expires_at", "waiting", "last_error"}]: those under way; waiting
            counts prompts without an outcome, tries those in a row that
            failed
  pauses    [{"provider", "since", "next_try_at", "reason", "remedy"}]
  faults    [{"fault", "status_code", "error_code", "attempts", "last_at",
            "message", "custom_id", "batch_id", "content"}]: attempts that
            failed since "faults_since", by reason, and the last as an
            example; content is null unless web.show_content is on
  errors    [{"at", "batch_id", "custom_id", "fault", "message"}]: the last,
            newest first; of a whole batch where custom_id is null
  events    [{"at", "event", "batch_id", "text"}]: the last steps of batches
With --watch, one such object per line, whenever something has changed.
"""


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

    What needs you, prompts by status and tag, how many ended of late, batches under way, paused providers and what to
    do, the last errors. Works while a daemon runs, and when none does.
    """
    if watch:
        _watch(config_path, interval, as_json=as_json)
        return
    from orchestrator.cli.opening import with_database  # noqa: PLC0415

    status = with_database(config_path, look, doing="counting prompts")
    if as_json:
        say_json(status)
    else:
        _show(status)


def _watch(config_path: Path | None, interval: float, *, as_json: bool) -> None:
    try:
        from orchestrator.cli.opening import with_database  # noqa: PLC0415
        from orchestrator.cli.watch import watch  # noqa: PLC0415

        with_database(config_path, partial(watch, interval=interval, as_json=as_json))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


async def look(database: Database, loaded: Loaded) -> dict[str, Any]:
    from orchestrator.status import status_of  # noqa: PLC0415
    from orchestrator.store.schema import is_unattended  # noqa: PLC0415

    return await status_of(database, loaded.config, unattended=is_unattended(database.path))


# ---------------------------------------------------------------- on the screen


def _show(status: Mapping[str, Any]) -> None:
    from orchestrator.cli.tables import show_table  # noqa: PLC0415

    for part in _parts(status):
        if isinstance(part, str):
            click.echo(f"{wrapped(part)}\n")
        else:
            show_table(*part)


def _parts(status: Mapping[str, Any]) -> Iterator[Block | str]:
    """What is shown, one under the other: tables and lines."""
    yield f"prompts in {status['database']}", ["tag", *status["prompts"]], _prompt_rows(status)
    if any(status["pruned"].values()):
        yield f"deleted for their age: {_told(status['pruned'])}"
    if any(status["rates"]["last_hour"].values()):
        yield "ended in the " + "; ".join(_rate(name, ended) for name, ended in status["rates"].items())
    if status["batches"]:
        columns = ["batch", "provider", "model", "status", "received", "at provider", "age"]
        yield "batches under way", columns, _first([_batch_row(batch) for batch in status["batches"]])
    if status["pauses"]:
        rows = [[pause[name] for name in ("provider", "since", "next_try_at")] for pause in status["pauses"]]
        yield "paused providers", ["provider", "since", "next try"], rows
    for need in status["attention"]:
        yield f"{shortened(need['what'], REASON_CHARACTERS)}: {need['todo']}"
    if status["errors"]:
        columns = ["ago", "batch", "prompt", "fault", "message"]
        yield "last errors", columns, [_error_row(error, status["at"]) for error in status["errors"]]


def _rate(window: str, ended: Mapping[str, int]) -> str:
    return f"{window.replace('_', ' ')}: {_told(ended)}"


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _prompt_rows(status: Mapping[str, Any]) -> list[list[object]]:
    """Every tag's counts, the largest first, and their sum."""
    total: list[object] = ["total", *status["prompts"].values()]
    rows = [[label(counts["tag"]), *(counts[name] for name in status["prompts"])] for counts in by_size(status["tags"])]
    if all(counts["tag"] is None for counts in status["tags"]):
        return [total]
    others = [["(other tags)", *status["other_tags"].values()]] if any(status["other_tags"].values()) else []
    return [*_first(rows), *others, total]


def by_size(tags: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(tags, key=lambda counts: -sum(count for name, count in counts.items() if name != "tag"))


def label(tag: str | None) -> str:
    return "(no tag)" if tag is None else tag or '""'


def _first(rows: list[list[object]]) -> list[list[object]]:
    if len(rows) <= ROWS_SHOWN:
        return rows
    blank = [None] * (len(rows[0]) - 1)
    return [*rows[:ROWS_SHOWN], [f"… {len(rows) - ROWS_SHOWN} more", *blank]]


def _batch_row(batch: Mapping[str, Any]) -> list[object]:
    ended = (batch["remote_completed"] or 0) + (batch["remote_failed"] or 0)
    return [
        str(batch["id"]),
        batch["provider"],
        shortened(batch["model"], MODEL_CHARACTERS) if batch["model"] else "any",
        shown_status(batch),
        f"{batch['lines_received']}/{batch['lines']}",
        "" if batch["remote_total"] is None else f"{ended}/{batch['remote_total']}",
        duration(batch["age_seconds"]),
    ]


def _error_row(error: Mapping[str, Any], at: str) -> list[object]:
    batch = None if error["batch_id"] is None else str(error["batch_id"])
    return [duration(seconds_ago(error["at"], at)), batch, error["custom_id"], error["fault"], error["message"]]
