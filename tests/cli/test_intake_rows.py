import json

import pytest

from orchestrator.intake.rows import COLUMNS, BadLine, parse_row
from orchestrator.store.intake import WRITTEN


def refusal(line):
    with pytest.raises(BadLine) as caught:
        parse_row(line if isinstance(line, bytes) else line.encode())
    text = str(caught.value)
    assert text.isprintable()
    return text


def test_a_row_may_name_every_column_of_the_table():
    row = {name: name for name in COLUMNS} | {"priority": -7, "body": {"a": 1}, "metadata": {"b": 2}}
    parsed = parse_row(json.dumps(row).encode())
    assert set(WRITTEN) == set(COLUMNS)
    assert {name: getattr(parsed, name) for name in COLUMNS} == row | {"body": '{"a": 1}', "metadata": '{"b": 2}'}


def test_what_a_row_leaves_out_or_sets_to_null_is_left_to_the_table():
    nulls = ", ".join(f'"{name}": null' for name in COLUMNS if name != "prompt")
    left_out, set_to_null = parse_row(b'{"prompt": "a"}'), parse_row(f'{{"prompt": "a", {nulls}}}'.encode())
    assert left_out == set_to_null
    assert left_out.custom_id is None
    assert left_out.priority == 0


@pytest.mark.parametrize("column", ["body", "metadata"])
@pytest.mark.parametrize(
    "text", ['{"z":1.0,  "a":1e2, "e":"\u00e9\\u00e9", "z":12345678901234567890123}', "{ }", '{"a":[{"b":null}]}']
)
def test_the_bytes_of_an_object_are_kept(column, text):
    parsed = parse_row(f'{{"prompt": "p", "{column}" :  {text}  }}'.encode())
    assert getattr(parsed, column) == text


def test_an_object_may_come_as_json_text():
    inner = '{"temperature": 0.0,\n "stop": "\u2028"}'
    assert parse_row(json.dumps({"prompt": "p", "body": inner}).encode()).body == inner


def test_a_line_of_a_batch_file_is_known_by_url_and_body():
    line = b'{"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m",  "input": 1.50}}'
    parsed = parse_row(line)
    assert (parsed.custom_id, parsed.endpoint) == ("c", "/v1/embeddings")
    assert parsed.body == '{"model": "m",  "input": 1.50}'


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "p", "model": "m"}, True),
        ({"body": {"model": "m"}}, True),
        ({"prompt": "p", "body": {"temperature": 0}}, False),
        ({"prompt": "p", "model": ""}, False),
    ],
)
def test_a_row_tells_whether_it_or_its_body_names_a_model(row, named):
    assert parse_row(json.dumps(row).encode()).names_model is named


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"promt": "a"}', 'unknown key "promt": did you mean "prompt"?'),
        ('{"question": "a"}', "--template"),
        ('{"messages": [], "model": "m"}', "messages is a parameter of the request: put it into body"),
        ('{"prompt": "a", "temperature": 0}', "temperature is a parameter of the request: put it into body"),
        ('{"prompt": "a"}\r{"prompt": "b"}\r', "its lines end with CR alone: save the file with LF line ends"),
        ('{"prompt": "a", "names_model": true}', 'unknown key "names_model"'),
        ("hello", "--lines"),
        ("[1]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ('{"prompt": "a"} x', "not valid JSON"),
        ('{"prompt": "a"', "not valid JSON"),
        ('{"prompt": "a\\ud800"}', "surrogate"),
        (b'{"prompt": "\xff"}', "not UTF-8 (byte 12)"),
        ('{"prompt": "a", "body": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"prompt": 5}', "prompt must be text"),
        ('{"prompt": "a", "tag": ["x"]}', "tag must be text"),
        ('{"prompt": "a", "priority": "high"}', "priority must be a whole number"),
        ('{"prompt": "a", "priority": 1.5}', "priority must be a whole number"),
        ('{"prompt": "a", "priority": true}', "priority must be a whole number"),
        ('{"prompt": "a", "priority": 9223372036854775808}', "priority must be a whole number"),
        ('{"tag": "a"}', "neither prompt nor body"),
        ('{"body": [1]}', "body is not a JSON object"),
        ('{"body": "nonsense"}', "body is not valid JSON"),
        ('{"body": ""}', "body is not valid JSON"),
        ('{"body": "[1]"}', "body is not a JSON object"),
        ('{"prompt": "a", "metadata": 5}', "metadata is not a JSON object"),
        (b'{"prompt": "a", "body": {"a": "\xff"}}', "body is not UTF-8"),
        ('{"prompt": "a", "custom_id": ""}', "0 bytes long"),
        ('{"prompt": "a", "custom_id": "' + "x" * 65 + '"}', "65 bytes long"),
        ('{"prompt": "a", "custom_id": "\u00e9"}', "not ASCII"),
        ('{"prompt": "a", "custom_id": "a\\u0000"}', "control character"),
        ('{"prompt": "a", "custom_id": "a\\u007f"}', "control character"),
        ('{"prompt": "a", "custom_id": 5}', "custom_id must be text"),
        ('{"url": "/v1/x", "custom_id": "a"}', "url stands without body"),
        ('{"method": "POST", "prompt": "a"}', "method stands without url"),
        ('{"method": "GET", "url": "/v1/x", "body": {}}', "lines of a batch file are POST"),
        ('{"url": "/v1/x", "endpoint": "/v1/x", "body": {}}', "both url and endpoint"),
        ('{"\x1b": 1}'.replace("\x1b", "\\u001b"), "unknown key"),
    ],
)
def test_a_line_that_the_table_would_refuse_is_told_with_a_remedy(line, told):
    assert told in refusal(line)


def test_priority_takes_all_64_bits():
    assert parse_row(b'{"prompt": "a", "priority": 9223372036854775807}').priority == 2**63 - 1
    assert parse_row(b'{"prompt": "a", "priority": -9223372036854775808}').priority == -(2**63)


def test_custom_ids_of_1_to_64_printable_characters_are_taken():
    for custom_id in ("a", "x" * 64, ' !"#~'):
        assert parse_row(json.dumps({"prompt": "a", "custom_id": custom_id}).encode()).custom_id == custom_id
