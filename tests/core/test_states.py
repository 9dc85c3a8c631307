from collections import Counter

import pytest

from orchestrator.core.model import BatchStatus, PromptStatus
from orchestrator.core.states import BATCH_ENDS, BATCH_MOVES, PROMPT_ENDS, PROMPT_MOVES, before, pairs

STAGES = ("admit", "pack", "submit", "poll", "collect", "settle")
PEOPLE = ("user", "cancel")
TABLES = [(PROMPT_MOVES, PROMPT_ENDS, PromptStatus, "queued"), (BATCH_MOVES, BATCH_ENDS, BatchStatus, "packing")]
tables = pytest.mark.parametrize(("moves", "ends", "states", "start"), TABLES, ids=["prompts", "batches"])


def reachable(moves, start):
    found, new = set(), {start}
    while new:
        found |= new
        new = {move.after for move in moves if move.before in found} - found
    return found


@tables
def test_no_edge_stands_twice(moves, ends, states, start):
    assert max(Counter((m.before, m.after, m.by) for m in moves).values()) == 1
    assert all(move.before != move.after for move in moves)


@tables
def test_every_state_is_reached_and_reaches_an_end(moves, ends, states, start):
    assert reachable(moves, start) == set(states)
    for state in states:
        assert reachable(moves, state) & set(ends)


@tables
def test_only_known_words_move(moves, ends, states, start):
    assert {type(word) for move in moves for word in (move.before, move.after)} == {states}
    assert {move.by for move in moves} <= {*STAGES, *PEOPLE}


def test_every_stage_owns_a_move():
    assert {move.by for move in PROMPT_MOVES + BATCH_MOVES} == {*STAGES, *PEOPLE}


def test_a_closed_batch_is_never_opened_again():
    assert not [move for move in BATCH_MOVES if move.before in BATCH_ENDS]


def test_an_answer_is_for_ever():
    assert not [move for move in PROMPT_MOVES if move.before == PromptStatus.DONE]


def test_a_user_may_cancel_what_waits_and_requeue_what_ended_without_an_answer():
    assert {(m.before, m.after) for m in PROMPT_MOVES if m.by == "user"} == {
        ("queued", "cancelled"),
        ("failed", "queued"),
        ("cancelled", "queued"),
    }


@tables
def test_the_guard_of_an_update_is_what_the_table_says(moves, ends, states, start):
    for by in {move.by for move in moves}:
        for after in states:
            expected = [move.before for move in moves if (move.after, move.by) == (after, by)]
            assert list(before(after, by, moves)) == expected
    assert before(BatchStatus.SETTLED, "poll", BATCH_MOVES) == ()


@tables
def test_pairs_name_each_edge_once(moves, ends, states, start):
    found = pairs(moves)
    assert len(found) == len(set(found))
    assert set(found) == {(move.before, move.after) for move in moves}
