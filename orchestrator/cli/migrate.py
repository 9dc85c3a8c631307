from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.screen import say_json
from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.config import Loaded
    from orchestrator.store.database import Database

BEHIND = 1
EPILOG = """\b
--json prints one object:
  before, after  the database's revision before and now; before null if new
With --check:
  current  whether the database is at the newest revision
  newest   the revision this program works with
  reason   only if it is not current: why, and what to do
"""


@click.command("migrate", epilog=EPILOG)
@click.option("--check", is_flag=True, help="Only tell whether the database is current; exit 1 if not.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def command(config_path: Path | None, *, check: bool, as_json: bool) -> int:
    """Make the database, or bring it to the newest revision."""
    from orchestrator.cli.opening import with_database  # noqa: PLC0415
    from orchestrator.store.schema import migrate, newest_revision, require_current  # noqa: PLC0415

    async def upgraded(database: Database, _loaded: Loaded) -> tuple[str | None, str]:
        return await migrate(database)

    async def looked(database: Database, _loaded: Loaded) -> None:
        await require_current(database)

    if not check:
        before, after = with_database(config_path, upgraded, create=True, migrated=False, doing="migrating")
        _say(as_json, {"before": before, "after": after}, f"database is at revision {after}")
        return 0
    try:
        with_database(config_path, looked)
    except StoreError as error:
        _say(as_json, {"current": False, "newest": newest_revision(), "reason": str(error)}, str(error))
        return BEHIND
    _say(as_json, {"current": True, "newest": newest_revision()}, f"database is current: {newest_revision()}")
    return 0


def _say(as_json: bool, facts: dict[str, object], line: str) -> None:  # noqa: FBT001
    if as_json:
        say_json(facts)
    else:
        click.echo(line)
