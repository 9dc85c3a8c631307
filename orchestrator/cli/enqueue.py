"""`enqueue`: prompts from files, standard input or the command line into the table."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import click

from orchestrator.cli.options import TEXT, as_json
from orchestrator.cli.reading import (
    Report,
    check_known,
    counted,
    is_file,
    parsed_template,
    path_of,
    read_all,
    reader,
    shown_name,
    size_of,
)
from orchestrator.cli.screen import say_json
from orchestrator.core.telling import harmless
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from orchestrator.config import Config, Loaded
    from orchestrator.intake.formats import Entry
    from orchestrator.intake.naming import Mark
    from orchestrator.intake.storing import Plan, Totals
    from orchestrator.store.database import Database

    Reader = Callable[[str], Callable[[BinaryIO, str], Iterator[Entry]]]

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
a body. A prompt without custom_id gets one made up, which names its line: e-FILE-RUN-LINE-CONTENT.

Good lines go in even if others are bad: each bad line is told as FILE:LINE, and the exit code is 1. A file that is no
text in UTF-8, such as a compressed one or a workbook, is told as FILE, and nothing of it goes in. Put corrected lines
into a file of their own.

Every 1,000 prompts are stored for good. Whatever breaks it off, even a power cut, the same command with --resume
stores what is missing and nothing twice, with or without custom_ids. A file is known by its path; what was stored of
it must stand there unchanged, which is checked, and more lines may follow. Without --resume, a file goes in as often
as it is enqueued.
"""
EPILOG = """\b
--json prints one object:
  enqueued   prompts stored
  skipped    prompts passed over: stored before, or their custom_id is taken
  bad_lines  lines that are no prompt, told on stderr
  files      how many were named
"""
PRIORITY = click.IntRange(-(2**63), 2**63 - 1)


@click.command("enqueue", help=HELP, epilog=EPILOG, short_help="Put prompts into the queue.")
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
@click.option("--resume", is_flag=True, help="Go on where the last run broke off; pass over what is stored.")
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
    resume: bool,
    as_json: bool,
    **columns: Any,  # noqa: ANN401 - the columns that options set
) -> int:
    from orchestrator.cli.opening import with_database  # noqa: PLC0415
    from orchestrator.intake.storing import Plan  # noqa: PLC0415

    _check_sources(files, prompt, about_files=plain or as_csv or resume or template is not None)
    if plain and as_csv:
        raise click.UsageError("a file is either --lines or --csv: leave one out")
    filled = parsed_template(template, plain=plain)
    columns["completion_window"] = columns.pop("window")
    fixed = {name: value for name, value in columns.items() if value is not None}
    plan = Plan(fixed, skip=resume or on_conflict == "skip")
    if prompt is not None:
        find = partial(_entry_of, prompt=prompt)
    else:
        read = partial(reader, plain=plain, as_csv=as_csv, template=filled)
        find = partial(_entries_of, files=files, read=read, resume=resume)
    report = Report(size_of(files))
    totals, config = with_database(config_path, partial(_store, find=find, plan=plan, report=report), create=True)
    report.close()
    _warn_without_model(totals, columns["model"], config)
    _warn_of_repetition(totals)
    _tell(totals, len(set(files)), as_json=as_json)
    return BAD_LINES if totals.bad_lines else 0


async def _store(
    database: Database,
    loaded: Loaded,
    find: Callable[[Database], Awaitable[Iterator[Entry]]],
    plan: Plan,
    report: Report,
) -> tuple[Totals, Config]:
    from orchestrator.intake.storing import chunks, store  # noqa: PLC0415
    from orchestrator.store.home import require_here  # noqa: PLC0415

    await database.read(require_here)
    check_known(plan.fixed, loaded.config)
    entries = await find(database)
    with Interruption() as interruption, report:
        totals = await store(database, interruption.guarded(chunks(entries)), plan, partial(_report, report))
    return totals, loaded.config


# ---------------------------------------------------------------- what was asked


