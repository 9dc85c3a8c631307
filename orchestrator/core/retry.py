"""What is done about an outcome: keep, resend or give up (product, section 3). Clock and dice are the caller's."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

import msgspec

from orchestrator.core.model import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

FINAL = frozenset({Fault.INVALID, Fault.REFUSED})
RETURNED = frozenset({Fault.EXPIRED, Fault.CANCELLED_REMOTELY, Fault.MISSING})


class Verdict(Enum):
    KEEP = auto()
    RESEND = auto()
    GIVE_UP = auto()


class Policy(msgspec.Struct, frozen=True, gc=False):
    """`max_attempts` paid tries, `max_returns` lines that came back unanswered; delays in seconds."""

    max_attempts: int
    max_returns: int
    base_seconds: float
    max_seconds: float


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The verdict and the prompt's new history; `delay_seconds` counts from now and is 0 unless it is resent."""

    verdict: Verdict
    attempts: int
    returns: int
    delay_seconds: float = 0


class History(msgspec.Struct, frozen=True, gc=False):
    """`attempts` paid tries, `forgiven` of them before the last retry by hand; `returns` since then."""

    attempts: int
    returns: int
    forgiven: int = 0


def decide(
    fault: Fault | None, history: History, policy: Policy, dice: Callable[[], float], *, account_works: bool = False
) -> Decision:
    """Judge one outcome. `dice` gives a number in [0, 1).

    An account's fault costs the prompt nothing (F34) unless the account is seen to work: then it costs a return, as a
    line that never came back does, not an attempt (F11, F18).
    """
    attempts, returns = history.attempts, history.returns
    if fault is Fault.ACCOUNT and not account_works:
        return Decision(Verdict.RESEND, attempts, returns)
    if fault is None:
        return Decision(Verdict.KEEP, attempts + 1, returns)
    if fault in FINAL:
        return Decision(Verdict.GIVE_UP, attempts + 1, returns)
    if fault in RETURNED or fault is Fault.ACCOUNT:
        earlier, most = returns, policy.max_returns + 1
        returns += 1
    else:
        earlier, most = attempts - history.forgiven, policy.max_attempts
        attempts += 1
    if earlier + 1 >= most:
        return Decision(Verdict.GIVE_UP, attempts, returns)
    delay = backoff(earlier, policy.base_seconds, policy.max_seconds, dice)
    return Decision(Verdict.RESEND, attempts, returns, delay)


def backoff(earlier: int, base_seconds: float, max_seconds: float, dice: Callable[[], float]) -> float:
    """Seconds to wait after `earlier` failures before this one: doubling, capped, then drawn from its upper half."""
    ceiling = min(max_seconds, base_seconds * 2.0 ** min(earlier, 60))
    return ceiling * (0.5 + dice() / 2)
