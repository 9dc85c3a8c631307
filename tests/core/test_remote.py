import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.remote import (
    Page,
    RemoteBatch,
    RemoteError,
    RemoteFile,
    RemoteState,
    parse_batch,
    parse_file,
    parse_object,
    parse_page,
    state_of,
)

FIELDS = ["id", "status", "output_file_id", "error_file_id", "input_file_id", "request_counts", "errors", "metadata"]
FIELDS += ["created_at", "expires_at", "job", "total", "completed", "failed", "data", "line", "code", "message"]
FIELDS += ["filename", "bytes", "has_more", "last_id"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        [0, -1, 2**63, 10**400, 1e300, -0.0, "", "completed", "x" * 300, "\x00", "0001-01-01T00:00+23:59"]
    )
    | st.floats()
    | st.text(max_size=6)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)
told_objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8)


def is_text(value):
    return value is None or (isinstance(value, str) and value != "")


def is_count(value):
    return value is None or (type(value) is int and 0 <= value < 2**53)


@settings(max_examples=30, deadline=None)
@given(told_objects)
def test_no_shape_of_a_batch_stops_the_reader(told):
    found = parse_batch(told)
    if found is None:
        return
    assert found.id
    assert found.status
    assert all(is_text(value) for value in (found.output_file_id, found.error_file_id, found.input_file_id))
    assert all(is_count(value) for value in (found.total, found.completed, found.failed))
    assert all(value is None or abs(value) < 2**53 for value in (found.created_at_ms, found.expires_at_ms))
    for error in found.errors:
        assert is_text(error.code)
        assert is_text(error.message)
        assert is_count(error.line)
        assert error.line != 0
    assert isinstance(found.state, RemoteState)


@settings(max_examples=30, deadline=None)
@given(told_objects)
def test_no_shape_of_a_file_or_a_listing_stops_the_reader(told):
    file = parse_file(told)
    assert file is None or (file.id and is_text(file.name) and is_count(file.nbytes))
    page = parse_page(told)
    assert page is None or all(isinstance(item, dict) for item in page.items)
    assert page is None or is_text(page.last_id)


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "id"])
@pytest.mark.parametrize("value", [None, "", 0, -1, 2**80, 1.5, True, "text", [], [None], {}, {"data": None}])
def test_one_odd_field_costs_no_other(field, value):
    whole = {
        "id": "b",
        "status": "completed",
        "input_file_id": "i",
        "output_file_id": "o",
        "error_file_id": "e",
        "created_at": 5,
        "expires_at": 6,
        "metadata": {"k": "v"},
        "request_counts": {"total": 3, "completed": 2, "failed": 1},
    }
    known, odd = parse_batch(whole), parse_batch(whole | {field: value})
    same = {
        name
        for name in (
            "id",
            "status",
            "input_file_id",
            "output_file_id",
            "error_file_id",
            "created_at_ms",
            "expires_at_ms",
            "metadata_values",
        )
        if getattr(known, name) == getattr(odd, name)
    }
    assert len(same) >= 7


@pytest.mark.parametrize("told", [{}, {"id": None}, {"id": ""}, {"id": 7}, {"job": {}}, {"job": "b"}])
def test_what_has_no_id_is_no_batch_and_no_file(told):
    assert parse_batch(told) is None
    assert parse_file(told) is None


def test_a_batch_is_taken_out_of_its_wrapping():
    assert parse_batch({"job": {"id": "b", "status": "VALIDATING"}, "warning": None}) == RemoteBatch("b", "VALIDATING")


@pytest.mark.parametrize("value", [".", "..", "a\nb", "a\x00b", "x" * 1001])
def test_what_cannot_be_a_part_of_a_path_is_no_id(value):
    assert parse_batch({"id": value}) is None
    assert parse_file({"id": value}) is None
    assert parse_batch({"id": "b", "output_file_id": value}).output_file_id is None


