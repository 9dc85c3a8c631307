import pytest

from orchestrator.errors import InputError
from orchestrator.intake.checking import NAMELESS
from orchestrator.intake.formats import Entry
from orchestrator.intake.naming import Mark, mark_of, name_of, named, names_between, new_run, source_of
from orchestrator.intake.rows import Row

SOURCE = source_of(b"/a.jsonl")
RUN = new_run(1_800_000_000_000, 7)


def entries(*prompts):
    """Lines from 1 on; None is a bad line."""
    rows = [None if prompt is None else Row(prompt=prompt) for prompt in prompts]
    return [Entry("a.jsonl", line, row, "" if row else "bad", 1) for line, row in enumerate(rows, 1)]


def names(given, run=RUN, mark=None):
    return [each.row.custom_id for each in named(iter(given), SOURCE, run, mark) if each.row]


def test_equal_lines_are_named_apart():
    assert len(set(names(entries("a", "a", "a")))) == 3


def test_the_same_lines_in_the_same_run_are_named_the_same():
    assert names(entries("a", None, "b")) == names(entries("a", None, "b"))


def test_names_of_a_source_are_ordered_by_run_and_line_between_their_bounds():
    later = new_run(1_800_000_000_001, 0)
    found = [*names(entries(*"abcdefghijkl")), *names(entries("a"), later)]
    low, high = names_between(SOURCE)
    assert found == sorted(found)
    assert all(low < name < high for name in found)
    assert not low < names(entries("a"))[0].replace(SOURCE, source_of(b"/b.jsonl")) < high


def test_a_name_tells_its_mark():
    name = names(entries("a", "b"))[1]
    mark = mark_of(name)
    assert (mark.run, mark.line, mark.began_at_ms) == (RUN, 2, 1_800_000_000_000)
    assert name_of(SOURCE, mark.run, mark.line, mark.digest) == name


@pytest.mark.parametrize("name", [None, "", "q-1", "e-1-2-3-4"])
def test_other_names_tell_none(name):
    assert mark_of(name) is None


def test_all_names_are_as_long_as_validate_takes_them_to_be():
    assert {len(name) for name in names(entries("a", "b" * 1000))} == {len(NAMELESS)} == {50}


def test_a_row_keeps_a_name_of_its_own():
    given = [Entry("a.jsonl", 1, Row(custom_id="mine", prompt="a"), "", 1)]
    assert names(given) == ["mine"]


def mark_at(given, line):
    (name,) = [name for name in names(given) if mark_of(name).line == line]
    return mark_of(name)


def test_lines_up_to_the_mark_are_told_to_be_stored():
    given = entries("a", None, "b", "c")
    found = list(named(iter(given), SOURCE, RUN, mark_at(given, 3)))
    assert [each.stored for each in found] == [True, True, True, False]


@pytest.mark.parametrize(
    "now",
    [
        entries("x", None, "b", "c"),
        entries("a", None, "x", "c"),
        entries("a", "new", "b", "c"),
        entries("a", None, None, "c"),
        entries("a", None),
        entries(),
        entries("b", None, "a", "c"),
    ],
)
def test_a_change_up_to_the_mark_is_refused_before_any_line_that_is_not_stored(now):
    mark = mark_at(entries("a", None, "b", "c"), 3)
    passed = []
    with pytest.raises(InputError, match="not what was enqueued up to line 3"):
        passed.extend(named(iter(now), SOURCE, RUN, mark))
    assert all(each.stored for each in passed)


@pytest.mark.parametrize("now", [entries("a", None, "b"), entries("a", None, "b", "x", "y")])
def test_a_change_below_the_mark_is_welcome(now):
    mark = mark_at(entries("a", None, "b", "c"), 3)
    assert len(list(named(iter(now), SOURCE, RUN, mark))) == len(now)


def test_another_bad_line_in_place_of_a_bad_one_changes_nothing():
    given = entries("a", None, "b")
    mark = Mark(RUN, 3, mark_at(given, 3).digest)
    now = [given[0], Entry("a.jsonl", 2, None, "worse", 9), given[2]]
    assert len(list(named(iter(now), SOURCE, RUN, mark))) == 3
