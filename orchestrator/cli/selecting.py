"""Which prompts a command means: the options of `retry` and `cancel`, and what is said of a tag that is nowhere."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click

from orchestrator.cli.options import TEXT
from orchestrator.core.model import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.core.model import PromptStatus
    from orchestrator.store.database import Database
    from orchestrator.store.requeue import Selection

FAULTS = tuple(fault.value for fault in Fault)


class Selectors(TypedDict):
    """The options' values, as click hands them over."""

    custom_ids: tuple[str, ...]
    tag: str | None
    faults: tuple[str, ...]
    everything: bool


def selectors(by_fault: str, everything: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --custom-id, --tag, --fault and --all; the two texts say what the last two mean for this command."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = (
            click.option("--custom-id", "custom_ids", multiple=True, type=TEXT, help="This prompt; may be repeated."),
            click.option("--tag", type=TEXT, help="Prompts with this tag."),
            click.option(
                "--fault",
                "faults",
                multiple=True,
                type=click.Choice(FAULTS),
                metavar="FAULT",
                help=f"{by_fault}; may be repeated: {', '.join(FAULTS)}.",
            ),
            click.option("--all", "everything", is_flag=True, help=everything),
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


def selection_of(statuses: tuple[PromptStatus, ...], **selected: Unpack[Selectors]) -> Selection:
    """What the options select. Raises UsageError when they select nothing, or all and something at once."""
    from orchestrator.store.requeue import Selection  # noqa: PLC0415

    tag, faults, custom_ids = selected["tag"], selected["faults"], selected["custom_ids"]
    narrowed = bool(custom_ids or faults) or tag is not None
    if narrowed == selected["everything"]:
        raise click.UsageError("say which prompts: --custom-id, --tag or --fault, or else --all")
    return Selection(statuses, tag, faults, custom_ids)


async def unknown_tag(database: Database, tag: str | None) -> str | None:
    """What to say of a tag that no prompt has; None where one has it, or none is given."""
    from orchestrator.config.fields import shown  # noqa: PLC0415
    from orchestrator.store.overview import has_tag  # noqa: PLC0415

    if tag is None or await database.read(partial(has_tag, tag=tag)):
        return None
    return f"{shown(tag)}: no prompt has this tag"
