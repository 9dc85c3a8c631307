from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from orchestrator.cli.screen import say_json
from orchestrator.core.telling import harmless

if TYPE_CHECKING:
    from pathlib import Path

EPILOG = """\b
--json prints one object per setting, on a line of its own:
  key     such as "polling.min_seconds"
  value   what is in force
  origin  "default", or the file or variable it comes from
"""


@click.command("config", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per setting.")
@click.pass_obj
def command(config_path: Path | None, *, as_json: bool) -> None:
    """Show the effective settings and where each came from; secrets are never shown."""
    from orchestrator.config import effective, load  # noqa: PLC0415

    settings = effective(load(config_path, os.environ))
    width = max(len(setting.key) for setting in settings)
    for setting in settings:
        value = json.dumps(setting.value, ensure_ascii=False)
        if as_json:
            say_json({"key": setting.key, "value": setting.value, "origin": setting.origin})
        else:
            click.echo(harmless(f"{setting.key:<{width}}  {value}  ({setting.origin})"))
