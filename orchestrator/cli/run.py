from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STOPPED_BEFORE, FAILED_PROMPTS = 1, 3


@click.command("run")
@click.option(
    "--until-idle", is_flag=True, help="Stop when every prompt has ended; exit 3 if some failed, 1 if stopped before."
)
@click.pass_obj
def command(config_path: Path | None, *, until_idle: bool) -> int:
    """Run the daemon: answer what is queued, and go on until stopped.

    Migrates the database if it is behind. SIGTERM or Ctrl-C finishes what is in hand; a second one stops at once.
    Nothing is lost either way.
    """
    import asyncio  # noqa: PLC0415

    from orchestrator.config import load  # noqa: PLC0415
    from orchestrator.daemon import run  # noqa: PLC0415
    from orchestrator.memory import leave_alone, return_large  # noqa: PLC0415
    from orchestrator.telemetry import configure  # noqa: PLC0415

    loaded = load(config_path, os.environ)
    configure(loaded.config.log.level, loaded.config.log.format)
    leave_alone()
    return_large()
    counts = asyncio.run(run(loaded, until_idle=until_idle))
    return _exit_code(counts) if until_idle else 0


def _exit_code(counts: Mapping[str, int]) -> int:
    if counts["queued"] + counts["batched"]:
        return STOPPED_BEFORE
    return FAILED_PROMPTS if counts["failed"] else 0
