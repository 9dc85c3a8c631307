"""What fails again and again is told a few times: an outage is one story, however many batches it meets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.telemetry import worth_telling

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.core.model import Batch

SPEAKER_SECONDS = 600.0
"""For so long after its line one batch speaks for every other of its provider that fails in the same way."""


def left_out(context: Context, event: str, batch: Batch, tries: int) -> int | None:
    """How many failures of other batches were left out since the log told of one; None when this one is left out, too.

    Told are the 1st, 2nd, 4th, 8th … in a row of a batch for which no other one speaks.
    """
    if not worth_telling(tries):
        return None
    place = (event, batch.lane.provider)
    now_ms = context.now_ms()
    speaker, told_at_ms, others = context.speakers.get(place, (batch.id, now_ms, 0))
    if batch.id != speaker and 0 <= now_ms - told_at_ms < SPEAKER_SECONDS * 1000:
        context.speakers[place] = (speaker, told_at_ms, others + 1)
        return None
    context.speakers[place] = (batch.id, now_ms, 0)
    return others
