"""The command line. Commands are imported when they are called, so that `--help` stays quick."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator import __version__
from orchestrator.core.telling import harmless
from orchestrator.errors import OrchestratorError
from orchestrator.memory import collect_seldom, leave_alone

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = {
    "run": "run",
    "demo": "demo",
    "enqueue": "enqueue",
    "validate": "validate",
    "status": "status",
    "results": "results",
    "failures": "failures",
    "batches": "batches",
    "retry": "retry",
    "cancel": "cancel",
    "check": "check",
    "config": "settings",
    "migrate": "migrate",
    "backup": "backup",
    "copy": "moving",
    "sandbox": "sandbox",
}
"""Command name → module of this package that holds it as `command`."""
LONGEST_ERROR = 2000

EPILOG = """\b
Completion of commands and options, to be put into the shell's own file:
  bash  ~/.bashrc
        eval "$(_ORCHESTRATOR_COMPLETE=bash_source orchestrator)"
  zsh   ~/.zshrc
        eval "$(_ORCHESTRATOR_COMPLETE=zsh_source orchestrator)"
  fish  ~/.config/fish/config.fish
        _ORCHESTRATOR_COMPLETE=fish_source orchestrator | source
"""


class NobodyReadsError(Exception):
    """The other end of standard output was closed (`| head`): no failure, which click would make of it."""


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReadsError from error


class Commands(click.Group):
    def make_context(self, *words: Any, **more: Any) -> click.Context:  # noqa: ANN401 - as click has it
        with _translated():
            return super().make_context(*words, **more)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        with _translated():
            return super().invoke(ctx)

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"orchestrator.cli.{COMMANDS[name]}").command
        return found


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file (default: ./orchestrator.toml, then $ORCHESTRATOR_CONFIG, then built-in defaults).",
)
@click.version_option(__version__, prog_name="orchestrator")
@click.pass_context
def cli(context: click.Context, config_path: Path | None) -> None:
    """Drop prompts into a table; get them answered through a batch API at batch prices."""
    context.obj = config_path


def main() -> None:
    """Run the command line; errors a user can cause become one line on stderr and an exit code, never a traceback."""
    collect_seldom()
    _open_streams()
    try:
        code = cli.main(prog_name="orchestrator", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.exceptions.Abort:
        code = _said("interrupted", 1)
    except click.ClickException as error:
        code = _said(_told(error), 2 if isinstance(error, click.UsageError) else 1, error)
    except OrchestratorError as error:
        code = _said(str(error), error.exit_code)
    except NobodyReadsError:
        _silence_stdout()
        code = 0
    except OSError as error:
        _silence_stdout()
        code = _said(f"{error.filename or _where(error)}: {error.strerror or error}", 1)
    leave_alone()
    sys.exit(code if isinstance(code, int) else 0)


def _open_streams() -> None:
    """Those that the shell closed (`>&-`) lead nowhere."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


def _where(error: OSError) -> str:
    """What an error that names no file is about: the folder we are in, what we print to, or neither."""
    if isinstance(error, FileNotFoundError):
        return "the working folder"
    return "standard output" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) else "the system"


def _silence_stdout() -> None:
    from orchestrator.cli.screen import silence_stdout  # noqa: PLC0415

    silence_stdout()


def _told(error: click.ClickException) -> str:
    """What click says, but for the option that belongs to all commands and so stands before them."""
    if isinstance(error, click.NoSuchOption) and error.option_name in ("-c", "--config") and error.ctx is not None:
        program, _, name = error.ctx.command_path.partition(" ")
        return f"{name} takes no -c: write {program} -c FILE {name}"
    return error.format_message()


def _said(message: str, code: int, error: Any = None) -> int:  # noqa: ANN401
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    line = _shortened(harmless(" ".join(message.split())))
    click.echo(f"orchestrator: {line}{hint}", err=True)
    return code


def _shortened(line: str) -> str:
    """What is wrong stands at its beginning, the remedy at its end; a prompt given by mistake may stand between."""
    half = LONGEST_ERROR // 2
    return line if len(line) <= LONGEST_ERROR else f"{line[:half]} … {line[-half:]}"
