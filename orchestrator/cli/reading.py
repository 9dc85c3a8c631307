"""Files of prompts as `enqueue` and `validate` read them, and what the user sees meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from orchestrator.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from rich.progress import Progress, TaskID

    from orchestrator.config import Config
    from orchestrator.intake.formats import Entry
    from orchestrator.intake.template import Template

STDIN = "-"
MISTAKES_SHOWN = 20
QUIET_SECONDS = 1.0


def parsed_template(text: str | None, *, plain: bool) -> Template | None:
    from orchestrator.intake.template import parse_template  # noqa: PLC0415

    if text is None:
        return None
    try:
        template = parse_template(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--template'") from None
    if plain and set(template.fields) != {"line"}:
        raise click.BadParameter("with --lines its one field is {line}", param_hint="'--template'")
    return template


def check_known(fixed: Mapping[str, Any], config: Config) -> None:
    """An option that no prompt could be sent with is refused before anything is read."""
    providers = config.providers.values()
    known = {
        "provider": set(config.providers),
        "completion_window": {window for provider in providers for window in provider.completion_windows},
        "endpoint": {endpoint for provider in providers for endpoint in provider.endpoints},
    }
    for column, values in known.items():
        if column in fixed and fixed[column] not in values:
            option = "--window" if column == "completion_window" else f"--{column}"
            raise ConfigError(f"{option} {fixed[column]!r} is offered by no provider: use {', '.join(sorted(values))}")


def reader(
    name: str, *, plain: bool, as_csv: bool, template: Template | None
) -> Callable[[BinaryIO, str], Iterator[Entry]]:
    from orchestrator.intake import formats  # noqa: PLC0415

    if plain:
        read = formats.read_text
    elif as_csv or name.lower().endswith(".csv"):
        read = formats.read_csv
    else:
        read = formats.read_jsonl
    return partial(read, template=template)


def read_all(
    files: Iterable[str], reader: Callable[[str], Callable[[BinaryIO, str], Iterator[Entry]]]
) -> Iterator[Entry]:
    for name in files:
        shown = "stdin" if name == STDIN else click.format_filename(name)
        try:
            with _opened(name) as file:
                yield from reader(name)(file, shown)
        except OSError as error:
            raise InputError(f"{shown}: cannot be read: {error.strerror or error}") from error


def _opened(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if name == STDIN else Path(name).open("rb")


def path_of(name: str) -> bytes:
    """What a file is known by in a later run; standard input and pipes are all one."""
    return os.fsencode(os.path.realpath(name)) if is_file(name) else STDIN.encode()


def is_file(name: str) -> bool:
    return name != STDIN and Path(name).is_file()


def size_of(files: Iterable[str]) -> int | None:
    """Bytes to read in all; None where that cannot be known."""
    names = list(files)
    return sum(Path(name).stat().st_size for name in names) if all(map(is_file, names)) else None


class Report:
    """What the user sees while it runs: mistakes at once, up to a number; a bar when it takes long on a terminal."""

    def __init__(self, total_bytes: int | None, most: int | None = MISTAKES_SHOWN) -> None:
        self._total_bytes = total_bytes
        self._most = most
        self._started = time.monotonic()
        self._told = 0
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def tell(self, nbytes: int, prompts: int, mistakes: Iterable[tuple[str, str]]) -> None:
        """Show where it stands, and what is wrong by line."""
        for where, mistake in mistakes:
            self._say(f"{where}: {mistake}")
        if self._bar is None and sys.stderr.isatty() and time.monotonic() - self._started > QUIET_SECONDS:
            self._bar = _new_bar(self._total_bytes)
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=nbytes, prompts=prompts)

    def close(self) -> None:
        if self._most is not None and self._told > self._most:
            click.echo(f"… and {self._told - self._most} more bad lines", err=True)

    def _say(self, line: str) -> None:
        self._told += 1
        if self._most is not None and self._told > self._most:
            return
        if self._bar is None:
            click.echo(line, err=True)
        else:
            self._bar[0].console.print(line, markup=False, highlight=False, soft_wrap=True)


def _new_bar(total_bytes: int | None) -> tuple[Progress, TaskID]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(compact=True))
    counted = TextColumn("{task.fields[prompts]} prompts")
    progress = Progress(
        *(columns if total_bytes else columns[:1]), counted, console=Console(stderr=True), transient=True
    )
    task = progress.add_task("", total=total_bytes, prompts=0)
    progress.start()
    return progress, task


def counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
