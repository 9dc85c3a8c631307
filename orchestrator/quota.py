"""When too many tokens wait at the provider for one more file: its lane is held back, and files become smaller (F7)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.core.model import PromptStatus
from orchestrator.core.retry import backoff
from orchestrator.recording import settled
from orchestrator.store.batches import update_batch
from orchestrator.store.dialect import take_turn
from orchestrator.store.lanes import Hold, get_hold, hold_lane, ran_beside
from orchestrator.store.queue import return_lines
from orchestrator.store.replies import list_members, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.context import Context
    from orchestrator.core.model import Batch
    from orchestrator.core.outcomes import Outcome
    from orchestrator.store.replies import Entry

HOLD_SECONDS, HOLD_MAX_SECONDS = 300.0, 4800.0
_OVER_QUOTA = re.compile(r"token_limit_exceeded|enqueued.token", re.IGNORECASE)


def is_over_quota(text: str) -> bool:
    return _OVER_QUOTA.search(text) is not None


async def hold_back(connection: AsyncConnection, context: Context, batch: Batch, outcome: Outcome) -> int:
    """Put every line back; the lane goes on later, or when another of its batches has run (F7, F8); seconds until then.

    Unharmed, but for one that had both the file and the quota to itself: it may be more than the quota will ever hold.
    """
    await take_turn(connection)
    alone = not await ran_beside(connection, batch)
    hold = _longer(context, await get_hold(connection, batch.lane_id), batch, alone=alone)
    await hold_lane(connection, batch.lane_id, hold)
    charged = await _charge(connection, context, batch, outcome) if alone and batch.lines == 1 else []
    failed = sum(entry.status is not PromptStatus.QUEUED for entry in charged)
    resent = len(charged) - failed + await return_lines(connection, batch.id)
    await update_batch(connection, batch, {"lines_resent": resent, "lines_failed": failed})
    return round((hold.until_ms - context.now_ms()) / 1000)


async def _charge(connection: AsyncConnection, context: Context, batch: Batch, outcome: Outcome) -> list[Entry]:
    members = await list_members(connection, batch.id, 1)
    entries = [settled(context, member, outcome, batch.id) for member in members]
    await record(connection, entries, context.now_ms())
    return entries


def _longer(context: Context, hold: Hold, batch: Batch, *, alone: bool) -> Hold:
    """The hold after one more file was turned away. Files become smaller only when one had the quota to itself.

    Of files sent together the last one may be small, so the largest tells how small they must be.
    """
    half = max(1, batch.nbytes // 2)
    if hold.until_ms > context.now_ms():
        return Hold(hold.until_ms, hold.times, max(hold.max_bytes or half, half) if alone else hold.max_bytes)
    seconds = backoff(max(0, hold.times - 1), HOLD_SECONDS, HOLD_MAX_SECONDS, context.dice)
    return Hold(context.in_ms(seconds), hold.times + 1, half if alone else hold.max_bytes)
