import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.core.lines import Reply, Unreadable, parse_reply
from orchestrator.core.model import Fault
from orchestrator.core.outcomes import MESSAGE_CHARS, Outcome, judge, rejected_file, silence

WORDS = [
    "error",
    "choices",
    "message",
    "content",
    "text",
    "refusal",
    "finish_reason",
    "usage",
    "prompt_tokens",
    "model",
]
WORDS += ["status", "status_code", "code", "type", "details", "body", "output", "stop_reason", "data"]
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, 200, 400, 429, 10**25, -1.5, "", "failed", "content_filter", "batch_expired", "data: x"])
    | st.text(max_size=4)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2).map(json.dumps)
    ),
    max_leaves=8,
)
statuses = st.none() | st.sampled_from([0, -1, 200, 299, 300, 400, 429, 500, 10**9])


def reply(status=200, body=None, error=None):
    return parse_reply(
        json.dumps({"custom_id": "a", "response": {"status_code": status, "body": body}, "error": error}).encode()
    )


def answered(body, status=200):
    outcome = judge(reply(status, body))
    assert outcome.fault is None
    return outcome


def is_storable(value):
    if isinstance(value, str):
        return "\x00" not in value and value.encode() is not None
    return value is None or abs(value) < 2**63


@settings(max_examples=30, deadline=None)
@given(statuses, values, values)
@example(200, {"error": {"error": "x"}}, None)
@example(None, None, {"message": '{"type":"x","details":{"body":"{\\"error\\":7}","status":true}}'})
def test_whatever_a_line_says_its_outcome_can_be_stored(status, body, error):
    line = reply(status, body, error)
    outcome = judge(line)
    texts = (outcome.error_code, outcome.error_message, outcome.answer, outcome.finish_reason, outcome.model)
    numbers = (outcome.status_code, outcome.prompt_tokens, outcome.completion_tokens)
    assert all(map(is_storable, texts + numbers))
    assert len(outcome.error_message or "") <= MESSAGE_CHARS + 1
    assert outcome.response == (None if line.body is None else line.body.decode())
    if outcome.fault is None:
        assert outcome.response
        assert line.status_code is None or 200 <= line.status_code < 300


@pytest.mark.parametrize("inner", ['{"error":', '{"message":', '{"error":{"message":', '{"error":{"code":[', "["])
@pytest.mark.parametrize("place", ["body", "error"])
def test_no_depth_of_nesting_stops_the_judge(inner, place):
    closing = inner[::-1].translate(str.maketrans("{[", "}]", '":abcdefghijklmnopqrstuvwxyz'))
    for depth in (10, 400, *range(900, 1000)):
        nested = inner * depth + "1" + closing * depth
        response = f'{{"status_code":400,"body":{nested}}}' if place == "body" else "null"
        error = nested if place == "error" else "null"
        found = parse_reply(f'{{"custom_id":"a","response":{response},"error":{error}}}'.encode())
        assert judge(found).fault in (Fault.INVALID, Fault.SERVER, Fault.UNREADABLE)


def test_an_unreadable_line_is_unreadable_and_keeps_its_bytes():
    outcome = judge(Unreadable(b"\xff", "not UTF-8 at byte 0", None))
    assert outcome == Outcome(
        Fault.UNREADABLE, error_code="unreadable", error_message="not UTF-8 at byte 0", raw=b"\xff"
    )


@pytest.mark.parametrize("fault", [Fault.EXPIRED, Fault.CANCELLED_REMOTELY, Fault.MISSING])
def test_silence_has_a_fault_and_says_so(fault):
    assert silence(fault, "why") == Outcome(fault, error_code=fault.value, error_message="why")


@pytest.mark.parametrize(
    ("code", "message", "fault"),
    [
        ("token_limit_exceeded", "enqueued token limit reached", Fault.MISSING),
        (None, None, Fault.MISSING),
        ("insufficient_quota", None, Fault.ACCOUNT),
        (None, "Your credit balance is too low", Fault.ACCOUNT),
        (None, "slow down, see https://example.com/account/billing", Fault.MISSING),
        (None, "Billing hard limit has been reached", Fault.ACCOUNT),
        ("billing_not_active", "Your account is not active", Fault.ACCOUNT),
        (None, "You've exceeded your current quota, please check it's paid", Fault.ACCOUNT),
        (None, "Invalid schema for response_format 'billing_record'", Fault.MISSING),
        (None, "tool `insufficient_funds` is not defined", Fault.MISSING),
        (None, 'Input should be a string, input: "my credit balance is low"', Fault.MISSING),
        (None, "Insufficient capacity for acme/credit-scorer", Fault.MISSING),
    ],
)
def test_a_file_rejected_whole_costs_its_lines_nothing_and_keeps_the_reason(code, message, fault):
    assert rejected_file(code, message) == Outcome(fault, error_code=code, error_message=message)


def test_an_address_in_a_rate_limit_is_no_word_about_money():
    message = "Rate limit reached. Increase it at https://platform.example.com/account/billing today"
    assert judge(reply(429, {"error": {"message": message}})).fault is Fault.THROTTLED


CHAT = {
    "id": "chatcmpl-1",
    "model": "m-2",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
}


def test_a_chat_answer_is_read_whole():
    assert answered(CHAT) == Outcome(
        None,
        200,
        answer="hello",
        finish_reason="stop",
        prompt_tokens=5,
        completion_tokens=7,
        model="m-2",
        response=json.dumps(CHAT),
    )


