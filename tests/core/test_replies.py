import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.core.lines import Overlong, Reply, Unreadable, mend_surrogates, parse_reply

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["status_code", "body", "error", "message", ""]), inner, max_size=3)
    ),
    max_leaves=8,
)
tokens = st.sampled_from(
    [
        b'{"custom_id":"a"',
        b'"custom_id":',
        b'"response":',
        b'"error":',
        b'"status_code":',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"200",
        b'"x"',
        b'"\\ud800"',
        b'"\\',
        b"1e999",
        b"-0",
        b"\x00",
        b"\xff",
        b"\n",
        b" ",
        b'"body":',
    ]
)
DEEP = 100_000


def encoded(line):
    return json.dumps(line).encode()


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=60) | st.lists(tokens, max_size=14).map(b"".join))
@example(b'{"custom_id":null, broken')
@example(b'{"custom_id":"a","response":1, broken')
@example(b'{"custom_id":null,"x":"\\ud800"}')
@example(b'{"custom_id":"a","x":"\\ud800", broken')
@example(b'{"custom_id":"a","response":' + b"[" * DEEP)
@example(b'{"custom_id":"a","response":' + b"[" * DEEP + b"]" * DEEP + b"}")
@example(b'{"custom_id":"a","response":{"status_code":200,"body":' + b"[" * DEEP + b"]" * DEEP + b"}}")
@example(b"[" * DEEP + b"]" * DEEP)
@example(b"")
def test_no_bytes_stop_the_reader_and_what_it_cannot_read_is_kept_as_it_came(line):
    found = parse_reply(line)
    if isinstance(found, Unreadable):
        assert found.raw == line
        assert found.reason
    else:
        assert isinstance(found.custom_id, str)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=10), values, values)
@example("a", {"status_code": 10**30, "body": {}}, None)
@example("a", {"status_code": -(2**63) - 1}, None)
@example("a", {"status_code": "9" * 5000}, None)
def test_a_line_of_any_shape_keeps_its_id_and_a_status_that_fits_a_column(custom_id, response, error):
    found = parse_reply(encoded({"custom_id": custom_id, "response": response, "error": error}))
    assert isinstance(found, Reply)
    assert found.custom_id == custom_id
    assert found.status_code is None or abs(found.status_code) <= 10**9


def test_members_are_read_in_any_order_and_unknown_ones_are_passed_over():
    line = encoded({"error": None, "id": "x", "response": {"request_id": None, "status_code": 200, "body": {"a": 1}}})
    assert parse_reply(line[:-1] + b',"new":[1],"custom_id":"a"}') == Reply("a", 200, b'{"a": 1}', None)


def test_a_number_too_large_to_read_is_no_status():
    line = b'{"custom_id":"a","response":{"status_code":[1e999],"body":1}}'
    assert parse_reply(line) == Reply("a", None, b"1", None)


def test_a_body_keeps_its_bytes():
    body = '{ "z":1.0, "a":1E+2, "n":12345678901234567890123, "s":"\\u00e9\u2028é" }'
    line = f'{{"custom_id":"a","response":{{"status_code":200,"body":{body}}}}}'
    assert parse_reply(line.encode()) == Reply("a", 200, body.encode(), None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"custom_id": "a"}, Reply("a", None, None, None)),
        ({"custom_id": "a", "response": None, "error": None}, Reply("a", None, None, None)),
        ({"custom_id": "a", "response": {}}, Reply("a", None, None, None)),
        ({"custom_id": "a", "response": {"status_code": 200, "body": None}}, Reply("a", 200, None, None)),
        ({"custom_id": "a", "response": {"status_code": "429", "body": 1}}, Reply("a", 429, b"1", None)),
        ({"custom_id": "a", "response": {"status_code": 429.0, "body": 1}}, Reply("a", 429, b"1", None)),
        ({"custom_id": "a", "response": {"status_code": "soon", "body": 1}}, Reply("a", None, b"1", None)),
        ({"custom_id": "a", "response": {"status_code": "²", "body": 1}}, Reply("a", None, b"1", None)),
        ({"custom_id": "a", "response": {"status_code": [200], "body": 1}}, Reply("a", None, b"1", None)),
        ({"custom_id": "a", "response": {"status_code": 1e300}}, Reply("a", None, None, None)),
        ({"custom_id": "a", "response": {"status_code": 10**30, "body": 1}}, Reply("a", None, b"1", None)),
        ({"custom_id": "a", "response": "text"}, Reply("a", None, b'"text"', None)),
        ({"custom_id": "a", "response": [1], "error": {"code": "x"}}, Reply("a", None, b"[1]", b'{"code": "x"}')),
        ({"custom_id": "a", "error": "text"}, Reply("a", None, None, b'"text"')),
    ],
)
def test_each_shape_of_line_is_read(line, expected):
    assert parse_reply(encoded(line)) == expected


