"""From an outcome and a prompt's history to the rows that are written for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.model import PromptStatus
from orchestrator.core.retry import Decision, History, Verdict, decide
from orchestrator.store.replies import Entry, Member

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.core.outcomes import Outcome

_STATUS = {
    Verdict.KEEP: PromptStatus.DONE,
    Verdict.RESEND: PromptStatus.QUEUED,
    Verdict.GIVE_UP: PromptStatus.FAILED,
}


def settled(context: Context, member: Member, outcome: Outcome, batch_id: int, *, account_works: bool = False) -> Entry:
    """What becomes of a prompt of this batch, by the rules of `core.retry`."""
    history = History(member.attempts, member.returns, member.forgiven)
    decision = decide(outcome.fault, history, context.retry_policy(), context.dice, account_works=account_works)
    return _entry(context, member, outcome, decision, batch_id)


def refused(context: Context, member: Member, outcome: Outcome, batch_id: int | None) -> Entry:
    """A prompt that ends before any provider ran it: no attempt is counted."""
    return _entry(context, member, outcome, Decision(Verdict.GIVE_UP, member.attempts, member.returns), batch_id)


def late_success(context: Context, member: Member, outcome: Outcome, batch_id: int) -> Entry:
    """An answer that arrives after its batch was given up on: kept, since it was paid for."""
    return _entry(context, member, outcome, Decision(Verdict.KEEP, max(member.attempts, 1), member.returns), batch_id)


def _entry(context: Context, member: Member, outcome: Outcome, decision: Decision, batch_id: int | None) -> Entry:
    status = _STATUS[decision.verdict]
    if status is PromptStatus.QUEUED and member.cancelling:
        status = PromptStatus.CANCELLED
    due_at_ms = context.in_ms(decision.delay_seconds) if status is PromptStatus.QUEUED else None
    return Entry(member, outcome, batch_id, status, decision.attempts, decision.returns, due_at_ms)
