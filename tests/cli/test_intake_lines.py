import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.intake.lines import Line, read_lines


def contents(text, max_bytes=1000):
    return [line.content for line in read_lines(io.BytesIO(text), max_bytes)]


def test_lines_are_cut_on_the_newline_byte_alone():
    text = "a\u2028b\u0085c\vd\fe\x1cf\rg"
    assert contents(f"{text}\nnext\n".encode()) == [text.encode(), b"next"]


def test_blank_lines_are_passed_over_and_counted():
    lines = list(read_lines(io.BytesIO(b"a\n\n  \t\r\nb")))
    assert [(line.number, line.content) for line in lines] == [(1, b"a"), (4, b"b")]


def test_a_byte_order_mark_at_the_start_and_the_return_of_windows_lines_are_dropped():
    assert contents(b"\xef\xbb\xbfa\r\n\xef\xbb\xbfb\r\n") == [b"a", b"\xef\xbb\xbfb"]


def test_the_last_line_needs_no_newline():
    assert contents(b"a\nb") == [b"a", b"b"]


def test_a_line_over_the_limit_is_passed_over_and_the_next_is_read():
    long = b"x" * 25
    assert list(read_lines(io.BytesIO(b"ok\n" + long + b"\nnext\n"), 10)) == [
        Line(1, b"ok", 3),
        Line(2, None, 26),
        Line(3, b"next", 5),
    ]


def test_a_line_of_just_the_limit_is_read():
    assert contents(b"x" * 10 + b"\n" + b"y" * 10, 10) == [b"x" * 10, b"y" * 10]


def test_no_more_than_the_limit_is_asked_of_the_file_at_once():
    class Watched(io.BytesIO):
        most = 0

        def readline(self, size=-1):
            assert size > 0
            piece = super().readline(size)
            self.most = max(self.most, len(piece))
            return piece

    file = Watched(b"x" * 1000 + b"\n")
    assert [line.content for line in read_lines(file, 16)] == [None]
    assert file.most <= 17


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and not line.isspace())))
def test_every_line_comes_out_as_it_went_in(lines):
    written = [b"x" + line + b"x" for line in lines]
    assert contents(b"\n".join(written), 10_000) == written
    assert sum(line.nbytes for line in read_lines(io.BytesIO(b"\n".join(written)))) == len(b"\n".join(written))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_nothing_of_a_file_in_utf_16_becomes_a_prompt(command, queue, write, encoding):
    said = command("enqueue", "--lines", write("n.txt", "zeile eins\nzeile zwei\n".encode(encoding)))
    assert said.code != 0
    assert "UTF-16" in said.err
    assert queue.prompts() == []
