"""The splitter by examples; its rule for any bytes however cut stands in tests/fuzz/test_splitter_and_replies.py."""

import tracemalloc

import pytest

from orchestrator.core.lines import Overlong, Splitter

BOM = b"\xef\xbb\xbf"


def split(chunks, max_bytes=1 << 30):
    splitter = Splitter(max_bytes)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return found, splitter.tail()


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