@pytest.mark.parametrize(
    ("line", "reason", "custom_id"),
    [
        (b'{"custom_id":"row-1","response":{"status_code":2', "not JSON", "row-1"),
        (b'{"custom_id" : "a\\"b\\\\c\\/d"', "not JSON", 'a"b\\c/d'),
        (b'{"custom_id":"row-1","x":"\xff"}', "not UTF-8 at byte 26", "row-1"),
        (b"<html>502</html>", "not JSON", None),
        (b'["custom_id"]', "not a JSON object", None),
        (b"null", "not a JSON object", None),
        (b"{}", "custom_id is missing or not a string", None),
        (b'{"custom_id":7}', "custom_id is missing or not a string", None),
        (b'{"custom_id":["a"]}', "custom_id is missing or not a string", None),
        (b'{"custom_id":"caf\xc3\xa9"', "not JSON", None),
    ],
)
def test_an_unreadable_line_says_why_and_whose_it_is_where_that_can_be_seen(line, reason, custom_id):
    found = parse_reply(line)
    assert isinstance(found, Unreadable)
    assert reason in found.reason
    assert (found.raw, found.custom_id) == (line, custom_id)


@settings(max_examples=30, deadline=None)
@given(st.text(string.printable[:95], min_size=1, max_size=64), st.booleans())
def test_every_id_we_can_send_is_made_out_in_a_cut_line(custom_id, slashes_escaped):
    named = json.dumps(custom_id)
    named = named.replace("/", "\\/") if slashes_escaped else named
    found = parse_reply(f'{{"id":"x","custom_id": {named},"response":{{"body":"'.encode())
    assert found.custom_id == custom_id


def test_a_line_of_more_values_than_memory_should_hold_is_not_read():
    head = b'{"custom_id":"row-1","response":{"status_code":200,"body":{"choices":['
    found = parse_reply(head + b"[]," * 4_000_000 + b"[]]}}}")
    assert (found.reason, found.custom_id) == ("line of over 8000000 JSON values", "row-1")
    assert len(found.raw) == 1 << 20


def test_a_line_of_many_values_is_read():
    head = b'{"custom_id":"row-1","response":{"status_code":200,"body":{"data":['
    assert isinstance(parse_reply(head + b"-0.125," * 1_200_000 + b"0]}}}"), Reply)


def test_a_line_over_the_cap_names_the_setting_and_keeps_its_head():
    found = parse_reply(Overlong(b'{"custom_id":"row-1","response":{"sta', 99))
    assert found == Unreadable(
        b'{"custom_id":"row-1","response":{"sta', "line of 99 bytes is over collection.max_line_bytes", "row-1"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb'"\ud800"', rb'"\ufffd"'),
        (rb'"\uDBFFx"', rb'"\ufffdx"'),
        (rb'"\udc00\ud800"', rb'"\ufffd\ufffd"'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\\ud800"', rb'"\\ud800"'),
        (rb'"\\\ud800"', rb'"\\\ufffd"'),
        (rb'"\u00e9\ud7ff\ue000"', rb'"\u00e9\ud7ff\ue000"'),
    ],
)
def test_only_lone_surrogates_are_mended(before, after):
    assert mend_surrogates(before) == after


def test_an_answer_with_a_lone_surrogate_is_an_answer():
    line = rb'{"custom_id":"a","response":{"status_code":200,"body":{"x":"1\ud8002"}}}'
    assert parse_reply(line) == Reply("a", 200, rb'{"x":"1\ufffd2"}', None)


def test_a_mended_line_of_another_shape_is_read_loosely():
    line = rb'{"custom_id":"a","response":{"status_code":"200","body":{"x":"\ud800"}}}'
    assert parse_reply(line) == Reply("a", 200, rb'{"x":"\ufffd"}', None)


def test_a_mended_line_without_an_id_stays_unreadable():
    line = rb'{"custom_id":7,"x":"\ud800"}'
    found = parse_reply(line)
    assert isinstance(found, Unreadable)
    assert found.raw == line