def test_of_what_a_provider_says_no_more_is_kept_than_anybody_reads():
    found = parse_batch(
        {
            "id": "b",
            "status": "x" * 10_000,
            "errors": [{"message": "m" * 10_000, "code": "c" * 10_000}, "t" * 10_000] + [{}] * 10_000,
            "metadata": {str(number): str(number) for number in range(10_000)},
        }
    )
    assert len(found.status) == 100
    assert len(found.errors) == 1000
    assert {len(text) for error in found.errors[:2] for text in (error.code, error.message) if text} == {2000}
    assert len(found.metadata_values) == 100


def test_no_nul_is_kept_of_what_a_provider_says():
    found = parse_batch({"id": "b", "status": "a\x00b", "errors": ["c\x00d", {"message": "e\x00f", "code": "\x00"}]})
    assert found.status == "a\N{REPLACEMENT CHARACTER}b"
    assert [error.message for error in found.errors] == ["c\N{REPLACEMENT CHARACTER}d", "e\N{REPLACEMENT CHARACTER}f"]
    assert found.errors[1].code == "\N{REPLACEMENT CHARACTER}"


def test_an_empty_file_id_is_an_absent_one():
    found = parse_batch({"id": "b", "output_file_id": "", "error_file_id": ""})
    assert (found.output_file_id, found.error_file_id) == (None, None)


def test_counts_stand_in_their_object_or_beside_the_status():
    nested = parse_batch({"id": "b", "request_counts": {"total": 3, "completed": 2, "failed": 1}, "total": 9})
    flat = parse_batch({"id": "b", "request_counts": None, "total": 3, "completed": 2, "failed": 1})
    assert (nested.total, nested.completed, nested.failed) == (flat.total, flat.completed, flat.failed) == (3, 2, 1)


def test_only_texts_of_the_metadata_are_kept():
    found = parse_batch({"id": "b", "metadata": {"key": "orc-1", "n": 1, "x": None}})
    assert found.metadata_values == {"orc-1"}
    assert parse_batch({"id": "b", "metadata": ["orc-1"]}).metadata_values == frozenset()


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("validating", RemoteState.VALIDATING),
        ("in_progress", RemoteState.RUNNING),
        ("finalizing", RemoteState.RUNNING),
        ("completed", RemoteState.COMPLETED),
        ("succeeded", RemoteState.COMPLETED),
        ("partially_succeeded", RemoteState.COMPLETED),
        ("success", RemoteState.COMPLETED),
        ("failed", RemoteState.FAILED),
        ("error", RemoteState.FAILED),
        ("expired", RemoteState.EXPIRED),
        ("timeout_exceeded", RemoteState.EXPIRED),
        ("cancelling", RemoteState.CANCELLING),
        ("canceling", RemoteState.CANCELLING),
        ("cancellation_requested", RemoteState.CANCELLING),
        ("cancelled", RemoteState.CANCELLED),
        ("canceled", RemoteState.CANCELLED),
        ("queued", RemoteState.RUNNING),
        ("pre_schedule", RemoteState.RUNNING),
        ("scheduling", RemoteState.RUNNING),
        ("progress", RemoteState.RUNNING),
        ("no-such-word", RemoteState.RUNNING),
        ("", RemoteState.RUNNING),
    ],
)
def test_a_status_means_the_same_in_any_case(word, state):
    for spelled in (word, word.upper(), word.title(), f" {word} ", f"JOB_STATE_{word.upper()}"):
        assert state_of(spelled) is state


def test_only_four_states_are_over():
    assert {state for state in RemoteState if state.over} == {"completed", "failed", "expired", "cancelled"}


def test_a_missing_status_is_still_running():
    assert parse_batch({"id": "b"}).state is RemoteState.RUNNING


LINE_3 = RemoteError("invalid_json_line", "line 3 is bad", 3)