@pytest.mark.parametrize(
    ("body", "answer", "finish_reason"),
    [
        ({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]}, "ab", None),
        ({"choices": [{"message": {"content": [{"text": "a"}, 7, {"refusal": "b"}, {"x": 1}]}}]}, "ab", None),
        ({"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]}, "no", "stop"),
        (
            {"choices": [{"message": {"content": "", "tool_calls": [{}]}, "finish_reason": "tool_calls"}]},
            None,
            "tool_calls",
        ),
        ({"choices": [{"message": {"content": "first"}}, {"message": {"content": "second"}}]}, "first", None),
        ({"choices": [{"text": "completed", "finish_reason": "length"}]}, "completed", "length"),
        ({"choices": ["odd"]}, None, None),
        ({"choices": [{"message": {"content": 7}}]}, None, None),
        ({"choices": [{"message": {"content": "part"}, "finish_reason": "content_filter"}]}, "part", "content_filter"),
        (
            {
                "status": "completed",
                "output": [
                    {"type": "reasoning", "content": None},
                    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Let me think."}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "one "}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "two"}, {"refusal": "!"}]},
                    "odd",
                ],
            },
            "one two!",
            "completed",
        ),
        ({"output": [], "status": "incomplete"}, None, "incomplete"),
        ({"type": "message", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn"}, "hi", "end_turn"),
        ({"content": "plain"}, "plain", None),
        ({"object": "list", "data": [{"embedding": [0.1]}]}, None, None),
        ({"choices": [{"message": {"content": "nul\x00"}, "finish_reason": "s\x00"}]}, "nul\ufffd", "s\ufffd"),
        ({"choices": [{"message": {"content": "\u2028\ud83d\ude00"}}]}, "\u2028\U0001f600", None),
        ({"choices": [{"message": {"content": "x"}}], "error": None}, "x", None),
    ],
)
def test_the_readable_text_of_each_endpoint_is_the_answer(body, answer, finish_reason):
    outcome = answered(body)
    assert (outcome.answer, outcome.finish_reason) == (answer, finish_reason)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2}, (1, 2)),
        ({"input_tokens": 1, "output_tokens": 2}, (1, 2)),
        ({"prompt_tokens": 3}, (3, None)),
        ({"prompt_tokens": -1, "completion_tokens": 2**63}, (None, None)),
        ({"prompt_tokens": 1 << 31, "completion_tokens": (1 << 31) + 1}, (1 << 31, None)),
        ({"prompt_tokens": True, "completion_tokens": "2"}, (None, None)),
        (None, (None, None)),
        ([1], (None, None)),
    ],
)
def test_tokens_are_counted_where_they_are_plain_counts(usage, tokens):
    outcome = answered(CHAT | {"usage": usage})
    assert (outcome.prompt_tokens, outcome.completion_tokens) == tokens


def test_a_body_encoded_twice_is_an_answer_all_the_same():
    outcome = answered(json.dumps(CHAT))
    assert (outcome.answer, outcome.response) == ("hello", json.dumps(json.dumps(CHAT)))


@pytest.mark.parametrize("events", ['data: {"x":1}\n\n', "event: done\n\n"])
def test_raw_events_are_an_answer_that_was_paid(events):
    assert answered(events).answer == events


@pytest.mark.parametrize("status", [None, 200, 201, 299])
def test_a_status_of_the_two_hundreds_or_none_can_be_an_answer(status):
    assert answered(CHAT, status).answer == "hello"


def test_an_answer_beside_an_error_is_one_only_with_a_status():
    assert judge(reply(200, CHAT, {"code": "odd"})).fault is None
    assert judge(reply(None, CHAT, {"code": "odd"})).fault is Fault.SERVER


@pytest.mark.parametrize(
    "body", [None, {}, [], 7, "", "text", "[1]", {"choices": []}, {"choices": None}, {"choices": {}}, True]
)
def test_a_good_status_without_an_answer_is_no_success(body):
    outcome = judge(reply(200, body))
    assert outcome.fault is Fault.SERVER
    assert outcome.status_code == 200


@pytest.mark.parametrize("status", [0, 100, 199, 300, 302])
def test_a_status_that_promises_nothing_is_a_server_fault_even_with_an_answer(status):
    assert judge(reply(status, CHAT)).fault is Fault.SERVER


def test_a_line_with_nothing_in_it_says_so():
    assert judge(Reply("a", None, None, None)).error_message == "the line holds neither an answer nor an error"


def test_a_long_message_is_clipped_and_a_nul_in_it_replaced():
    outcome = judge(reply(400, {"error": {"message": "\x00" + "x" * 5000, "code": "y" * 5000}}))
    assert outcome.error_message == "\ufffd" + "x" * (MESSAGE_CHARS - 1) + "…"
    assert len(outcome.error_code) == MESSAGE_CHARS + 1


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000, "-" + "9" * 400])
def test_a_number_beyond_every_range_makes_no_paid_answer_a_failure(number):
    body = f'{{"choices":[{{"message":{{"content":"yes"}}}}],"usage":{{"prompt_tokens":7}},"x":{number}}}'
    outcome = judge(Reply("a", 200, body.encode(), None))
    assert (outcome.fault, outcome.answer, outcome.prompt_tokens, outcome.response) == (None, "yes", 7, body)


def test_a_complaint_with_half_a_character_can_be_stored():
    error = json.dumps({"message": '{"type":"t","details":"a\\ud800b"}'})
    assert judge(Reply("a", 500, None, error.encode())).error_message == "a\N{REPLACEMENT CHARACTER}b"
