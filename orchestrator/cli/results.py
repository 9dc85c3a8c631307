"""`results`: what became of the prompts, streamed."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import TEXT
from orchestrator.cli.screen import Bar, Screen, silence_stdout
from orchestrator.core.model import PromptStatus
from orchestrator.core.telling import harmless
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from orchestrator.cli.export import Written
    from orchestrator.store.listing import Chosen

FORMATS = ("jsonl", "openai", "csv")
STATUSES = tuple(status.value for status in PromptStatus)


@click.command("results")
@click.option("--tag", type=TEXT, help="Only prompts with this tag.")
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these; may be repeated.")
@click.option("--follow", is_flag=True, help="Print each as it ends, those that have ended first, until Ctrl-C.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="See above.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to FILE, not stdout.")
@click.pass_obj
def command(
    config_path: Path | None,
    /,
    *,
    tag: str | None,
    statuses: tuple[str, ...],
    follow: bool,
    form: str,
    as_json: bool,
    output: Path | None,
) -> None:
    """Print what became of the prompts, in their order.

    Prompts of any status are there, unless --status chooses.

    \b
    jsonl   one object per prompt with every column of the view results:
            id custom_id tag status answer response finish_reason status_code
            fault error_code error_message attempts model prompt_tokens
            completion_tokens batch_id created_at finished_at metadata;
            response and metadata are embedded as JSON
    openai  lines as a provider's output file has them for prompts that are
            done, as its error file has them for failed ones; with -o FILE the
            latter go to FILE-errors.jsonl; others are left out
    csv     the same columns, under a header

    A FILE appears under its name when it is complete.

    With --follow, prompts come in the order in which they end: done, failed or cancelled. One that is retried comes
    again when it ends again. Redirect standard output to keep them in a file.
    """  # noqa: D301 - click reads the escape
    from orchestrator.cli.export import export  # noqa: PLC0415
    from orchestrator.cli.opening import require_elsewhere, with_database  # noqa: PLC0415
    from orchestrator.config import load  # noqa: PLC0415
    from orchestrator.store.listing import Chosen  # noqa: PLC0415

    chosen, counts = Chosen(tag, statuses), [0, 0]
    form = "jsonl" if as_json else form
    if follow:
        _check_follow(statuses, form, output)
        _follow(config_path, chosen, form)
        return
    if output is not None:
        require_elsewhere(output, load(config_path, os.environ).config)
    try:
        with _opened(output, form) as files, _bar(output) as bar:
            with_database(config_path, partial(export, chosen=chosen, form=form, files=files, counts=counts, bar=bar))
            for file in files:
                file.flush()
    except BrokenPipeError:
        silence_stdout()
    except OSError as error:
        raise InputError(f"{output or 'standard output'}: cannot be written: {error.strerror or error}") from error
    if output is not None:
        _tell(output, form, counts)


def _check_follow(statuses: Sequence[str], form: str, output: Path | None) -> None:
    if output is not None:
        raise click.UsageError("--follow writes to standard output: redirect it (> FILE) instead of -o")
    if form == "openai":
        raise click.UsageError("--follow prints jsonl or csv: leave out --format openai")
    if waiting := {"queued", "batched"} & set(statuses):
        raise click.UsageError(f"--follow prints prompts that end: leave out --status {', '.join(sorted(waiting))}")


def _follow(config_path: Path | None, chosen: Chosen, form: str) -> None:
    counts = [0]
    try:
        from orchestrator.cli.follow import follow  # noqa: PLC0415
        from orchestrator.cli.opening import with_database  # noqa: PLC0415

        with_database(config_path, partial(follow, chosen=chosen, form=form, file=_stdout(), counts=counts))
    except KeyboardInterrupt:
        click.echo(f"stopped: {counts[0]} results printed", err=True)
    except BrokenPipeError:
        silence_stdout()
    except OSError as error:
        raise InputError(f"standard output: cannot be written: {error.strerror or error}") from error


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def _opened(output: Path | None, form: str) -> Iterator[tuple[Written, Written]]:
    """Where lines go: the first takes all but the errors of `openai`, which go to the second."""
    if output is None:
        yield _stdout(), _stdout()
        return
    with contextlib.ExitStack() as stack:
        main = stack.enter_context(_appearing(output))
        yield main, stack.enter_context(_appearing(errors_path(output))) if form == "openai" else main


def _stdout() -> Written:
    return Screen() if sys.stdout.isatty() else sys.stdout.buffer


def _bar(output: Path | None) -> Bar:
    """Progress, where lines do not go to the terminal themselves."""
    return Bar("results", wanted=output is not None or not sys.stdout.isatty())


def errors_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}-errors.jsonl")


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is complete; pipes and devices are written as they are."""
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _tell(output: Path, form: str, counts: Sequence[int]) -> None:
    line = f"{counts[0]} results written to {output}"
    if form == "openai":
        line += f", {counts[1]} errors to {errors_path(output)}"
    click.echo(harmless(line), err=True)
