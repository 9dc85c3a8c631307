"""Pausing a provider whose account is refused, and trying it again with one batch at a time (F34)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from orchestrator.core.retry import backoff
from orchestrator.store.providers import ProviderState, get_provider_state, update_provider
from orchestrator.telemetry import record as tell
from orchestrator.telemetry import worth_telling

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.context import Context


async def pause_provider(
    context: Context, name: str, reason: str, paused_by: Literal["call", "line"], sent_at_ms: int | None = None
) -> None:
    """Stop submitting there, loudly; each pause in a row is longer.

    `sent_at_ms` is when the batch was sent whose lines were refused: one sent before the pause brings no news.
    """
    pauses, seconds = await context.database.write(
        partial(_note_pause, context=context, name=name, reason=reason, paused_by=paused_by, sent_at_ms=sent_at_ms)
    )
    if worth_telling(pauses):
        tell("provider.paused", provider=name, reason=reason, pauses=pauses, pause_seconds=round(seconds, 1))


async def _note_pause(
    connection: AsyncConnection, context: Context, name: str, reason: str, paused_by: str, sent_at_ms: int | None
) -> tuple[int, float]:
    """Pauses in a row and the seconds of this one; none when this refusal was known when the last one began."""
    state, now_ms = await get_provider_state(connection, name), context.now_ms()
    if sent_at_ms is not None and state.pauses and sent_at_ms <= (state.paused_at_ms or 0):
        return 0, 0.0
    seconds = _length(context, state.pauses)
    await update_provider(
        connection, name, pauses=state.pauses + 1, resume_at_ms=context.in_ms(seconds), pause_reason=reason,
        paused_by=paused_by, paused_at_ms=now_ms,
    )  # fmt: skip
    return state.pauses + 1, seconds


async def begin_trial(context: Context, name: str) -> None:
    """A paused provider's time has come: this one batch may try, the others wait for another pause."""
    await context.database.write(partial(_note_trial, context=context, name=name))


async def _note_trial(connection: AsyncConnection, context: Context, name: str) -> None:
    state: ProviderState = await get_provider_state(connection, name)
    if state.pauses:
        by_line = state.paused_by == "line"  # the verdict comes with its lines: no second trial soon before it
        wait = context.config.submission.pause_max_seconds if by_line else _length(context, state.pauses - 1)
        await update_provider(connection, name, resume_at_ms=context.in_ms(wait))


def _length(context: Context, earlier: int) -> float:
    pacing = context.config.submission
    return backoff(earlier, pacing.pause_seconds, pacing.pause_max_seconds, context.dice)
