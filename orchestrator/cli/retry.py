"""`retry`: failed prompts back into the queue."""

from __future__ import annotations

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

NOT_RETRIED = 1
EPILOG = """\b
--json prints one object:
  queued      prompts that wait again
  not_queued  {custom_id: why} for those named by --custom-id that do not
"""


@click.command("retry", epilog=EPILOG)
@selectors("Prompts that failed so", "Every failed prompt.")
@click.option("--cancelled", is_flag=True, help="Cancelled prompts as well as failed ones.")
@as_json
@click.pass_obj
def command(config_path: Path | None, /, *, cancelled: bool, as_json: bool, **selected: Unpack[Selectors]) -> int:
    """Queue failed prompts again, with all their attempts before them.

    Several selectors narrow each other: --tag faq --fault server retries what failed with `server` and is tagged `faq`.
    The exit code is 1 when a prompt named by --custom-id is not retried.
    """
    from orchestrator.cli.opening import with_database  # noqa: PLC0415

    statuses = (PromptStatus.FAILED, PromptStatus.CANCELLED) if cancelled else (PromptStatus.FAILED,)
    selection = selection_of(statuses, **selected)
    queued, others = with_database(config_path, partial(_retry, selection=selection), doing="queueing prompts again")
    _tell(queued, others, as_json=as_json)
    return NOT_RETRIED if others else 0


async def _retry(database: Database, _loaded: Loaded, selection: Selection) -> tuple[int, dict[str, str]]:
    """How many were queued, and why custom_ids that were named were not."""
    from orchestrator.cli.opening import telling_how_far  # noqa: PLC0415
    from orchestrator.store.home import require_here  # noqa: PLC0415
    from orchestrator.store.requeue import list_selected, requeue, statuses_of  # noqa: PLC0415
    from orchestrator.store.windows import FIRST_ID  # noqa: PLC0415

    await database.read(require_here)
    found = await database.read(partial(statuses_of, custom_ids=selection.custom_ids)) if selection.custom_ids else {}
    queued, first = 0, FIRST_ID
    with telling_how_far(lambda: f"{queued} or more are queued again"):
        while page := await database.read(partial(list_selected, selection=selection, first_id=first)):
            queued += await database.write(partial(requeue, prompt_ids=page, statuses=selection.statuses))
            first = page[-1] + 1
    others = [custom_id for custom_id in selection.custom_ids if found.get(custom_id) not in selection.statuses]
    return queued, {custom_id: _reason(found.get(custom_id)) for custom_id in others}


def _reason(status: str | None) -> str:
    if status is None:
        return "no prompt has this custom_id"
    if status == PromptStatus.CANCELLED:
        return "cancelled: pass --cancelled to retry it"
    return f"{status}: only what failed can be retried"


def _tell(queued: int, others: dict[str, str], *, as_json: bool) -> None:
    from orchestrator.config.fields import shown  # noqa: PLC0415

    if as_json:
        say_json({"queued": queued, "not_queued": others})
        return
    for custom_id, reason in others.items():
        click.echo(f"{shown(custom_id)}: {reason}", err=True)
    click.echo(f"{queued} prompt{'' if queued == 1 else 's'} queued again")
