"""What `status` shows of the queue: counts by tag, batches under way, the last things that went wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, select, text

from orchestrator.core.model import PromptStatus
from orchestrator.store.dialect import utf8
from orchestrator.store.reports import count_by_status, count_states
from orchestrator.store.tables import ACTIVE, batch_states, lanes, prompt_states, prompts, replies
from orchestrator.store.windows import windows, within_window

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

REPLIES_LOOKED_AT = 1000

MOST_TAGS = 10_000
"""Counted each by itself, 1 kB of memory for one: users give every prompt a tag of its own."""


@dataclass(frozen=True, slots=True)
class ActiveBatch:
    """A batch that is not over. `model` is empty where it may hold several; times are Unix milliseconds."""

    id: int
    key: str
    provider: str
    endpoint: str
    model: str
    completion_window: str
    status: str
    remote_status: str | None
    remote_batch_id: str | None
    lines: int
    lines_received: int
    tries: int
    remote_total: int | None
    remote_completed: int | None
    remote_failed: int | None
    created_at_ms: int
    submitted_at_ms: int | None
    remote_expires_at_ms: int | None
    last_error: str | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None

    @property
    def shared_error(self) -> str:
        """The last error without the names that are this batch's alone, as others may have met it."""
        own = (self.key, self.remote_batch_id, self.input_file_id, self.output_file_id, self.error_file_id)
        names = "|".join(re.escape(name) for name in own if name)
        return re.sub(rf"(?<![\w-])(?:{names})(?![\w-])", "…", self.last_error or "no reply")


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that went wrong: with a prompt (`custom_id`, `fault`), or with a batch as a whole."""

    at_ms: int
    batch_id: int | None
    custom_id: str | None
    fault: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Tags:
    """Counts by status of each of the first MOST_TAGS tags, None for no tag, and of all others together."""

    named: dict[str | None, dict[str, int]]
    others: dict[str, int]


async def count_prompts(connection: AsyncConnection) -> dict[str, int]:
    """Every prompt by status, every status named; walks the narrow table and one index of the other.

    A state whose prompt `INSERT OR REPLACE` took away does not count: only then are both tables walked.
    """
    states = await count_by_status(connection)
    prompts_left = (await connection.execute(select(func.count()).select_from(prompts))).scalar_one()
    if sum(states.values()) == prompts_left:
        return states
    return await count_states(connection, exists().where(prompts.c.id == prompt_states.c.prompt_id))


_COUNT_BY_TAG = (
    select(utf8(prompts.c.tag), prompt_states.c.status, func.count())
    .join(prompt_states, prompt_states.c.prompt_id == prompts.c.id)
    .where(*within_window(prompts.c.id), *within_window(prompt_states.c.prompt_id))
    .group_by(prompts.c.tag, prompt_states.c.status)
)


async def count_by_tag(connection: AsyncConnection) -> Tags:
    """Every prompt, by tag and status, every status named; reads each prompt's tag: a second per million."""
    found, others = dict[str | None, dict[str, int]](), _none_yet()
    async for first_id, last_id in windows(connection):
        for tag, status, count in await connection.execute(_COUNT_BY_TAG, {"first_id": first_id, "last_id": last_id}):
            name = None if tag is None else tag.decode(errors="replace")
            if name not in found:
                found |= {name: _none_yet()} if len(found) < MOST_TAGS else {}
            found.get(name, others)[status] += count
    return Tags({tag: found[tag] for tag in sorted(found, key=lambda tag: (tag is not None, tag))}, others)


def _none_yet() -> dict[str, int]:
    return {status.value: 0 for status in PromptStatus}


async def has_tag(connection: AsyncConnection, tag: str) -> bool:
    """Whether any prompt has it; reads each prompt's tag until one does."""
    return bool((await connection.execute(select(exists().where(utf8(prompts.c.tag) == tag.encode())))).scalar_one())


async def newest_prompt(connection: AsyncConnection) -> int:
    """The id of the last prompt that came in, 0 when there is none."""
    return int((await connection.execute(select(func.coalesce(func.max(prompts.c.id), 0)))).scalar_one())


async def list_active_batches(connection: AsyncConnection) -> list[ActiveBatch]:
    """Oldest first."""
    received = batch_states.c.lines_done + batch_states.c.lines_failed + batch_states.c.lines_resent
    columns: dict[str, ColumnElement[Any]] = {**lanes.c, **batch_states.c, "lines_received": received}
    shown = [columns[field.name] for field in fields(ActiveBatch)]
    found = select(*shown).join(lanes, lanes.c.id == batch_states.c.lane_id).where(text(f"batch_states.{ACTIVE}"))
    return [ActiveBatch(*row) for row in await connection.execute(found.order_by(batch_states.c.id))]


async def list_trouble(connection: AsyncConnection, limit: int) -> list[Trouble]:
    """Newest first: errors of batches, and of prompts those among the last REPLIES_LOOKED_AT replies."""
    of_batches = (
        select(batch_states.c.last_error_at_ms, batch_states.c.id, batch_states.c.last_error)
        .where(batch_states.c.last_error.is_not(None))
        .order_by(batch_states.c.last_error_at_ms.desc())
        .limit(limit)
    )
    newest = select(func.coalesce(func.max(replies.c.id), 0)).scalar_subquery()
    of_prompts = (
        select(
            replies.c.received_at_ms,
            replies.c.batch_id,
            prompts.c.custom_id,
            replies.c.fault,
            func.coalesce(replies.c.error_message, replies.c.error_code, replies.c.fault),
        )
        .join(prompts, prompts.c.id == replies.c.prompt_id)
        .where(replies.c.id > newest - REPLIES_LOOKED_AT, replies.c.fault.is_not(None))
        .order_by(replies.c.id.desc())
        .limit(limit)
    )
    found = [Trouble(at or 0, batch, None, None, error) for at, batch, error in await connection.execute(of_batches)]
    found += [Trouble(*row) for row in await connection.execute(of_prompts)]
    return sorted(found, key=lambda trouble: -trouble.at_ms)[:limit]
