"""`enqueue`: prompts from files, standard input or the command line into the table."""

from __future__ import annotations

import json
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import click

from orchestrator.cli.options import TEXT, as_json
from orchestrator.cli.reading import Report, check_known, counted, parsed_template, read_all, reader, size_of
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from orchestrator.config import Config, Loaded
    from orchestrator.intake.formats import Entry
    from orchestrator.intake.storing import Plan, Totals
    from orchestrator.store.database import Database

BAD_LINES = 1
HELP = """Put prompts into the queue, from files of any size, standard input (-) or --prompt.

Each line of a FILE is one prompt. What a line may be:

\b
a row           {"custom_id": "q-1", "prompt": "Why?", "tag": "faq"}
                keys: custom_id prompt system body model endpoint
                completion_window provider priority not_before tag
                metadata; body and metadata are objects or JSON text
a batch line    {"custom_id", "method", "url", "body"}, as OpenAI's batch
                files have them; known by url and body, and body is kept
                byte for byte
any JSON object with --template '{question}': its fields fill the template;
                {{ and }} are braces; what is no text goes in as JSON; of
                its other fields only custom_id is taken
a CSV record    under a header that names the columns above, or with
                --template any
a line of text  with --lines; --template may call it {line}

An option that sets a column (--model, --tag ...) wins over what the lines say; --model also wins over the model in
a body. A prompt without custom_id gets one made up.

Good lines go in even if others are bad: each bad line is told as FILE:LINE, and the exit code is 1. Every 1,000
prompts are stored for good; if the command breaks off, it says how many are.
"""
PRIORITY = click.IntRange(-(2**63), 2**63 - 1)


@click.command("enqueue", help=HELP, short_help="Put prompts into the queue.")
@click.argument(
    "files", nargs=-1, metavar="[FILE... | -]", type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option("--prompt", type=TEXT, help="Enqueue this one prompt; no file is read.")
@click.option("--lines", "plain", is_flag=True, help="Plain text: each line that is not blank is a prompt.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header; the default for files named *.csv.")
@click.option("--template", type=TEXT, help="Make each prompt from the fields of its line: 'Translate: {text}'.")
@click.option("--model", type=TEXT, help="Model of every prompt of this call.")
@click.option("--tag", type=TEXT, help="Tag of every prompt of this call.")
@click.option("--window", type=TEXT, help="Completion window of every prompt of this call: 24h, 1h.")
@click.option("--priority", type=PRIORITY, metavar="NUMBER", help="Priority of every prompt; higher goes first.")
@click.option("--provider", type=TEXT, help="Provider of every prompt of this call.")
@click.option("--endpoint", type=TEXT, help="Endpoint of every prompt of this call: /v1/embeddings.")
@click.option(
    "--on-conflict",
    type=click.Choice(["skip", "error"]),
    default="error",
    show_default=True,
    help="A custom_id that is taken: pass over the line, or report it as bad.",
)
@as_json
@click.pass_obj
def command(  # noqa: PLR0913 - one argument per option
    config_path: Path | None,
    /,
    *,
    files: tuple[str, ...],
    prompt: str | None,
    plain: bool,
    as_csv: bool,
    template: str | None,
    on_conflict: str,
    as_json: bool,
    **columns: Any,  # noqa: ANN401 - the columns that options set
) -> int:
    from orchestrator.cli.opening import with_database  # noqa: PLC0415
    from orchestrator.intake.storing import Plan  # noqa: PLC0415

    _check_sources(files, prompt, plain=plain, as_csv=as_csv, template=template)
    filled = parsed_template(template, plain=plain)
    columns["completion_window"] = columns.pop("window")
    plan = Plan({name: value for name, value in columns.items() if value is not None}, skip=on_conflict == "skip")
    if prompt is not None:
        entries = _entry_of(prompt)
    else:
        entries = read_all(files, partial(reader, plain=plain, as_csv=as_csv, template=filled))
    report = Report(size_of(files))
    totals, config = with_database(config_path, partial(_store, entries=entries, plan=plan, report=report), create=True)
    report.close()
    _warn_without_model(totals, columns["model"], config)
    _tell(totals, len(set(files)), as_json=as_json)
    return BAD_LINES if totals.bad_lines else 0


async def _store(
    database: Database,
    loaded: Loaded,
    entries: Iterator[Entry],
    plan: Plan,
    report: Report,
) -> tuple[Totals, Config]:
    from orchestrator.intake.storing import chunks, store  # noqa: PLC0415

    check_known(plan.fixed, loaded.config)
    with Interruption() as interruption, report:
        totals = await store(database, interruption.guarded(chunks(entries)), plan, partial(_report, report))
    return totals, loaded.config


# ---------------------------------------------------------------- what was asked


def _check_sources(
    files: Sequence[str], prompt: str | None, *, plain: bool, as_csv: bool, template: str | None
) -> None:
    if bool(files) == (prompt is not None):
        raise click.UsageError("give either files (- for standard input) or --prompt TEXT")
    if prompt is not None and (plain or as_csv or template is not None):
        raise click.UsageError("--lines, --csv and --template are about files: leave them out beside --prompt")
    if plain and as_csv:
        raise click.UsageError("a file is either --lines or --csv: leave one out")


# ---------------------------------------------------------------- reading


def _entry_of(prompt: str) -> Iterator[Entry]:
    from orchestrator.intake.formats import Entry  # noqa: PLC0415
    from orchestrator.intake.rows import Row  # noqa: PLC0415

    yield Entry("--prompt", 1, Row(prompt=prompt), "", len(prompt))


class Interruption:
    """Ctrl-C at once breaks off a file that is being read, but waits for a transaction; a second one waits for none."""

    def __init__(self) -> None:
        self._asked = self._reading = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: object) -> None:
        if self._asked or self._reading:
            raise KeyboardInterrupt
        self._asked = True

    def guarded(self, found: Iterator[list[Entry]]) -> Iterator[list[Entry]]:
        """The same chunks; raises InputError when Ctrl-C was pressed since."""
        while True:
            try:
                self._reading = True
                if self._asked:
                    raise KeyboardInterrupt  # noqa: TRY301 - the same end as while reading
                chunk = next(found, None)
                self._reading = False
            except KeyboardInterrupt:
                raise InputError("interrupted") from None
            if chunk is None:
                return
            yield chunk


# ---------------------------------------------------------------- telling


def _report(report: Report, totals: Totals, mistakes: Iterable[tuple[str, str]]) -> None:
    report.tell(totals.nbytes, totals.enqueued, mistakes)


def _warn_without_model(totals: Totals, model: str | None, config: Config) -> None:
    if totals.modelless and model is None and config.defaults.model is None:
        click.echo(
            f"note: {counted(totals.modelless, 'prompt')} without a model will fail as invalid: pass --model, "
            "or set defaults.model before the daemon runs",
            err=True,
        )


def _tell(totals: Totals, files: int, *, as_json: bool) -> None:
    if as_json:
        facts = {"enqueued": totals.enqueued, "skipped": totals.skipped, "bad_lines": totals.bad_lines, "files": files}
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"{counted(totals.enqueued, 'prompt')} enqueued, {totals.skipped} skipped as duplicates, "
        f"{counted(totals.bad_lines, 'bad line')}, from {counted(files, 'file')}"
    )
