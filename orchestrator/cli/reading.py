"""Files of prompts as `enqueue` and `validate` read them, and what the user sees meanwhile."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import click

from orchestrator.cli.screen import Bar
from orchestrator.errors import ConfigError, InputError

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from orchestrator.config import Config
    from orchestrator.intake.formats import Entry
    from orchestrator.intake.template import Template

STDIN = "-"
MISTAKES_SHOWN = 20


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
    files: Iterable[str], reader: Callable[[str], Callable[[BinaryIO, str], Iterator[Entry]]], command: str
) -> Iterator[Entry]:
    """What stands in the files; one that is no text is one bad line, whose remedy is about this command."""
    for name in files:
        try:
            with _opened(name) as file:
                yield from _read(name, file, reader(name), command)
        except OSError as error:
            raise InputError(f"{shown_name(name)}: cannot be read: {error.strerror or error}") from error


def _read(
    name: str, file: io.BufferedIOBase, read: Callable[[BinaryIO, str], Iterator[Entry]], command: str
) -> Iterator[Entry]:
    from orchestrator.intake.formats import Entry  # noqa: PLC0415
    from orchestrator.intake.heads import compression_of, no_text, peeked  # noqa: PLC0415

    head, whole = peeked(file)
    compression = compression_of(head)
    mistake = no_text(head) if compression is None else _packed(name, *compression, command)
    if mistake is None:
        yield from read(whole, shown_name(name))
    else:
        yield Entry(shown_name(name), 0, None, mistake, 0)


def _packed(name: str, kind: str, unpack: str, command: str) -> str:
    if not is_file(name):
        return f"is compressed with {kind}: unpack it with `{unpack}` first"
    option = " --csv" if Path(name).stem.lower().endswith(".csv") else ""
    pipe = f"{unpack} < {shlex.quote(shown_name(name))} | orchestrator {command}{option} -"
    return f"is compressed with {kind}: run `{pipe}` with the same options"


def shown_name(name: str) -> str:
    return "stdin" if name == STDIN else click.format_filename(name)


def _opened(name: str) -> contextlib.AbstractContextManager[io.BufferedIOBase]:
    if name == STDIN:
        return contextlib.nullcontext(cast("io.BufferedIOBase", sys.stdin.buffer))
    return Path(name).open("rb")


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
        self._bar = Bar("prompts", total_bytes)
        self._most = most
        self._told = 0

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)

    def tell(self, nbytes: int, prompts: int, mistakes: Iterable[tuple[str, str]]) -> None:
        """Show where it stands, and what is wrong by line."""
        for where, mistake in mistakes:
            self._told += 1
            if self._most is None or self._told <= self._most:
                self._bar.print(f"{where}: {mistake}")
        self._bar.show(nbytes, prompts)

    def close(self) -> None:
        if self._most is not None and self._told > self._most:
            click.echo(f"… and {self._told - self._most} more bad lines", err=True)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
