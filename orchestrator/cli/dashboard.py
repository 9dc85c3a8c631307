"""The status as one screen of a terminal: what needs somebody, the flow, what ended of late, batches, faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.status import by_size, label
from orchestrator.cli.tables import shortened
from orchestrator.core.telling import duration, harmless, left_of_window, seconds_ago, shown_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    Status = Mapping[str, Any]

BLOCKS = " ▁▂▃▄▅▆▇█"
BAR_CELLS = 12
STATUS_CHARACTERS = 12
NEEDS_SHOWN = 3
LINES_OF_HEAD, LINES_OF_NEED, LINES_BESIDE_ROWS = 10, 2, 2
"""From the name to the throughput; what is wrong and what to do; a blank line and the columns' names of a table."""
STYLES = {"error": "bold red", "warning": "bold yellow"}


def screenful(status: Status, height: int) -> Group:
    """Everything on one screen of this height: the tables share the lines that are left, the last gives way."""
    needs = status["attention"][:NEEDS_SHOWN]
    parts: list[RenderableType] = [_head(status), *_needs(status, needs), Text(), _flow(status["flow"]), Text()]
    parts += _throughput(status)
    left = height - LINES_OF_HEAD - LINES_OF_NEED * len(needs)
    tables = [table for table in (_batches, _faults, _tags) if table(status, 1).row_count]
    while tables and left < len(tables) * (LINES_BESIDE_ROWS + 1):
        tables.pop()
    for at, table in enumerate(tables):
        drawn = table(status, left // (len(tables) - at) - LINES_BESIDE_ROWS)
        left -= drawn.row_count + LINES_BESIDE_ROWS
        parts += [Text(), drawn]
    return Group(*parts)


def _head(status: Status) -> Table:
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    head.add_column(no_wrap=True)
    head.add_row(_text(status["database"], "bold"), Text(f"{status['at']}  Ctrl-C ends", style="dim"))
    return head


def _needs(status: Status, needs: Sequence[Mapping[str, str]]) -> list[RenderableType]:
    if not needs:
        return [Text("all is well, nothing needs you", style="green")]
    shown: list[RenderableType] = []
    for need in needs:
        shown += [_text(f"! {need['what']}", STYLES[need["level"]]), _text(f"  → {need['todo']}")]
    more = len(status["attention"]) - len(needs)
    return [*shown, Text(f"  and {more} more: orchestrator status", style="dim")] if more else shown


def _flow(flow: Mapping[str, Any]) -> Table:
    """Three lines: the boxes' names, what is in them now, what went along each arrow in the last hour."""
    queued = flow["new"] + flow["ready"] + flow["waiting"]
    hour = {name: f"{count:,}/h" for name, count in flow["last_hour"].items()}
    table = Table.grid(expand=True)
    for _ in range(9):
        table.add_column(justify="center", no_wrap=True)
    names = ("queued", "", "packed", "", "at the provider", "", "done", "failed", "cancelled")
    now = (f"{queued:,}", "──▶", f"{flow['packed']:,}", "──▶", f"{flow['running']:,}", "──▶", f"{flow['done']:,}")
    waiting = f"{flow['waiting']:,} waiting" if flow["waiting"] else ""
    back = f"{hour['resent']} sent back" if flow["last_hour"]["resent"] else ""
    table.add_row(*names, style="dim")
    table.add_row(*now, f"{flow['failed']:,}", f"{flow['cancelled']:,}", style="bold")
    table.add_row(waiting, hour["packed"], "", hour["submitted"], back, "", hour["done"], hour["failed"], style="dim")
    return table


def _throughput(status: Status) -> list[RenderableType]:
    steps = status["throughput"]
    told = "; ".join(
        f"{window.replace('_', ' ')}: {ended['done']} done, {ended['failed']} failed"
        for window, ended in status["rates"].items()
    )
    hours = steps["step_seconds"] * len(steps["done"]) // 3600
    return [_text(f"ended in the {told}"), Text(f"{hours}h {sparks(steps['done'])} now", style="green", no_wrap=True)]


def sparks(counts: Sequence[int]) -> str:
    """A bar for each count; anything above zero is seen."""
    most = max(counts, default=0)
    return "".join(BLOCKS[0 if not count else max(1, round(8 * count / most))] for count in counts)


def _tags(status: Status, most: int) -> Table:
    tags = [counts for counts in by_size(status["tags"]) if len(status["tags"]) > 1 or counts["tag"] is not None]
    table = _table(_named("tags", tags, most), *status["prompts"])
    for counts in tags[:most]:
        table.add_row(_text(label(counts["tag"])), *(f"{counts[name]}" for name in status["prompts"]))
    if any(status["other_tags"].values()):
        table.add_row("(other tags)", *(f"{count}" for count in status["other_tags"].values()))
    return table


def _batches(status: Status, most: int) -> Table:
    table = _table(_named("batches", status["batches"], most), "status", "received", "", "age", "window")
    for batch in status["batches"][:most]:
        name = f"{batch['id']} {batch['provider']} {batch['model'] or ''}".rstrip()
        received = f"{batch['lines_received']}/{batch['lines']}"
        bar = ProgressBar(max(1, batch["lines"]), batch["lines_received"], width=BAR_CELLS)
        ages = (duration(batch["age_seconds"]), left_of_window(batch, status["at"]))
        table.add_row(_text(name), _text(shortened(shown_status(batch), STATUS_CHARACTERS)), received, bar, *ages)
    return table


def _faults(status: Status, most: int) -> Table:
    table = _table(_named("faults", status["faults"], most), "times", "ago", "the last one")
    for fault in status["faults"][:most]:
        name = " ".join(str(part) for part in (fault["fault"], fault["status_code"]) if part is not None)
        ago = duration(seconds_ago(fault["last_at"], status["at"]))
        example = (
            f"{fault['custom_id'] or 'a deleted prompt'}: {fault['message'] or fault['error_code'] or 'no message'}"
        )
        table.add_row(_text(name), str(fault["attempts"]), ago, _text(example))
    return table


def _named(what: str, rows: Sequence[object], most: int) -> str:
    return what if len(rows) <= most else f"{what} ({most} of {len(rows)})"


def _table(first: str, *others: str) -> Table:
    """Columns of numbers keep their width; the first shrinks, and the last where it holds words."""
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold cyan")
    table.add_column(first, no_wrap=True, overflow="ellipsis", ratio=1)
    for name in others:
        wide = name == "the last one"
        numbers = name not in {"status", "", "window", "the last one"}
        table.add_column(
            name, no_wrap=True, overflow="ellipsis", ratio=3 if wide else None, justify="right" if numbers else "left"
        )
    return table


def _text(words: str, style: str = "") -> Text:
    return Text(harmless(words), style=style, no_wrap=True, overflow="ellipsis")
