"""`cancel`: prompts that are not wanted any more, and the truth about those that were sent."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Unpack

import click

from orchestrator.cli.options import as_json
from orchestrator.cli.screen import say_json
from orchestrator.cli.selecting import Selectors, selection_of, selectors
from orchestrator.core.model import PromptStatus

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.config import Loaded
    from orchestrator.store.database import Database
    from orchestrator.store.requeue import Selection

UNENDED = (PromptStatus.QUEUED, PromptStatus.BATCHED)
EPILOG = """\b
--json prints one object:
  cancelled     prompts that ended now: they were not at the provider
  being_cancelled  sent prompts whose whole batch is cancelled at the
                provider by the running daemon
  batches       the ids of those batches
  not_recalled  sent prompts that share a batch with others: it runs on
                until those are answered
  unknown       the custom_ids named that no prompt has; the exit code is 1
                when there is one
"""


@dataclass(frozen=True, slots=True)
class Report:
    cancelled: int
    being_cancelled: int
    batches: list[int]
    not_recalled: int
    unknown: list[str]


@click.command("cancel", epilog=EPILOG)
@selectors("Prompts last resent for this", "Every prompt that has not ended.")
@as_json
@click.pass_obj
def command(config_path: Path | None, /, *, as_json: bool, **selected: Unpack[Selectors]) -> int:
    """Cancel prompts that have not ended.

    Waiting prompts end at once. Sent ones cannot always be recalled: a batch is cancelled at the provider when nothing
    else is in it; otherwise it runs on until the others are answered, and these prompts are only not sent again.
    Answers that were made are kept, since they are paid for. Several selectors narrow each other.
    """
    from orchestrator.cli.opening import with_database  # noqa: PLC0415

    selection = selection_of(UNENDED, **selected)
    report = with_database(config_path, partial(_cancel, selection=selection), doing="cancelling prompts")
    _tell(report, as_json=as_json)
    return 1 if report.unknown else 0


async def _cancel(database: Database, _loaded: Loaded, selection: Selection) -> Report:
    from orchestrator.cli.opening import telling_how_far  # noqa: PLC0415
    from orchestrator.store.cancel import cancel, count_in, request_cancels  # noqa: PLC0415
    from orchestrator.store.home import require_here  # noqa: PLC0415
    from orchestrator.store.requeue import list_selected, statuses_of  # noqa: PLC0415
    from orchestrator.store.windows import FIRST_ID  # noqa: PLC0415

    await database.read(require_here)
    found = await database.read(partial(statuses_of, custom_ids=selection.custom_ids)) if selection.custom_ids else {}
    unknown = [custom_id for custom_id in selection.custom_ids if custom_id not in found]
    at_once, sent, first = 0, 0, FIRST_ID
    batches: set[int] = set()
    with telling_how_far(lambda: f"{at_once} or more are cancelled, {sent} or more sent ones are not resent"):
        while page := await database.read(partial(list_selected, selection=selection, first_id=first)):
            done = await database.write(partial(cancel, prompt_ids=page, now_ms=int(time.time() * 1000)))
            at_once, sent, first = at_once + done.at_once, sent + done.sent, page[-1] + 1
            batches |= done.batches
        emptied = await database.write(partial(request_cancels, batch_ids=sorted(batches)))
    recalled = await database.read(partial(count_in, batch_ids=emptied))
    shared = batches - {*emptied}  # where there is none, what is fewer now was answered meanwhile
    return Report(at_once, recalled, emptied, max(0, sent - recalled) if shared else 0, unknown)


def _tell(report: Report, *, as_json: bool) -> None:
    from orchestrator.config.fields import shown  # noqa: PLC0415

    if as_json:
        say_json(asdict(report))
        return
    for custom_id in report.unknown:
        click.echo(f"{shown(custom_id)}: no prompt has this custom_id", err=True)
    if report.cancelled:
        click.echo(f"{report.cancelled} cancelled: not at the provider now")
    if report.being_cancelled:
        named = ", ".join(map(str, report.batches))
        click.echo(f"{report.being_cancelled} sent: the daemon cancels their batch at the provider ({named})")
    if report.not_recalled:
        click.echo(f"{report.not_recalled} sent together with other prompts: they cannot be recalled, only not resent")
    if report.being_cancelled + report.not_recalled:
        click.echo("what the provider answers by then is kept and billed")
    elif not report.cancelled:
        click.echo("nothing cancelled: no prompt that was asked for waits or is at the provider")
