"""Why prompts failed, in groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, func, literal_column, select

from orchestrator.store.dialect import utf8
from orchestrator.store.tables import LAST_REPLY, prompt_states, prompts, replies
from orchestrator.store.windows import windows, within_window

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed prompts that share their last reason; `custom_id` is one of them."""

    prompts: int
    fault: str | None
    status_code: int | None
    error_code: str | None
    message: str | None
    custom_id: str
    batch_id: int | None


async def list_failure_groups(connection: AsyncConnection, tag: str | None) -> list[FailureGroup]:
    """Groups of failed prompts, the largest first; of one tag only where `tag` is given. Walks the whole queue."""
    statement, groups = _grouped(tag), dict[tuple[Any, ...], FailureGroup]()
    async for first_id, last_id in windows(connection):
        for row in await connection.execute(statement, {"first_id": first_id, "last_id": last_id}):
            found = FailureGroup(*row)
            reason = (found.fault, found.status_code, found.error_code, found.message)
            groups[reason] = _merged(groups[reason], found) if reason in groups else found
    return sorted(groups.values(), key=lambda group: -group.prompts)


def _merged(known: FailureGroup, other: FailureGroup) -> FailureGroup:
    batch_ids = [group.batch_id for group in (known, other) if group.batch_id is not None]
    return replace(
        known,
        prompts=known.prompts + other.prompts,
        custom_id=min(known.custom_id, other.custom_id),
        batch_id=max(batch_ids, default=None),
    )


def _grouped(tag: str | None) -> Select[Any]:
    """Within one window, in the order in which each reason came up first."""
    one, chars = (literal_column(str(number), Integer) for number in (1, MESSAGE_CHARS))  # not to differ by position
    message = func.substr(replies.c.error_message, one, chars)
    reason = (replies.c.fault, replies.c.status_code, replies.c.error_code, message)
    grouped = (
        select(func.count(), *reason, func.min(prompts.c.custom_id), func.max(replies.c.batch_id))
        .select_from(prompt_states)
        .join(prompts, prompts.c.id == prompt_states.c.prompt_id)
        .outerjoin(replies, LAST_REPLY)
        .where(prompt_states.c.status == "failed")
        .where(*within_window(prompt_states.c.prompt_id), *within_window(prompts.c.id))
        .group_by(*reason)
        .order_by(func.min(prompts.c.id))
    )
    return grouped if tag is None else grouped.where(utf8(prompts.c.tag) == tag.encode())
