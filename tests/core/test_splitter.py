import itertools
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.core import lines
from orchestrator.core.lines import Overlong, Splitter

BOM = b"\xef\xbb\xbf"
PIECES = [b"\n", b"\r", b"\r\n", b"\n\n", BOM, "\u2028".encode(), "\u0085".encode(), b"\x00", b"\x0b", b"\x1c", b"{}"]

downloads = st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=30).map(b"".join)
cuts = st.lists(st.integers(0, 80), max_size=12)


def split(chunks, max_bytes=1 << 30):
    splitter = Splitter(max_bytes)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return found, splitter.tail()


def chunked(data, places):
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def reference_line(raw, max_bytes, *, is_first):
    if len(raw) > max_bytes:
        return Overlong(raw, len(raw))
    return (raw.removeprefix(BOM) if is_first else raw).removesuffix(b"\r")


def reference_split(data, max_bytes=1 << 30):
    raws = data.split(b"\n")
    found = [reference_line(raw, max_bytes, is_first=index == 0) for index, raw in enumerate(raws)]
    return [line for line in found[:-1] if line], found[-1]


@settings(max_examples=30, deadline=None)
@given(downloads, cuts)
@example(BOM + b"\r\n" + BOM + b"a\n", [1, 2, 3, 4, 5])
@example(b"a\r\nb", [2])
def test_chunking_changes_no_line(data, places):
    assert split(chunked(data, places)) == reference_split(data)


def same_line(found, expected, kept):
    """An overlong line's head is as much of its beginning as is kept, and at least all that fits under the cap."""
    if not isinstance(expected, Overlong):
        return found == expected
    least, most = kept
    return found.nbytes == expected.nbytes and expected.head.startswith(found.head) and least <= len(found.head) <= most


@settings(max_examples=30, deadline=None)
@given(downloads, cuts, st.integers(1, 12), st.integers(0, 8))
@example(b"abcdef\ng\n", [6], 5, 8)
@example(b"abcdef\ng\n", [5], 5, 2)
@example(b"abcdef\n" + BOM + b"g\n", [], 5, 2)
def test_a_line_over_the_cap_is_known_by_its_head_and_length_and_costs_no_other_line(data, places, max_bytes, kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "KEPT_OF_OVERLONG_BYTES", kept)
        found, tail = split(chunked(data, places), max_bytes)
    expected, expected_tail = reference_split(data, max_bytes)
    assert len(found) == len(expected)
    for one, other in zip([*found, tail], [*expected, expected_tail], strict=True):
        assert same_line(one, other, (min(max_bytes, kept), kept))


def test_the_cap_itself_is_not_over_the_cap():
    assert split([b"12345\n123456\n12345"], 5) == ([b"12345", Overlong(b"123456", 6)], b"12345")


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x00", "\r"])
def test_nothing_but_a_newline_ends_a_line(break_):
    line = f'{{"a":"x{break_}y"}}'.encode()
    assert split([line + b"\n" + line + b"\n"]) == ([line, line], b"")


def test_one_carriage_return_is_dropped_and_no_more():
    assert split([b"a\r\nb\r\r\n\r\n"]) == ([b"a", b"b\r"], b"")


def test_a_carriage_return_cut_from_its_newline_is_dropped():
    assert split([b"a\r", b"\nb\r", b"\n"]) == ([b"a", b"b"], b"")


def test_a_byte_order_mark_counts_only_at_the_very_start():
    assert split([BOM[:2], BOM[2:] + b"a\n" + BOM + b"b\n"]) == ([b"a", BOM + b"b"], b"")


def test_blank_lines_are_no_lines():
    assert split([b"\n\n\r\na\n", b"", b"\n"]) == ([b"a"], b"")


def test_a_torn_last_line_is_held_back():
    assert split([b'{"a":1}\n{"b":', b"2"]) == ([b'{"a":1}'], b'{"b":2')


def test_an_overlong_torn_line_is_held_back_too():
    assert split([b"a\n123", b"456"], 5) == ([b"a"], Overlong(b"123456", 6))


def test_memory_is_bounded_by_the_cap_however_long_the_line():
    chunk, cap = b"x" * (64 << 10), 256 << 10
    splitter = Splitter(cap)
    tracemalloc.start()
    try:
        for _ in range(1000):
            assert list(splitter.feed(chunk)) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (line,) = splitter.feed(b"\n")
    assert line.nbytes == 1000 * len(chunk)
    assert peak < 2 * cap + 4 * len(chunk)
