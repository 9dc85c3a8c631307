"""Why prompts failed, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Integer, and_, func, literal_column, select

from orchestrator.store.dialect import utf8
from orchestrator.store.tables import prompt_states, prompts, replies

if TYPE_CHECKING:
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
    """Groups of failed prompts, the largest first; of one tag only where `tag` is given. Walks the failed prompts."""
    one, chars = (literal_column(str(number), Integer) for number in (1, MESSAGE_CHARS))  # not to differ by position
    message = func.substr(replies.c.error_message, one, chars)
    reason = (replies.c.fault, replies.c.status_code, replies.c.error_code, message)
    last = and_(replies.c.prompt_id == prompt_states.c.prompt_id, replies.c.seq == prompt_states.c.replies)
    grouped = (
        select(func.count(), *reason, func.min(prompts.c.custom_id), func.max(replies.c.batch_id))
        .select_from(prompt_states)
        .join(prompts, prompts.c.id == prompt_states.c.prompt_id)
        .outerjoin(replies, last)
        .where(prompt_states.c.status == "failed")
        .group_by(*reason)
        .order_by(func.count().desc(), func.min(prompts.c.id))
    )
    if tag is not None:
        grouped = grouped.where(utf8(prompts.c.tag) == tag.encode())
    return [FailureGroup(*row) for row in await connection.execute(grouped)]
