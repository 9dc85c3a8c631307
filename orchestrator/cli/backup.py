"""`backup`: a copy of the queue, while everything runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from orchestrator.cli.options import as_json
from orchestrator.cli.screen import Bar, say_json
from orchestrator.core.telling import harmless
from orchestrator.errors import ConfigError

EPILOG = """\b
--json prints one object:
  path, bytes  the backup
  prompts      how many it holds
  seconds      how long it took
"""


@click.command("backup", epilog=EPILOG, short_help="Copy the queue while everything runs.")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@as_json
@click.pass_obj
def command(config_path: Path | None, /, *, path: Path, as_json: bool) -> None:
    """Copy the queue as it is at this moment to PATH, which must not exist yet.

    Nobody who writes to the queue waits for it. The copy is checked, readable by its owner only, and takes its name
    when it is complete. To restore it: stop the daemon, put it in the queue's place, start the daemon. It then asks
    the provider first for what was sent since, and pays for none of that again.
    """
    from orchestrator.cli.opening import require_elsewhere  # noqa: PLC0415
    from orchestrator.config import load  # noqa: PLC0415
    from orchestrator.store.backup import back_up  # noqa: PLC0415

    config = load(config_path, os.environ).config
    if not config.database.url.startswith("sqlite"):
        raise ConfigError("backup copies SQLite files: use pg_dump for this database")
    require_elsewhere(path, config)
    started = time.monotonic()
    with Bar("MB") as bar:
        made = back_up(config.database.path, path, int(time.time() * 1000), lambda done, total: _show(bar, done, total))
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        say_json({"path": str(path), "bytes": made.nbytes, "prompts": made.prompts, "seconds": seconds})
        return
    click.echo(harmless(f"{path}: {made.prompts} prompts, {made.nbytes} bytes, checked; it took {seconds} s"))
    if not made.marked:
        click.echo("the queue is not migrated: what is sent after this is paid again when it is restored", err=True)


def _show(bar: Bar, done: int, total: int) -> None:
    bar.total = total
    bar.show(done, done // 1_000_000)
