"""`batches`: list them, or tell all that is known of one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import TEXT, as_json
from orchestrator.cli.screen import say_json
from orchestrator.cli.tables import MODEL_CHARACTERS, shortened, show_table
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

PAGE = 500
TIMES = (
    "created_at", "uploaded_at", "submitted_at", "polled_at", "ended_at", "settled_at", "next_poll_at",
    "files_deleted_at",
)  # fmt: skip
EPILOG = """\b
--json prints one object:
  batches   without ID: [{the columns of the view batches}], newest first:
            id key provider endpoint model completion_window status
            remote_status remote_batch_id input_file_id output_file_id
            error_file_id lines bytes remote_total remote_completed
            remote_failed lines_received lines_done lines_failed
            lines_resent duplicates unreadable created_at uploaded_at
            submitted_at polled_at ended_at settled_at next_poll_at
            last_error last_error_at files_deleted_at
  batch     with ID: the same columns of one
  outcomes  with ID: {"done", each fault, "waiting"}: lines by outcome
"""


@click.command("batches", epilog=EPILOG, short_help="List batches, or tell all about one.")
@click.argument("batch", metavar="[ID]", required=False, type=TEXT)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many to list.")
@as_json
@click.pass_obj
def command(config_path: Path | None, /, batch: str | None, limit: int, *, as_json: bool) -> None:
    """List batches, newest first; or with ID (ours, its key, or the provider's), tell all that is known of one."""
    from orchestrator.cli.opening import with_database  # noqa: PLC0415

    if batch is None:
        found = with_database(config_path, partial(_list, limit=limit), doing="listing batches")
        _say_list(found, as_json=as_json)
    else:
        facts, outcomes = with_database(config_path, partial(_find, named=batch), doing="counting lines")
        _say_one(facts, outcomes, as_json=as_json)


async def _list(database: Database, _loaded: Loaded, limit: int) -> list[dict[str, Any]]:
    from orchestrator.store.timeline import list_batches  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    while len(found) < limit:
        last = found[-1]["id"] if found else None
        page = await database.read(partial(list_batches, before_id=last, limit=min(PAGE, limit - len(found))))
        found += page
        if not page:
            break
    return found


async def _find(database: Database, _loaded: Loaded, named: str) -> tuple[dict[str, Any], dict[str, int]]:
    from orchestrator.store.timeline import count_outcomes, find_batch  # noqa: PLC0415

    facts = await database.read(partial(find_batch, named=named))
    if facts is None:
        raise InputError(f"no batch {named}: `orchestrator batches` lists them")
    return facts, await database.read(partial(count_outcomes, batch_id=facts["id"]))


def _say_list(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        say_json({"batches": found})
    elif not found:
        click.echo("no batches yet")
    else:
        heads = ["batch", "provider", "model", "status", "at provider", "received", "created UTC"]
        show_table("batches", heads, [_row(batch) for batch in found])


def _row(batch: dict[str, Any]) -> list[object]:
    return [
        str(batch["id"]),
        batch["provider"],
        shortened(batch["model"], MODEL_CHARACTERS) if batch["model"] else "any",
        batch["status"],
        batch["remote_status"],
        f"{batch['lines_received']}/{batch['lines']}",
        batch["created_at"][5:16],
    ]


def _say_one(facts: dict[str, Any], outcomes: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        say_json({"batch": facts, "outcomes": outcomes})
        return
    plain = [[name, str(value)] for name, value in facts.items() if value is not None and name not in TIMES]
    show_table(f"batch {facts['id']}", ["what", "value"], plain)
    show_table("timeline", ["what", "when (UTC)"], [[name[:-3], facts[name][:19]] for name in TIMES if facts[name]])
    show_table("lines by outcome", ["outcome", "lines"], [[name, count] for name, count in outcomes.items()])
