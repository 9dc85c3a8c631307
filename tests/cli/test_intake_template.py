import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.intake.rows import BadLine
from orchestrator.intake.template import parse_template, parse_with_template


def filled(template, line):
    return parse_with_template(line.encode(), parse_template(template))


def test_fields_are_put_into_the_text():
    assert filled("{a} and {b}, {a}", '{"a": "x", "b": "y", "c": "z"}').prompt == "x and y, x"


def test_doubled_braces_are_braces():
    assert filled("{{{a}}} {{b}}", '{"a": "x"}').prompt == "{x} {b}"


def test_a_field_in_braces_within_a_value_is_not_filled_again():
    assert filled("{a}", '{"a": "{b} {{", "b": "no"}').prompt == "{b} {{"


def test_a_value_that_is_no_text_goes_in_as_its_json():
    assert filled("{a} {b} {c}", '{"a": 1.50, "b": true, "c": {"x":  [1]}}').prompt == '1.50 true {"x":  [1]}'


def test_names_of_fields_may_be_anything_without_braces():
    assert filled("{a b.c[0]!r:d}", '{"a b.c[0]!r:d": "x"}').prompt == "x"


def test_of_the_other_fields_only_custom_id_is_taken():
    row = filled("{q}", '{"q": "x", "custom_id": "c", "model": "m", "tag": "t", "url": "u", "body": {}}')
    assert (row.custom_id, row.model, row.tag, row.endpoint, row.body) == ("c", None, None, None, None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"b": "x"}', 'field "a" of the template is missing: the row has "b"'),
        ('{"a": null}', 'field "a" of the template is null'),
        ("{}", "no fields"),
        ("x", "not valid JSON"),
        ('{"a": "x", "custom_id": "\u00e9"}', "custom_id is not ASCII"),
    ],
)
def test_a_line_that_does_not_fill_the_template_is_bad(line, told):
    with pytest.raises(BadLine) as caught:
        filled("{a}", line)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["none", "", "{", "}", "{}", "a { b", "{a", "a}", "{a}}", "{{a}", "{{a}}"])
def test_a_template_with_lone_braces_or_without_a_field_is_refused(text):
    with pytest.raises(ValueError, match=r"field|brace"):
        parse_template(text)


@given(st.text(), st.text())
def test_any_text_can_stand_around_a_field(before, after):
    escaped = [part.replace("{", "{{").replace("}", "}}") for part in (before, after)]
    template = parse_template("{a}".join(escaped))
    assert template.fill(lambda _name: "x") == f"{before}x{after}"
