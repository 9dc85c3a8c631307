"""What a provider says of its batches, files and refusals: any shape of it is read, and no more than fits is kept."""

import itertools
import json
import math
from datetime import UTC, datetime

import pytest
from effort import tried
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.api import failures
from orchestrator.core import remote
from orchestrator.errors import AccountBlocked, NotFound, Rejected, ReplyLost, Throttled

DEEP = 20_000
BATCH = {
    "id": "b", "status": "completed", "output_file_id": "o", "error_file_id": "e", "input_file_id": "i",
    "request_counts": {"total": 3, "completed": 2, "failed": 1}, "metadata": {"k": "orc-1"}, "created_at": 5,
    "expires_at": 6, "errors": {"data": [{"code": "c", "message": "m", "line": 3}]},
}  # fmt: skip
NAMES = (*BATCH, "job", "total", "data", "line", "code", "message", "filename", "bytes", "has_more", "last_id", "error")
NAMES += ("retry_after_seconds",)
ODD = (
    "null", "true", "false", "0", "-1", "3", "1.5", "1e308", "1e999", "-1e999", "NaN", "9" * 30, "9" * 5000, "-0.0",
    str(2**53), str(2**63), str(2**64), '""', '" "', '"."', '".."', '"\\u0000"', '"a\\nb"', '"\\ud800"', '"\\u202e"',
    '"\U0010ffff"', '"' + "x" * 3000 + '"', "[" * DEEP + "]" * DEEP, '{"job":' * DEEP + "1" + "}" * DEEP,
    '{"data":[' * 300 + "]}" * 300, "[]", "{}", "[null]", "[{}]", '"0001-01-01T00:00:00+23:59"',
    '"9999-12-31T23:59:59-23:59"', '"2026-W01"', '"line 3"', '"line 999999999"', '"Line 0"', '"insufficient_quota"',
    '"2026-01-01T00:00:00.123456789Z"', "[" + ",".join(['"x"'] * 2000) + "]",
    "{" + ",".join(f'"{n}":"v{n}"' for n in range(300)) + "}",
)  # fmt: skip
odd = st.sampled_from(ODD) | st.text(max_size=6).map(json.dumps) | st.floats(allow_nan=False).map(repr)


def objects(values):
    """JSON text, with keys that may stand twice."""
    members = st.tuples(st.sampled_from(NAMES), values).map(lambda one: f'"{one[0]}":{one[1]}')
    return st.lists(members, max_size=6).map(lambda some: "{" + ",".join(some) + "}")


documents = st.recursive(
    odd,
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda some: f"[{','.join(some)}]"),
    max_leaves=8,
)
told_texts = objects(documents) | st.tuples(st.sampled_from(list(BATCH)), documents).map(
    lambda one: json.dumps(BATCH)[:-1] + f',"{one[0]}":{one[1]}}}'
)
PLACES = (
    '{"id":"b","%s":%s}', '{"job":{"id":"b","%s":%s}}', '{"id":"b","request_counts":{"%s":%s}}',
    '{"id":"b","errors":[{"%s":%s}]}', '{"data":[{"id":"b"}],"has_more":true,"%s":%s}', '{"error":{"%s":%s}}',
)  # fmt: skip
placed = st.tuples(st.sampled_from(PLACES), st.sampled_from(NAMES), odd).map(lambda one: one[0] % one[1:])
bodies = (told_texts | documents | placed).map(lambda text: text.encode(errors="replace")) | st.binary(max_size=40)


def is_text(value, most):
    return value is None or (isinstance(value, str) and 0 < len(value) <= most and "\x00" not in value)


def is_id(value):
    return is_text(value, remote.ID_CHARS) and (value is None or (value.isprintable() and value not in (".", "..")))


def is_count(value):
    return value is None or (type(value) is int and 0 <= value < 1 << 53)


def is_time(value):
    """A whole number that any column holds and that names a day."""
    return value is None or (type(value) is int and abs(value) < 1 << 53)


