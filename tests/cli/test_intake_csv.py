import csv
import io
from functools import partial

import pytest

from orchestrator.intake.formats import read_csv
from orchestrator.intake.template import parse_template


def entries(text, template=None):
    content = text if isinstance(text, bytes) else text.encode()
    return list(read_csv(io.BytesIO(content), "a.csv", template and parse_template(template)))


def rows(text, template=None):
    found = entries(text, template)
    assert [entry.mistake for entry in found] == [""] * len(found)
    return [entry.row for entry in found]


def test_a_header_names_columns_and_empty_cells_are_left_out():
    (row,) = rows('custom_id,prompt,priority,metadata,model\nc,"a, ""b""\r\nc",5,"{""k"": 1}",\n')
    assert (row.custom_id, row.prompt, row.priority, row.model) == ("c", 'a, "b"\r\nc', 5, None)
    assert row.metadata == '{"k": 1}'


def test_a_byte_order_mark_is_no_part_of_the_first_name():
    assert rows(b"\xef\xbb\xbfprompt\nx\n")[0].prompt == "x"


def test_a_template_takes_any_columns():
    (row,) = rows("q,a,custom_id\nWhy,,c\n", "{q}? [{a}]")
    assert (row.prompt, row.custom_id) == ("Why? []", "c")


def test_a_record_is_told_by_the_line_where_it_starts():
    found = entries('prompt,priority\n"a\nb",1\n\nx,high\n"c\n\nd",bad\ne\n')
    assert [(entry.line, bool(entry.mistake)) for entry in found] == [(2, False), (5, True), (6, True), (9, True)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt,promt\na,b\n", 'unknown column "promt": did you mean "prompt"?'),
        ("prompt,prompt\na,b\n", "comes twice"),
        ("prompt;model\na;b\n", "separated by ;: save it with commas"),
        ('"id";"prompt"\r\na;b\n', "separated by ;: save it with commas"),
        ("prompt\tid\na\tb\n", "separated by tabs: save it with commas"),
        (",prompt\n0,a\n", "column 1 has no name: name it, or delete the column"),
        ("prompt, \na,b\n", "column 2 has no name: name it, or delete the column"),
        ("Prompt\na\n", 'column "Prompt" is "prompt" but for its case or blanks around: write prompt'),
        ("prompt, model\na,b\n", 'column " model" is "model" but for its case or blanks around: write model'),
    ],
)
def test_a_header_that_cannot_be_used_is_the_one_bad_line_of_its_file(text, told):
    (only,) = entries(text)
    assert only.where == "a.csv:1"
    assert told in only.mistake


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (b"a", "1 cells where the header has 3"),
        (b"a,1,,", "4 cells where the header has 3"),
        (b"a,1.5,", "priority must be a whole number"),
        (b"a,9223372036854775808,", "priority must be a whole number"),
        (b"a,1,{", "metadata is not valid JSON"),
        (b",1,", "neither prompt nor body"),
        (b"\xff,1,", "prompt is not UTF-8"),
    ],
)
def test_a_record_that_makes_no_row_is_bad_and_the_next_is_read(record, told):
    bad, good = entries(b"prompt,priority,metadata\n" + record + b"\nok,1,\n")
    assert told in bad.mistake
    assert good.row.prompt == "ok"


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (
            '"a\nb\n\n"c" d,1\n',
            'a quote that opens here is not closed properly, and lines 3 to 6 are left out: write "',
        ),
        ('"a" b,1\n', 'a quote that opens here is not closed properly: write " within a cell as ""'),
        ('"a\nb",1,2\n', "3 cells where the header has 2: quote cells that hold commas (lines 3 to 4)"),
    ],
)
def test_a_stray_quote_is_told_with_the_lines_that_it_swallows(records, told):
    first, bad, last = entries(f"prompt,priority\nok,1\n{records}good,2\n")
    assert (first.row.prompt, last.row.prompt) == ("ok", "good")
    assert (bad.line, bad.mistake.startswith(told)) == (3, True), bad.mistake


def test_a_quote_that_is_never_closed_is_told_with_the_lines_up_to_the_end():
    (_, bad) = entries('prompt\nok\n"a\nb\nc\n')
    lost = "lines 3 to 5 are left out"
    assert (
        bad.mistake == f'a quote that opens here is never closed, and {lost}: close it, and write " within a cell as ""'
    )


def test_a_header_with_a_stray_quote_is_the_one_bad_line_of_its_file():
    (only,) = entries('prompt,"model" x\na,b\nc,d\n')
    assert only.line == 1
    assert "is not closed properly, and nothing of the file is read: write" in only.mistake


def test_a_cell_over_the_limit_is_told_and_the_next_record_is_read(monkeypatch, request):
    request.addfinalizer(partial(csv.field_size_limit, csv.field_size_limit()))
    monkeypatch.setattr("orchestrator.intake.formats.MAX_LINE_BYTES", 10)
    bad, good = entries('prompt\n"a\nbcdefghijklmno\ngood\n')
    assert bad.mistake == "a cell is longer than 64 MB, and lines 2 to 3 are left out: close its quote, or shorten it"
    assert (good.line, good.row.prompt) == (4, "good")


def test_a_field_that_the_template_names_must_be_a_column():
    (bad,) = entries("q\nx\n", "{question}")
    assert 'field "question" of the template is missing: the row has "q"' in bad.mistake


@pytest.mark.parametrize("text", ["", "\n \r\n\t\n"])
def test_an_empty_file_holds_nothing(text):
    assert entries(text) == []


def test_blank_lines_above_the_header_are_passed_over_and_counted():
    (entry,) = entries("\n  \r\nprompt\n\nx\n")
    assert (entry.line, entry.row.prompt) == (5, "x")
    (bad,) = entries("\n\npromt\nx\n")
    assert bad.where == "a.csv:3"


def test_with_a_template_other_separators_are_known_by_its_fields_and_one_column_may_have_no_name():
    (bad,) = entries("text;label\na;b\n", "{text}")
    assert bad.mistake == "separated by ;: save it with commas"
    assert [row.prompt for row in rows("a;b\nx\n", "{a;b}")] == ["x"]
    assert [row.prompt for row in rows(",text\n0,x\n", "{text}")] == ["x"]
    (bad,) = entries(",,text\n0,1,x\n", "{text}")
    assert bad.mistake == "column 2 has no name: name it, or delete the column"
