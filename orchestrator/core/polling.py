"""What a look at a remote batch leads to. Counts are hints; only a definite end ends a batch (F30, F31, F36)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from orchestrator.core.remote import RemoteBatch, RemoteState

if TYPE_CHECKING:
    from orchestrator.core.model import Batch

OUTPUT_ID_SECONDS = 6 * 3600
"""How long a finished batch that counts answers may go without naming their file (F4).

They are paid for: resending its lines would pay for them again.
"""

_WINDOW = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Step(Enum):
    WAIT = auto()
    COLLECT = auto()
    END = auto()
    REPLACE = auto()
    CANCEL = auto()


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds; 0 means for ever."""

    stuck_validating_seconds: float
    overdue_seconds: float
    partial_output: bool
    deletable: bool


def next_step(batch: Batch, remote: RemoteBatch, patience: Patience, now_ms: int) -> Step:
    """Judge one successful poll of a submitted batch."""
    state = remote.state
    if state.over:
        return _at_the_end(batch, remote, now_ms)
    if batch.cancel_requested and state is RemoteState.RUNNING:  # while validating it would stick in `cancelling`
        return Step.CANCEL
    if state is RemoteState.VALIDATING and _stuck(batch, patience, now_ms):
        return Step.REPLACE
    # Before any news: a line that is counted and stands in no file is news for ever (F14, F18).
    cancelling = state is RemoteState.CANCELLING
    if _overdue(batch, remote, patience, now_ms, times=1 + cancelling):
        return Step.END if cancelling else Step.CANCEL
    if state is not RemoteState.VALIDATING and patience.partial_output and has_news(batch, remote):
        return Step.COLLECT
    return Step.WAIT


def next_step_when_answered(batch: Batch, remote: RemoteBatch, patience: Patience, now_ms: int) -> Step:
    """The same where every line has its outcome: nothing is waited for but the end of what is paid for."""
    step = next_step(batch, remote, patience, now_ms)
    if step is Step.WAIT and remote.state is not RemoteState.VALIDATING:
        return Step.END
    return Step.END if step is Step.CANCEL and not _runs_on(batch, remote) else step


def _runs_on(batch: Batch, remote: RemoteBatch) -> bool:
    """Whether fewer lines have ended there, by its counts and by what was read, than it has."""
    counted = (remote.completed or 0) + (remote.failed or 0)
    return max(counted, batch.output_cursor + batch.error_cursor) < (remote.total or batch.lines)


def _at_the_end(batch: Batch, remote: RemoteBatch, now_ms: int) -> Step:
    """While the answers have no name yet, the errors can be read: perhaps they are all there is (F5)."""
    if not _output_still_unnamed(batch, remote, now_ms):
        return Step.END
    return Step.COLLECT if has_news(batch, remote) else Step.WAIT


def shows_nothing_new(batch: Batch, remote: RemoteBatch) -> bool:
    """Whether the batch runs and is shown just as it was when it was last looked at."""
    shown = (remote.status, remote.total, remote.completed, remote.failed)
    known = (batch.remote_status, batch.remote_total, batch.remote_completed, batch.remote_failed)
    return shown == known and not remote.state.over


def has_news(batch: Batch, remote: RemoteBatch) -> bool:
    """Whether more lines can be read than were read so far; unknown counts mean perhaps (F38)."""
    output = remote.output_file_id is not None and _more(remote.completed, batch.output_cursor)
    return output or (remote.error_file_id is not None and _more(remote.failed, batch.error_cursor))


def _more(count: int | None, cursor: int) -> bool:
    return count is None or count > cursor


def most_completed(batch: Batch, remote: RemoteBatch) -> int | None:
    """How many answers the provider has ever counted: its counts may be left out or zero at any look (F30, F38)."""
    known = [count for count in (batch.remote_completed, remote.completed) if count is not None]
    return max(known, default=None)


def _output_still_unnamed(batch: Batch, remote: RemoteBatch, now_ms: int) -> bool:
    if remote.output_file_id or batch.output_file_id:
        return False
    uncounted = remote.completed is None or remote.total == 0
    if not most_completed(batch, remote) and not (remote.state is RemoteState.COMPLETED and uncounted):
        return False
    return batch.ended_at_ms is None or now_ms - batch.ended_at_ms < OUTPUT_ID_SECONDS * 1000


def _stuck(batch: Batch, patience: Patience, now_ms: int) -> bool:
    waited_ms = now_ms - (batch.submitted_at_ms or now_ms)
    limit = patience.stuck_validating_seconds
    return patience.deletable and limit > 0 and waited_ms > limit * 1000


def _overdue(batch: Batch, remote: RemoteBatch, patience: Patience, now_ms: int, times: int) -> bool:
    expires_at_ms = _expires_at_ms(batch, remote)
    if expires_at_ms is None or not patience.overdue_seconds:
        return False
    return now_ms > expires_at_ms + times * patience.overdue_seconds * 1000


def is_long_over(batch: Batch, overdue_seconds: float, now_ms: int) -> bool:
    """Whether its window ended so long ago, as far as is known without a poll; never with a patience of 0."""
    length_ms = window_ms(batch.lane.completion_window)
    if length_ms is None or batch.submitted_at_ms is None or not overdue_seconds:
        return False
    return now_ms > batch.submitted_at_ms + length_ms + overdue_seconds * 1000


def _expires_at_ms(batch: Batch, remote: RemoteBatch) -> int | None:
    """When the window ends by our clock, which need not agree with the provider's (F39).

    A provider that names no end is taken by the window it was asked for (F13), if that is a length of time.
    """
    if remote.expires_at_ms is None and batch.submitted_at_ms is not None:
        length_ms = window_ms(batch.lane.completion_window)
        return None if length_ms is None else batch.submitted_at_ms + length_ms
    if remote.expires_at_ms is None or remote.created_at_ms is None or batch.submitted_at_ms is None:
        return remote.expires_at_ms
    return batch.submitted_at_ms + remote.expires_at_ms - remote.created_at_ms


def window_ms(window: str) -> int | None:
    """How long a window such as 24h is; None where its name does not tell."""
    found = _WINDOW.fullmatch(window)
    return int(found[1]) * _UNIT_MS[found[2]] if found else None
