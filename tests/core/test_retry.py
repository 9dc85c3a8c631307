import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.model import Fault
from orchestrator.core.retry import FINAL, RETURNED, Decision, History, Policy, Verdict, backoff, decide

PAID = sorted(set(Fault) - FINAL - RETURNED - {Fault.ACCOUNT})

policies = st.builds(Policy, st.integers(1, 8), st.integers(0, 8), st.floats(0.1, 60), st.floats(60, 3600))
dice = st.floats(0, 1, exclude_max=True)
faults = st.sampled_from(list(Fault))


def lived_through(told, policy, roll, history=History(0, 0)):  # noqa: B008 - frozen
    """Every decision until the prompt ends or the faults run out."""
    found = []
    for fault in told:
        found.append(decide(fault, history, policy, lambda: roll))
        history = History(found[-1].attempts, found[-1].returns, history.forgiven)
        if found[-1].verdict is not Verdict.RESEND:
            break
    return found


@settings(max_examples=30, deadline=None)
@given(st.lists(faults, max_size=40), policies, dice)
def test_no_history_exceeds_its_bounds(told, policy, roll):
    for decision in lived_through(told, policy, roll):
        assert decision.attempts <= policy.max_attempts or decision.verdict is Verdict.GIVE_UP
        assert decision.returns <= policy.max_returns or decision.verdict is Verdict.GIVE_UP
        assert 0 <= decision.delay_seconds <= policy.max_seconds
        assert decision.verdict is Verdict.RESEND or decision.delay_seconds == 0


@pytest.mark.parametrize("fault", PAID)
@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_prompt_is_paid_for_at_most_max_attempts_times(fault, most):
    decisions = lived_through([fault] * 20, Policy(most, 0, 1, 1), 0)
    assert [d.attempts for d in decisions] == list(range(1, most + 1))
    assert [d.verdict for d in decisions] == [Verdict.RESEND] * (most - 1) + [Verdict.GIVE_UP]


@pytest.mark.parametrize("fault", sorted(RETURNED))
@pytest.mark.parametrize("most", [0, 1, 20])
def test_a_line_that_never_came_back_costs_a_return_and_no_attempt(fault, most):
    decisions = lived_through([fault] * 40, Policy(1, most, 1, 1), 0)
    assert [d.returns for d in decisions] == list(range(1, most + 2))
    assert [d.verdict for d in decisions] == [Verdict.RESEND] * most + [Verdict.GIVE_UP]
    assert {d.attempts for d in decisions} == {0}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 90), st.integers(0, 90), policies)
def test_an_account_fault_costs_nothing_however_often(attempts, returns, policy):
    decision = decide(Fault.ACCOUNT, History(attempts, returns), policy, float)
    assert decision == Decision(Verdict.RESEND, attempts, returns)


def test_an_account_fault_costs_a_return_while_the_account_is_seen_to_work():
    policy, returns = Policy(9, 2, 1, 1), [0]
    while (found := decide(Fault.ACCOUNT, History(3, returns[-1]), policy, float, account_works=True)) is not None:
        returns.append(found.returns)
        assert found.attempts == 3
        if found.verdict is Verdict.GIVE_UP:
            break
    assert returns == [0, 1, 2, 3]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 90), st.integers(0, 90), policies)
def test_an_answer_is_kept_whatever_came_before(attempts, returns, policy):
    decision = decide(None, History(attempts, returns), policy, float)
    assert decision == Decision(Verdict.KEEP, attempts + 1, returns)


@pytest.mark.parametrize("fault", sorted(FINAL))
def test_what_cannot_get_better_is_never_resent(fault):
    assert decide(fault, History(0, 0), Policy(9, 9, 1, 1), float) == Decision(Verdict.GIVE_UP, 1, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 30), st.integers(1, 6), dice)
def test_a_retry_by_hand_gives_a_full_set_of_attempts_again(spent, most, roll):
    decisions = lived_through([Fault.SERVER] * 20, Policy(most, 0, 1, 1), roll, History(spent, 0, forgiven=spent))
    assert len(decisions) == most
    assert decisions[-1] == Decision(Verdict.GIVE_UP, spent + most, 0)


def test_faults_of_both_kinds_are_counted_apart():
    decisions = lived_through([Fault.SERVER, Fault.EXPIRED, Fault.THROTTLED, Fault.MISSING], Policy(3, 3, 1, 1), 0)
    assert [(d.attempts, d.returns) for d in decisions] == [(1, 0), (1, 1), (2, 1), (2, 2)]


def test_every_fault_has_exactly_one_treatment():
    assert set(Fault) == FINAL | RETURNED | set(PAID) | {Fault.ACCOUNT}
    assert not FINAL & RETURNED


def test_delays_double_up_to_the_longest():
    assert [backoff(n, 30, 3600, lambda: 0) for n in range(9)] == [15, 30, 60, 120, 240, 480, 960, 1800, 1800]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 60), st.floats(60, 3600), dice)
def test_a_delay_lies_in_the_upper_half_of_its_ceiling(earlier, base, most, roll):
    lowest = backoff(earlier, base, most, lambda: 0)
    assert lowest <= backoff(earlier, base, most, lambda: roll) <= 2 * lowest <= most


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 28), dice, dice)
def test_delays_grow_whatever_the_dice(earlier, roll, other):
    assert backoff(earlier + 1, 1, 1e9, lambda: roll) >= backoff(earlier, 1, 1e9, lambda: other)


def test_the_dice_spread_what_failed_together():
    rolls = [index / 10 for index in range(10)]
    assert len({decide(Fault.SERVER, History(1, 0), Policy(5, 5, 30, 3600), lambda r=r: r) for r in rolls}) == 10
