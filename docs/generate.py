"""Writes the documents that are drawn from the code: `make docs`. A test fails when one of them is stale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import COMMANDS, cli
from orchestrator.config.example import written
from orchestrator.config.fields import fields_of
from orchestrator.config.tables import Config, tables_of
from orchestrator.core.states import BATCH_ENDS, BATCH_MOVES, PROMPT_ENDS, PROMPT_MOVES, Move
from orchestrator.telemetry import EVENTS
from orchestrator.web.catalogue import METRICS

if TYPE_CHECKING:
    from enum import StrEnum

HERE = Path(__file__).parent


def logs() -> str:
    """The log's vocabulary as a table, one row per event."""
    rows = [
        f"| `{name}` | {event.level} | {event.meaning} | {_fields(event.fields)} | {event.todo or '—'} |"
        for name, event in EVENTS.items()
    ]
    head = ["| event | level | what it means | fields | what to do |", "|---|---|---|---|---|"]
    return LOGS.format(table="\n".join([*head, *rows]), day=(HERE / "day.log").read_text())


def metrics() -> str:
    """Every metric with its labels."""
    rows = [
        f"| `{name}` | {metric.kind} | {_fields(', '.join(metric.labels)) if metric.labels else '—'} | {metric.help} |"
        for name, metric in METRICS.items()
    ]
    return METRIC_PAGE.format(table="\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]))


def states() -> str:
    """Both move tables as diagrams."""
    return STATES.format(prompts=_diagram(PROMPT_MOVES, PROMPT_ENDS), batches=_diagram(BATCH_MOVES, BATCH_ENDS))


def settings() -> str:
    """Every setting with its range, default and reason."""
    parts = []
    for title, table in tables_of(Config()):
        rows = [
            f"| `{name}` | {field.expectation()} | `{written(getattr(table, name))}` | {field.meta.description} |"
            for name, field in fields_of(type(table)).items()
        ]
        parts.append("\n".join([f"## [{title}]\n", "| key | value | default | why |", "|---|---|---|---|", *rows]))
    return SETTINGS.format(tables="\n\n".join(parts))


def commands() -> str:
    """What each command's `--help` says, at 80 columns."""
    parts = [f"## orchestrator\n\n```\n{_help(cli, 'orchestrator')}\n```"]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None  # noqa: S101
        parts.append(f"## orchestrator {name}\n\n```\n{_help(command, f'orchestrator {name}')}\n```")
    return COMMAND_PAGE.format(commands="\n\n".join(parts))


def _help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, terminal_width=80, help_option_names=["-h", "--help"])
    return command.get_help(context)


def documents() -> dict[Path, str]:
    made = {
        "logs.md": logs(),
        "metrics.md": metrics(),
        "states.md": states(),
        "settings.md": settings(),
        "commands.md": commands(),
    }
    return {HERE / name: text for name, text in made.items()}


def _fields(fields: str) -> str:
    return ", ".join(f"`{name.strip()}`" for name in fields.split(","))


def _diagram(moves: tuple[Move, ...], ends: tuple[StrEnum, ...]) -> str:
    edges: dict[tuple[str, str], list[str]] = {}
    for move in moves:
        edges.setdefault((move.before, move.after), []).append(move.by)
    lines = [f"    [*] --> {moves[0].before}"]
    lines += [f"    {before} --> {after}: {', '.join(by)}" for (before, after), by in edges.items()]
    lines += [f"    {end} --> [*]" for end in ends]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


LOGS = """\
# The log

The daemon writes structured lines to stderr: JSON when stderr is not a terminal, readable text when it is
(`log.format`). Each line has `timestamp` (UTC), `level`, `event` and the fields below; a field that has no value is
left out. No prompt text, no answer and no key is ever written, at any level. Filter by `batch` to follow one batch's
life. A warning or an error carries `todo`: what to do about it. This page is made from the code (`make docs`).

What repeats is folded: a failure in a row is told at its 1st, 2nd, 4th, 8th … time with the count (`tries`), one that
stops every stage (a full disk) once for all of them, and progress at each further tenth of a batch. While a provider
fails for many batches, one of them speaks for all, for ten minutes after its last line; `others` counts the lines that
were left out so.

{table}

## A day

Read it so: the heartbeats say whether work goes on (`done`, `failed` since the last one) and what is not well just now
(`failing_batches`, `paused`); `grep -v info` shows what went wrong; the line of a batch that is over (`settle.settled`)
says what became of it. On this day four things needed somebody: six rows that were no JSON (05:12), a full disk
(11:18), an account without credit (14:07), and eight prompts that the provider's content filter refused, one by one
(`settle.gave_up`). The rate limits at 03:04, the broken connections from 07:31 and the batch that the provider ended
half done (09:35) mended themselves; the restart at 17:00 cost nothing. At 08:00, one batch was still failing; at 09:00,
none was.

It comes from a run of the daemon against the sandbox under the clock of the simulator: `.venv/bin/python
tests/simulation/day.py` lives through it again in some minutes. Each batch is looked at every five minutes only and the
heartbeat is hourly, so that the day fits here; `daemon.config` shows the rest. Of more than seventy batches the first
one is shown with its whole life, those in trouble with the provider without their progress, and of the others what
needs somebody; keys and `todo` are left out, and times are those of the simulated day.

```
{day}```
"""

METRIC_PAGE = """\
# Metrics

Drawn from the code (`make docs`). With `web.listen` set, the daemon serves them at `/metrics` in the format of
Prometheus; [operations.md](operations.md#over-http) says how to reach it. `deploy/` has alert rules and a dashboard.

- Counters and histograms begin at 0 with each start of the daemon, as Prometheus expects.
- Levels of the queue are read from the database at the scrape, and remembered for five seconds, or for twenty times as
  long as they took. They cost what is still to do, never the length of the history: a fifth of a second for a million
  queued prompts. Of what has ended only the sum is known at that price; `orchestrator status` has the parts.
- No label holds an id, a tag, a model or a text of users or providers. The number of series does not grow with work.

{table}

Of the process, by the conventions of Prometheus: `process_resident_memory_bytes`, `process_virtual_memory_bytes`,
`process_cpu_seconds_total`, `process_open_fds`, `process_max_fds` and `process_start_time_seconds`, on Linux.
"""

STATES = """\
# States

Drawn from the move tables in `orchestrator/core/states.py` (`make docs`). The label of an edge is who makes the move;
`user` is plain SQL or `orchestrator retry`. The table `prompt_states` refuses any other move.

## A prompt

{prompts}

## A batch

The intent is committed before each call that may cost money (`uploading`, `creating`), the fact after it. What the
provider calls its status is stored beside, as `remote_status`.

{batches}
"""

SETTINGS = """\
# Settings

Drawn from the code (`make docs`). Settings stand in `orchestrator.toml` (or the file named by `--config` or
`$ORCHESTRATOR_CONFIG`); each can be set by a variable `ORCHESTRATOR_<TABLE>__<KEY>`, such as
`ORCHESTRATOR_POLLING__MIN_SECONDS=20` or `ORCHESTRATOR_PROVIDERS__DOUBLEWORD__BASE_URL=...`. `orchestrator config`
shows what is in force and where it came from. API keys never stand in the file: a provider names the variable or file
that holds its key.

{tables}
"""

COMMAND_PAGE = """\
# Commands

Drawn from the code (`make docs`). Exit codes: 0 well; 1 the job failed; 2 wrong usage or settings; 3
`run --until-idle` ended with failed prompts. Errors are one line on stderr.

{commands}
"""

if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
