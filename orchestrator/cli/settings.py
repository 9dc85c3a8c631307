from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path


@click.command("config")
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
            click.echo(json.dumps({"key": setting.key, "value": setting.value, "origin": setting.origin}))
        else:
            click.echo(f"{setting.key:<{width}}  {value}  ({setting.origin})")
