"""Writes the documents that are drawn from the code: `make docs`. A test fails when one of them is stale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.core.states import BATCH_ENDS, BATCH_MOVES, PROMPT_ENDS, PROMPT_MOVES, Move
from orchestrator.telemetry import EVENTS

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
    return LOGS.format(table="\n".join([*head, *rows]))


def states() -> str:
    """Both move tables as diagrams."""
    return STATES.format(prompts=_diagram(PROMPT_MOVES, PROMPT_ENDS), batches=_diagram(BATCH_MOVES, BATCH_ENDS))


def documents() -> dict[Path, str]:
    return {HERE / "logs.md": logs(), HERE / "states.md": states()}


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
life. This page is made from the code (`make docs`).

{table}
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

if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
