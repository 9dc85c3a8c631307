"""`sandbox`: the fake provider, for rehearsals."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import TEXT
from orchestrator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.sandbox import Options

HELP = """Serve a fake batch API: no key, no network, no bill.

Answers are deterministic. Each line may ask for a failure of its own by the end of its model's name, such as
`sandbox-fail-once` or `some-model+sandbox-rate-limited-3`; --line-fault shares failures out over all lines, and --fault
switches failures of the API itself on:

\b
--fault create-lost-reply:times=1
--fault status-503:route=retrieve:rate=0.2
--fault F11
--line-fault fail-once=0.1

A fault takes its own settings and route=ROUTE, times=N, rate=SHARE, after=N; --list-faults shows all.
"""
SWITCHES = "route=, times=, rate=, after="
DIALECTS = ("doubleword", "openai")


@click.command("sandbox", help=HELP, short_help="Serve a fake batch API for rehearsals.")
@click.option("--host", type=TEXT, default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--dialect", type=click.Choice(DIALECTS), default="doubleword", show_default=True, help="Whose API.")
@click.option("--api-key", type=TEXT, help="The only key accepted; any is without it.")
@click.option("--latency", "latency_seconds", type=click.FloatRange(min=0), help="Seconds over which lines finish.")
@click.option("--validate", "validate_seconds", type=click.FloatRange(min=0), help="Seconds a batch is validating.")
@click.option("--order", type=click.Choice(["shuffled", "input", "reversed"]), help="Order in which lines finish.")
@click.option("--answer-bytes", type=click.IntRange(min=0), help="Pad answers to at least this many bytes.")
@click.option("--credit-lines", type=click.IntRange(min=0), help="Answers the account can pay for.")
@click.option("--model", "models", type=TEXT, multiple=True, help="A model it serves; all without it. Repeatable.")
@click.option("--fault", "faults", type=TEXT, multiple=True, metavar="NAME[:key=value]…", help="Repeatable.")
@click.option("--line-fault", "line_faults", type=TEXT, multiple=True, metavar="BEHAVIOUR=SHARE", help="Repeatable.")
@click.option("--seed", type=int, help="Make ids, order and every draw repeatable.")
@click.option("--list-faults", is_flag=True, help="Print all faults and behaviours, and stop.")
def command(*, list_faults: bool, models: tuple[str, ...], line_faults: tuple[str, ...], **given: Any) -> None:  # noqa: ANN401
    if list_faults:
        _print_faults()
        return
    given |= {"models": models or None, "line_faults": _shares(line_faults)}
    _serve({name: value for name, value in given.items() if value is not None})


def _serve(given: dict[str, Any]) -> None:
    import asyncio  # noqa: PLC0415

    from orchestrator.sandbox import Options, run  # noqa: PLC0415

    try:
        options = Options(**given)
        asyncio.run(run(options, lambda url: _announce(url, options)))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        where = f"{given['host']}:{given['port']}"
        reason = error.strerror or error
        raise InputError(f"cannot listen on {where}: {reason}: choose another --host or --port") from error


def _shares(texts: Iterable[str]) -> dict[str, float]:
    """Share by behaviour. Raises BadParameter for what is no BEHAVIOUR=SHARE."""
    shares = {}
    for text in texts:
        behaviour, _, share = text.rpartition("=")
        try:
            shares[behaviour or text] = float(share)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not BEHAVIOUR=SHARE, such as fail-once=0.1") from None
    return shares


def _announce(url: str, options: Options) -> None:
    provider = options.dialect.upper()
    lines = [
        f"the sandbox answers at {url} until Ctrl-C; in the shell of the daemon:",
        f"export ORCHESTRATOR_PROVIDERS__{provider}__BASE_URL={url}",
        f"export {provider}_API_KEY={options.api_key or 'anything'}",
    ]
    if options.dialect != DIALECTS[0]:
        lines.append(f"export ORCHESTRATOR_DEFAULTS__PROVIDER={options.dialect}")
    click.echo("\n".join(lines))


def _print_faults() -> None:
    from orchestrator.cli.tables import show_table  # noqa: PLC0415
    from orchestrator.sandbox.behaviours import EFFECTS  # noqa: PLC0415
    from orchestrator.sandbox.fault_table import F_NUMBERS, KINDS, STATUS  # noqa: PLC0415

    kinds = {**KINDS, "status-NNN": STATUS}
    rows = [
        [name, kind.summary, " ".join(f"{key}={value}" for key, value in kind.params.items()), kind.route]
        for name, kind in kinds.items()
    ]
    show_table(f"--fault NAME; each also takes {SWITCHES}", ["name", "what happens", "settings", "route"], rows)
    numbered = [[number, "  ".join(forms)] for number, forms in F_NUMBERS.items()]
    show_table("--fault F<number>; the first form is what it stands for", ["number", "forms"], numbered)
    behaviours = f"--line-fault and model names; -once, -<n> or -always may follow: {', '.join(sorted(EFFECTS))}"
    click.echo(textwrap.fill(behaviours, 79, subsequent_indent="  ", break_on_hyphens=False))