@pytest.mark.parametrize(
    ("told", "errors"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ({}, ()),
        ({"object": "list", "data": []}, ()),
        (7, ()),
        ({"data": [{"code": "invalid_json_line", "message": "line 3 is bad", "line": 3, "param": None}]}, (LINE_3,)),
        ([{"code": "invalid_json_line", "message": "line 3 is bad", "line": 3}], (LINE_3,)),
        ({"code": "invalid_json_line", "message": "line 3 is bad", "line": 3}, (LINE_3,)),
        ("the file is bad", (RemoteError(None, "the file is bad", None),)),
        (["one", 7, None, {"message": "two"}], (RemoteError(None, "one", None), RemoteError(None, "two", None))),
        ([{"code": "x", "line": 0}], (RemoteError("x", None, None),)),
        ([{"code": "x", "line": "3"}], (RemoteError("x", None, None),)),
        ({"code": "x", "data": "no list"}, (RemoteError("x", None, None),)),
    ],
)
def test_errors_are_read_in_every_shape(told, errors):
    assert parse_batch({"id": "b", "errors": told}).errors == errors


@pytest.mark.parametrize(
    ("told", "ms"),
    [
        (1_790_000_000, 1_790_000_000_000),
        (1_790_000_000.5, 1_790_000_000_500),
        ("2026-09-21T14:13:20Z", 1_790_000_000_000),
        ("2026-09-21T14:13:20", 1_790_000_000_000),
        ("2026-09-21T16:13:20+02:00", 1_790_000_000_000),
        ("2026-09-21 14:13:20.250", 1_790_000_000_250),
        (0, None),
        (-5, None),
        (1_790_000_000_000_000, None),
        (True, None),
        ("soon", None),
        ("", None),
        ([], None),
        (None, None),
    ],
)
def test_times_are_read_as_epoch_and_as_iso(told, ms):
    assert parse_batch({"id": "b", "expires_at": told}).expires_at_ms == ms


def test_a_file_has_a_name_and_a_size_where_they_are_told():
    assert parse_file({"id": "f", "filename": "a.jsonl", "bytes": 7}) == RemoteFile("f", "a.jsonl", 7)
    assert parse_file({"id": "f", "filename": None, "bytes": "7"}) == RemoteFile("f", None, None)


@pytest.mark.parametrize(
    ("told", "page"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}], "has_more": True}, Page(({"id": "a"}, {"id": "b"}), "b")),
        ({"data": [{"id": "a"}], "has_more": True, "last_id": "z"}, Page(({"id": "a"},), "z")),
        ({"data": [{"id": "a"}], "has_more": False, "last_id": "a"}, Page(({"id": "a"},), None)),
        ({"data": [{"id": "a"}]}, Page(({"id": "a"},), None)),
        ({"data": [], "has_more": True}, Page((), None)),
        ({"data": [None, 7, {"id": 7}]}, Page(({"id": 7},), None)),
        ({"data": [None, 7, {"id": 7}], "has_more": True}, None),
        ({"data": [{"id": "a"}, {"id": ".."}], "has_more": True}, None),
        ({"data": None, "has_more": True}, Page((), None)),
        ({"data": {"id": "a"}, "has_more": True}, None),
        ({}, None),
    ],
)
def test_a_listing_goes_on_only_when_it_says_so_and_from_where(told, page):
    assert parse_page(told) == page


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=20) | values.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_stop_the_reader_of_an_object(data):
    assert isinstance(parse_object(data), dict | None)


def test_only_an_object_is_an_object():
    assert parse_object(b'{"a": [1]}') == {"a": [1]}
    assert parse_object(b'{"a":[' + b"{}," * 400_000 + b"1]}") is not None
    for data in (
        b'{"a":[' + b"{}," * 600_000 + b"1]}",
        b"[]",
        b"1",
        b"",
        b"{",
        b"\xff",
        b'{"a":"\xff"}',
        b"[" * 100_000,
    ):
        assert parse_object(data) is None