def _check_sources(files: Sequence[str], prompt: str | None, *, about_files: bool) -> None:
    if bool(files) == (prompt is not None):
        raise click.UsageError("give either files (- for standard input) or --prompt TEXT")
    if prompt is not None and about_files:
        raise click.UsageError(
            "--lines, --csv, --template and --resume are about files: leave them out beside --prompt"
        )


# ---------------------------------------------------------------- reading


async def _entry_of(_database: Database, prompt: str) -> Iterator[Entry]:
    from orchestrator.intake.formats import Entry  # noqa: PLC0415
    from orchestrator.intake.rows import Row  # noqa: PLC0415

    return iter([Entry("--prompt", 1, Row(prompt=prompt), "", len(prompt))])


async def _entries_of(database: Database, files: Sequence[str], read: Reader, *, resume: bool) -> Iterator[Entry]:
    """What stands in the files, every row with a custom_id: that of the last run with `resume`, else of a new one."""
    marks = {name: await _last_mark(database, name) for name in dict.fromkeys(files)}
    for name, mark in marks.items():
        _note_last_run(name, mark, resume=resume)
    return read_all(files, partial(_naming, read=read, marks=marks if resume else {}), "enqueue")


async def _last_mark(database: Database, name: str) -> Mark | None:
    from orchestrator.intake.naming import mark_of, names_between, source_of  # noqa: PLC0415
    from orchestrator.store.intake import greatest_custom_id  # noqa: PLC0415

    low, high = names_between(source_of(path_of(name)))
    return mark_of(await database.read(partial(greatest_custom_id, low=low, high=high)))


def _naming(name: str, read: Reader, marks: Mapping[str, Mark | None]) -> Callable[[BinaryIO, str], Iterator[Entry]]:
    import secrets  # noqa: PLC0415

    from orchestrator.intake.naming import named, new_run, source_of  # noqa: PLC0415

    mark = marks.get(name)
    run = mark.run if mark else new_run(time.time_ns() // 1_000_000, secrets.randbits(16))
    source = source_of(path_of(name))
    return lambda file, shown: named(read(name)(file, shown), source, run, mark)


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


def _note_last_run(name: str, mark: Mark | None, *, resume: bool) -> None:
    """What is known of an earlier run, before anything goes in."""
    if resume and mark is not None:
        note = f"goes on after line {mark.line}"
    elif resume and is_file(name):
        note = "no earlier run is known by this path; only a custom_id tells that its prompt is stored"
    elif mark is not None and is_file(name):
        began = datetime.fromtimestamp(mark.began_at_ms / 1000, UTC)
        note = (
            f"was enqueued before, up to line {mark.line} ({began:%Y-%m-%d %H:%M} UTC), and now is once more; "
            "--resume passes over what is stored"
        )
    else:
        return
    click.echo(harmless(f"note: {shown_name(name)}: {note}"), err=True)


def _report(report: Report, totals: Totals, mistakes: Iterable[tuple[str, str]]) -> None:
    report.tell(totals.nbytes, totals.enqueued, mistakes)


def _warn_without_model(totals: Totals, model: str | None, config: Config) -> None:
    if totals.modelless and model is None and config.defaults.model is None:
        click.echo(
            f"note: {counted(totals.modelless, 'prompt')} without a model will fail as invalid: pass --model, "
            "or set defaults.model before the daemon runs",
            err=True,
        )


def _warn_of_repetition(totals: Totals) -> None:
    if totals.bad_lines and (totals.enqueued or totals.skipped):
        click.echo(
            "note: the good lines are stored: put the corrected ones into a file of their own, "
            "or the good ones are stored and paid twice",
            err=True,
        )


def _tell(totals: Totals, files: int, *, as_json: bool) -> None:
    if as_json:
        facts = {"enqueued": totals.enqueued, "skipped": totals.skipped, "bad_lines": totals.bad_lines, "files": files}
        say_json(facts)
        return
    click.echo(
        f"{counted(totals.enqueued, 'prompt')} enqueued, {totals.skipped} skipped as duplicates, "
        f"{counted(totals.bad_lines, 'bad line')}, from {counted(files, 'file')}"
    )
