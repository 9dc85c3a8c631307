"""`check`: is everything there that a run needs? One line each, with the remedy."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import as_json
from orchestrator.cli.screen import say_json, wrapped
from orchestrator.errors import ConfigError, OrchestratorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from orchestrator.config import Config

FAILED = 1
SQLITE_MENDED = (3, 51, 3)
LITTLE_BYTES, LEAST_BYTES = 2_000_000_000, 200_000_000
EPILOG = """\b
--json prints one object:
  ok      false when something failed
  checks  [{"check", "state", "message"}]: state is ok, warning or failed;
          the message ends in the remedy
"""


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    state: State
    message: str


@click.command("check", epilog=EPILOG, short_help="Find out what is wrong, and what to do.")
@click.option("--live", is_flag=True, help="Also send one tiny batch (it is billed), wait for it, delete its files.")
@as_json
@click.pass_obj
def command(config_path: Path | None, /, *, live: bool, as_json: bool) -> int:
    """Check settings, database, disk, and of each provider with a key: address, key, clock and models.

    Changes nothing. The exit code is 1 when something failed; a warning is none.
    """
    import asyncio  # noqa: PLC0415

    findings = asyncio.run(_run(config_path, live=live, as_json=as_json))
    failed = any(finding.state is State.FAILED for finding in findings)
    if as_json:
        say_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    return FAILED if failed else 0


async def _run(config_path: Path | None, *, live: bool, as_json: bool) -> list[Finding]:
    findings = []
    async for finding in _findings(config_path, live=live):
        findings.append(finding)
        if not as_json:
            _show(finding)
    return findings


async def _findings(config_path: Path | None, *, live: bool) -> AsyncIterator[Finding]:
    from orchestrator.cli.check_provider import asked, checked_live  # noqa: PLC0415
    from orchestrator.config import load  # noqa: PLC0415

    try:
        loaded = load(config_path, os.environ)
    except ConfigError as error:
        yield Finding("settings", State.FAILED, str(error))
        return
    files = {origin for origin in loaded.origins.values() if origin.startswith("file ")}
    yield Finding("settings", State.OK, ", ".join(sorted(files)) or "no file of settings: built-in defaults")
    yield await _database(loaded.config)
    for finding in _beside_database(loaded.config):
        yield finding
    for provider in _providers(loaded.config):
        async for finding in asked(provider, loaded.config):
            yield finding
    if live:
        yield await checked_live(loaded.config)


def _show(finding: Finding) -> None:
    colour = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}[finding.state]
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    line = wrapped(f"{finding.state:<7}  {finding.check}: {finding.message}", indent=" " * 9)
    state, rest = line[:7], line[7:]
    click.echo(f"{state if plain else click.style(state, fg=colour)}{rest}")


def _providers(config: Config) -> Iterable[str]:
    """The default provider, and others whose key is at hand."""
    yield config.defaults.provider
    for name, provider in config.providers.items():
        if name != config.defaults.provider:
            try:
                provider.api_key()
            except ConfigError:
                continue
            yield name


# ---------------------------------------------------------------- on this machine


async def _database(config: Config) -> Finding:
    from orchestrator.store.database import Database  # noqa: PLC0415
    from orchestrator.store.schema import newest_revision, require_current  # noqa: PLC0415

    database = Database(config.database.url)
    try:
        await require_current(database)
    except OrchestratorError as error:
        return Finding("database", State.FAILED, str(error))
    finally:
        await database.close()
    return Finding("database", State.OK, f"{database.named} is at revision {newest_revision()}")


def _beside_database(config: Config) -> Iterable[Finding]:
    if not config.database.url.startswith("sqlite"):
        return
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < SQLITE_MENDED:
        mended = ".".join(map(str, SQLITE_MENDED))
        yield Finding("sqlite", State.WARNING, f"version {version}: below {mended} a WAL reset can corrupt: upgrade it")
    else:
        yield Finding("sqlite", State.OK, f"version {version}")
    folder = Path(str(config.database.path or ".")).absolute().parent
    yield _disk(folder)


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        reason = error.strerror or error
        return Finding("disk", State.FAILED, f"{folder}: {reason}: make the folder, or correct database.url")
    state = State.FAILED if free < LEAST_BYTES else State.WARNING if free < LITTLE_BYTES else State.OK
    remedy = "" if state is State.OK else ": free some space, answers are stored there"
    return Finding("disk", state, f"{free / 1e9:.1f} GB free in {folder}{remedy}")
