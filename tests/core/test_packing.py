import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.packing import Limits, Seal, Waiting, fitting, seal

limits = st.builds(Limits, st.integers(1, 60), st.integers(1, 8))
queues = st.lists(st.integers(1, 40), max_size=30)


def packed(sizes, room):
    """Batch after batch from the front, as a lane is packed; a line that fits no file goes alone."""
    found, left = [], list(sizes)
    while left:
        count = max(fitting(left, room), 1)
        found.append(left[:count])
        left = left[count:]
    return found


@settings(max_examples=30, deadline=None)
@given(queues, limits)
def test_packing_loses_nothing_keeps_the_order_and_respects_both_limits(sizes, room):
    files = packed(sizes, room)
    assert [size for file in files for size in file] == sizes
    for file in files:
        assert len(file) <= room.max_lines
        assert sum(file) <= room.max_bytes or len(file) == 1


@settings(max_examples=30, deadline=None)
@given(queues, limits)
def test_a_file_ends_only_where_one_more_line_would_break_a_limit(sizes, room):
    count = fitting(sizes, room)
    if count < len(sizes):
        assert count + 1 > room.max_lines or sum(sizes[: count + 1]) > room.max_bytes


def test_both_limits_are_reached_exactly():
    assert fitting([3, 3, 3], Limits(6, 9)) == 2
    assert fitting([1, 1, 1], Limits(9, 2)) == 2
    assert fitting([7, 1], Limits(6, 9)) == 0
    assert fitting([], Limits(6, 9)) == 0


NOW_MS = 1_000_000
ROOM = Limits(100, 10)


@pytest.mark.parametrize(
    ("waiting", "why"),
    [
        (Waiting(0, 0, 0), None),
        (Waiting(9, 99, NOW_MS), None),
        (Waiting(10, 10, NOW_MS), Seal.FULL),
        (Waiting(11, 10, 0), Seal.FULL),
        (Waiting(1, 100, NOW_MS), Seal.FULL),
        (Waiting(1, 1, NOW_MS - 59_999), None),
        (Waiting(1, 1, NOW_MS - 60_000), Seal.LINGERED),
        (Waiting(1, 1, NOW_MS + 60_000), None),
    ],
)
def test_a_batch_is_due_when_it_is_full_or_its_oldest_prompt_has_lingered(waiting, why):
    assert seal(waiting, ROOM, 60, NOW_MS) is why


def test_without_linger_the_first_prompt_is_due_at_once():
    assert seal(Waiting(1, 1, NOW_MS), ROOM, 0, NOW_MS) is Seal.LINGERED


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 200), st.integers(0, NOW_MS))
def test_whatever_waits_is_due_in_the_end(lines, nbytes, oldest_ms):
    assert seal(Waiting(lines, nbytes, oldest_ms), ROOM, 60, NOW_MS + 60_000) is not None
