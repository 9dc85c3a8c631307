"""`validate`: what `enqueue` and the daemon would say of files, without storing or sending anything."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import TEXT, as_json
from orchestrator.cli.reading import Report, check_known, counted, parsed_template, read_all, reader, size_of
from orchestrator.cli.screen import say_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.config import Config
    from orchestrator.intake.checking import Checker, Findings
    from orchestrator.intake.formats import Entry

BAD_LINES = 1
REPORT_EVERY = 1000
ROWS_SHOWN = 20
EPILOG = """\b
--json prints one object (bad lines are told on stderr all the same):
  files      how many were read
  lines      lines that are not blank (of a CSV file: records)
  prompts    lines that would be stored and sent
  bad_lines  the others
  bytes      of the prompts, as they go to the provider
  batches    how many batches that makes if all is enqueued at once
  models     [{"model", "prompts"}], the largest first
  lanes      [{"provider", "endpoint", "completion_window", "model",
             "prompts", "bytes", "batches"}]: what shares batches; model
             null where there are several
"""


@click.command("validate", epilog=EPILOG, short_help="Check files of prompts; write nothing.")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE... | -",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
)
@click.option("--lines", "plain", is_flag=True, help="Plain text: each line that is not blank is a prompt.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header; the default for files named *.csv.")
@click.option("--template", type=TEXT, help="Make each prompt from the fields of its line: 'Translate: {text}'.")
@click.option("--model", type=TEXT, help="Model of every prompt.")
@click.option("--window", type=TEXT, help="Completion window of every prompt: 24h, 1h.")
@click.option("--provider", type=TEXT, help="Provider of every prompt.")
@click.option("--endpoint", type=TEXT, help="Endpoint of every prompt: /v1/embeddings.")
@as_json
@click.pass_obj
def command(
    config_path: Path | None,
    /,
    *,
    files: tuple[str, ...],
    plain: bool,
    as_csv: bool,
    template: str | None,
    as_json: bool,
    **columns: Any,  # noqa: ANN401 - the columns that options set
) -> int:
    """Check files as `enqueue` and the daemon would, and write nothing.

    Reads what `enqueue` reads, with the same options. Tells how many prompts, bytes, models and batches there are, and
    every bad line as FILE:LINE with its remedy; the exit code is 1 when there is one. Needs no database, and so cannot
    see that a custom_id is in the queue already.
    """
    from orchestrator.config import load  # noqa: PLC0415

    if plain and as_csv:
        raise click.UsageError("a file is either --lines or --csv: leave one out")
    filled = parsed_template(template, plain=plain)
    columns["completion_window"] = columns.pop("window")
    fixed = {name: value for name, value in columns.items() if value is not None}
    config = load(config_path, os.environ).config
    check_known(fixed, config)
    entries = read_all(files, partial(reader, plain=plain, as_csv=as_csv, template=filled), "validate")
    with _checker(fixed, config) as checker, Report(size_of(files), most=None) as report:
        _check_all(entries, checker, report)
    _tell(checker.findings, len(set(files)), as_json=as_json)
    return BAD_LINES if checker.findings.bad_lines else 0


def _checker(fixed: dict[str, str], config: Config) -> Checker:
    from orchestrator.context import defaults_of, limits_of, rules_of  # noqa: PLC0415
    from orchestrator.intake.checking import Checker  # noqa: PLC0415

    limits = {name: limits_of(config, provider) for name, provider in config.providers.items()}
    return Checker(fixed, rules_of(config), defaults_of(config), limits.__getitem__)


def _check_all(entries: Iterator[Entry], checker: Checker, report: Report) -> None:
    found = checker.findings
    for entry in entries:
        mistake = checker.check(entry)
        if mistake is not None or found.lines % REPORT_EVERY == 0:
            report.tell(found.nbytes_read, found.prompts, [] if mistake is None else [(entry.where, mistake)])


def _tell(found: Findings, files: int, *, as_json: bool) -> None:
    models = sorted(found.models.items(), key=lambda item: -item[1])
    lanes = [
        {
            "provider": lane.provider,
            "endpoint": lane.endpoint,
            "completion_window": lane.completion_window,
            "model": share.model,
            "prompts": share.prompts,
            "bytes": share.nbytes,
            "batches": share.batches,
        }
        for lane, share in found.lanes.items()
    ]
    if as_json:
        facts = {
            "files": files,
            "lines": found.lines,
            "prompts": found.prompts,
            "bad_lines": found.bad_lines,
            "bytes": found.nbytes,
            "batches": found.batches,
            "models": [{"model": model, "prompts": prompts} for model, prompts in models],
            "lanes": lanes,
        }
        say_json(facts)
        return
    _show(models, lanes)
    click.echo(
        f"{counted(found.prompts, 'prompt')} of {found.nbytes:,} bytes on the wire in "
        f"{counted(found.batches, 'batch', 'batches')}, {counted(found.bad_lines, 'bad line')}, "
        f"from {counted(files, 'file')}"
    )


def _show(models: list[tuple[str, int]], lanes: list[dict[str, Any]]) -> None:
    from orchestrator.cli.tables import show_table  # noqa: PLC0415

    if models:
        rest = [[f"… {len(models) - ROWS_SHOWN} more", None]] if len(models) > ROWS_SHOWN else []
        show_table("models", ["model", "prompts"], [*map(list, models[:ROWS_SHOWN]), *rest])
    if lanes:
        names = ["provider", "endpoint", "completion_window", "model", "prompts", "batches"]
        heads = ["provider", "endpoint", "window", "model", "prompts", "batches"]
        rows = [
            ["several" if name == "model" and lane[name] is None else lane[name] for name in names] for lane in lanes
        ]
        rest = [[f"… {len(rows) - ROWS_SHOWN} more", *[None] * 5]] if len(rows) > ROWS_SHOWN else []
        show_table("batches it would make", heads, [*rows[:ROWS_SHOWN], *rest])