def is_error(error):
    named = error.line is None or (is_count(error.line) and error.line > 0)
    return named and is_text(error.code, remote.TEXT_CHARS) and is_text(error.message, remote.TEXT_CHARS)


def told(body):
    found = remote.parse_object(body)
    assert found is None or isinstance(found, dict)
    return found or {}


@tried(150)
@given(bodies)
def test_a_batch_of_any_shape_is_read_within_its_bounds(body):
    check_batch(body)


def check_batch(body):
    found = remote.parse_batch(told(body))
    if found is None:
        return
    assert found.id
    assert found.status
    assert is_text(found.status, remote.STATUS_CHARS)
    assert isinstance(found.state, remote.RemoteState)
    assert all(map(is_id, (found.id, found.output_file_id, found.error_file_id, found.input_file_id)))
    assert all(map(is_count, (found.total, found.completed, found.failed)))
    assert all(map(is_time, (found.created_at_ms, found.expires_at_ms)))
    assert len(found.errors) <= remote.ERRORS_KEPT
    assert all(map(is_error, found.errors))
    assert len(found.metadata_values) <= remote.METADATA_KEPT
    assert all(isinstance(value, str) for value in found.metadata_values)
    assert all(text.encode() for text in (found.id, found.status))


@tried(100)
@given(st.sampled_from(list(BATCH)), odd)
def test_one_odd_member_of_a_batch_leaves_the_others_as_they_were(name, value):
    body = f'{json.dumps({key: kept for key, kept in BATCH.items() if key != name})[:-1]},"{name}":{value}}}'
    known, found = remote.parse_batch(BATCH), remote.parse_batch(told(body.encode()))
    if found is None:  # no id, or no JSON at all
        assert name == "id" or remote.parse_object(body.encode()) is None
        return
    theirs = {"request_counts": ("total", "completed", "failed"), "metadata": ("metadata_values",)}
    theirs |= {"created_at": ("created_at_ms",), "expires_at": ("expires_at_ms",)}
    changed = {slot for slot in known.__slots__ if getattr(known, slot) != getattr(found, slot)}
    assert changed <= set(theirs.get(name, (name,)))


@tried(100)
@given(bodies)
def test_a_file_and_a_listing_of_any_shape_are_read_within_their_bounds(body):
    check_file_and_page(body)


def check_file_and_page(body):
    found = told(body)
    file, page = remote.parse_file(found), remote.parse_page(found)
    assert file is None or (file.id and is_id(file.id) and is_text(file.name, remote.TEXT_CHARS))
    assert file is None or is_count(file.nbytes)
    assert page is None or (is_id(page.last_id) and all(isinstance(item, dict) for item in page.items))
    if page is not None and page.last_id is not None:
        assert found["has_more"] is True
    if page is None and isinstance(found.get("data"), list):
        assert found["has_more"] is True


# ---------------------------------------------------------------- refusals

DOCUMENTED = (AccountBlocked, NotFound, Rejected, ReplyLost, Throttled)
DATES = (
    "", " ", "0", "60", "-1", "1.5", "1e9", "9" * 5000, "\N{SUPERSCRIPT TWO}", "\u0663", "soon", "Date:",
    "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 -2359",
    "Mon, 01 Jan 0001 00:00:00 +2359", "Mon, 01 Jan 0001 00:00:00", "Mon, 32 Jan 2024 00:00:00 GMT",
    "Mon, 01 Jan 2024 25:61:61 GMT", "Mon, 01 Jan 2024 00:00:00 +9999", "Mon, 01 Jan 99999 00:00:00 GMT",
    "Mon, 01 Jan 2024 00:00:00 +" + "9" * 20, "1 Jan", ",", ", ,", "Jan", "a b c d e", "Mon, 1 Jan 2024 0.0.0", "\x00",
)  # fmt: skip
parts = st.sampled_from(
    [
        "Mon,",
        "1",
        "01",
        "Jan",
        "2024",
        "0001",
        "9999",
        "00:00:00",
        "24:0",
        "1.2.3",
        ":",
        "GMT",
        "+",
        "-",
        "+2359",
        "-9999",
        "EST",
        "9" * 20,
        ",",
        "-0000",
        "²",
        "(",
        ")",
        "pm",
    ]
)
dates = st.sampled_from(DATES) | st.lists(parts, max_size=8).map(" ".join) | st.text(max_size=12)
headers = st.fixed_dictionaries({}, optional={"Retry-After": dates, "Date": dates})
refused = bodies | st.sampled_from(
    [b"<html>" + b"<" * 30_000, b"<" * 100_000, b"\xff" * 5000, b"Line 3: no", b"line " * 5000, b"file with id " * 5000]
)


