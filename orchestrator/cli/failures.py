"""`failures`: why prompts failed, the most frequent reason first."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import TEXT, as_json
from orchestrator.cli.screen import say_json
from orchestrator.cli.selecting import unknown_tag

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.config import Loaded
    from orchestrator.store.database import Database
    from orchestrator.store.failures import FailureGroup

EPILOG = """\b
--json prints one object:
  failures  [{"prompts", "fault", "status_code", "error_code", "message",
            "custom_id", "batch_id"}]: how many prompts share this reason,
            and one of them; the largest group first
"""


@click.command("failures", epilog=EPILOG, short_help="Show why prompts failed, grouped by reason.")
@click.option("--tag", type=TEXT, help="Only prompts with this tag.")
@as_json
@click.pass_obj
def command(config_path: Path | None, /, tag: str | None, *, as_json: bool) -> None:
    """Show failed prompts grouped by reason, most frequent first, with an example each."""
    from orchestrator.cli.opening import with_database  # noqa: PLC0415

    async def look(database: Database, _loaded: Loaded) -> tuple[list[FailureGroup], str | None]:
        from orchestrator.store.failures import list_failure_groups  # noqa: PLC0415

        groups = await database.read(partial(list_failure_groups, tag=tag))
        return groups, None if groups else await unknown_tag(database, tag)

    groups, mistake = with_database(config_path, look, doing="grouping failed prompts")
    if mistake is not None:
        click.echo(mistake, err=True)
    if as_json:
        say_json({"failures": [asdict(group) for group in groups]})
    elif groups:
        _show(groups)
    elif mistake is None:
        click.echo("no failed prompts")


def _show(groups: list[FailureGroup]) -> None:
    from orchestrator.cli.tables import show_table  # noqa: PLC0415

    rows = [[g.prompts, g.fault, g.status_code, g.message or g.error_code, g.custom_id] for g in groups]
    show_table("failed prompts by reason", ["prompts", "fault", "status", "message", "for example"], rows)
    click.echo("correct the cause, then `orchestrator retry --fault FAULT` sends them again")