def is_wait(seconds):
    return isinstance(seconds, float) and math.isfinite(seconds) and 0 <= seconds <= failures.LONGEST_WAIT_SECONDS


@tried(150)
@given(st.sampled_from([301, 400, 401, 404, 408, 429, 499, 500, 503]) | st.integers(100, 999), headers, refused)
@example(429, {"Retry-After": "Mon, 01 Jan 0001 00:00:00 +2359"}, b'{"retry_after_seconds":NaN}')
def test_every_refusal_is_one_of_the_known_exceptions(status, headers, body):
    found = failures.refusal("POST /files", status, headers, body)
    assert type(found) in DOCUMENTED
    assert found.status == status
    words, message = failures.said(body), str(found)
    assert message.startswith(f"POST /files: {status}")
    assert len(message) <= len(f"POST /files: {status} ") + max(len(words), failures.MESSAGE_CHARS + 100)
    if words and str(status) not in words and not ("Location" in headers and status < 400):
        assert message == f"POST /files: {status} {words}".rstrip()
    assert is_wait(getattr(found, "retry_after_seconds", 0.0))
    if isinstance(found, Rejected):
        assert 400 <= status < 500
        assert found.line is None or 0 < found.line < 10**9
    if status >= 500 or status < 400:
        assert type(found) is ReplyLost


@tried(150)
@given(refused)
def test_what_is_said_is_bounded_and_can_be_written(body):
    found = failures.said(body)
    assert len(found) <= failures.MESSAGE_CHARS
    assert found.encode().decode() == found
    line = failures.named_line(found)
    assert line is None or 0 < line < 10**9


@tried(200)
@given(headers, bodies)
def test_no_header_and_no_body_asks_for_a_wait_without_end(headers, body):
    assert is_wait(failures.retry_after_seconds(headers, body))


@tried(200)
@given(dates)
def test_a_date_is_read_or_passed_over(value):
    found = failures.date_of({"Date": value})
    assert found is None or (math.isfinite(found) and abs(found) < 1e12)


@tried(60)
@given(st.integers(631_152_000, 4_102_444_800).map(lambda second: datetime.fromtimestamp(second, UTC)))
def test_a_date_that_a_server_writes_is_the_one_that_is_read(moment):
    written = moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert failures.date_of({"Date": written}) == moment.timestamp()


@tried(100)
@given(
    st.integers(1, 10**9 - 1), st.sampled_from(["Line {}: no", "error on line {}", "line: #{}", "LINE #{}, column 4"])
)
def test_the_line_that_is_named_is_the_line_that_is_found(number, words):
    assert failures.named_line(words.format(number)) == number


@pytest.mark.parametrize("name", ["Retry-After", "Date"])
def test_every_odd_date_is_met(name):
    for value in DATES:
        assert is_wait(failures.retry_after_seconds({name: value}, b""))
        failures.date_of({name: value})


def test_every_odd_value_is_met_in_every_place():
    for place, name, value in itertools.product(PLACES, NAMES, ODD):
        body = (place % (name, value)).encode(errors="replace")
        check_batch(body)
        check_file_and_page(body)
        assert len(failures.said(body)) <= failures.MESSAGE_CHARS
