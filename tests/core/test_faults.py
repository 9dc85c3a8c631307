"""Every row of the table of faults, in every shape in which a line can tell of it."""

import json

import pytest

from orchestrator.core.lines import parse_reply
from orchestrator.core.model import Fault
from orchestrator.core.outcomes import judge, rejected_file


def as_reason(type_, **details):
    """Doubleword's error: a JSON document inside the message."""
    return {"code": None, "message": json.dumps({"type": type_, "details": details} if details else {"type": type_})}


def openai_body(status, code, message):
    return {"response": {"status_code": status, "body": {"error": {"message": message, "code": code}}}, "error": None}


def openai_type(status, code, message):
    return {"response": {"status_code": status, "body": {"error": {"message": message, "type": code}}}, "error": None}


def body_as_string(status, code, message):
    body = json.dumps({"error": {"message": message, "code": code}})
    return {"response": {"status_code": status, "body": body}, "error": None}


def error_as_string(status, code, message):
    return {"response": {"status_code": status, "body": {"error": message, "code": code}}, "error": None}


def anthropic_body(status, code, message):
    body = {"type": "error", "error": {"type": code, "message": message}}
    return {"response": {"status_code": status, "body": body}, "error": None}


def flat_body(status, code, message):
    return {"response": {"status_code": status, "body": {"message": message, "code": code}}, "error": None}


def flat_body_error(status, code, message):
    body = {"object": "error", "message": message, "type": code, "code": status}
    return {"response": {"status_code": 200, "body": {"error": body}}, "error": None}


def error_beside_status(status, code, message):
    return {"response": {"status_code": status, "body": None}, "error": {"message": message, "code": code}}


def error_beside_body(status, code, message):
    return {"response": {"status_code": status, "body": {"x": 1}}, "error": {"message": message, "type": code}}


def error_alone(status, code, message):
    return {"response": None, "error": {"message": message, "type": code, "code": status}}


def error_with_status(status, code, message):
    return {"response": None, "error": {"message": message, "code": code, "status": status}}


def doubleword(status, code, message):
    body = json.dumps({"error": {"message": message, "code": code}})
    return {"response": None, "error": as_reason("NonRetriableHttpStatus", status=status, body=body)}


def doubleword_used_up(status, code, message):
    body = json.dumps({"error": {"message": message, "type": code}})
    return {"response": None, "error": as_reason("RetriableHttpStatus", status=status, body=body)}


def doubleword_object(status, code, message):
    body = {"error": {"message": message, "code": code}}
    return {"response": None, "error": as_reason("NonRetriableHttpStatus", status=status, body=body)}


SHAPES = [
    openai_body,
    openai_type,
    body_as_string,
    error_as_string,
    anthropic_body,
    flat_body,
    flat_body_error,
    error_beside_status,
    error_beside_body,
    error_alone,
    error_with_status,
    doubleword,
    doubleword_used_up,
    doubleword_object,
]
STATUS_ROWS = [
    (Fault.INVALID, 400, "bad_request", "temperature is out of range"),
    (Fault.INVALID, 400, "context_length_exceeded", "too many tokens"),
    (Fault.INVALID, 404, "model_not_found", "no such model"),
    (Fault.INVALID, 405, "x", "method not allowed"),
    (Fault.INVALID, 413, "x", "request too large"),
    (Fault.INVALID, 422, "unprocessable", "field required"),
    (Fault.REFUSED, 403, "permission_denied", "this model is not yours"),
    (Fault.REFUSED, 400, "content_filter", "the prompt was filtered"),
    (Fault.REFUSED, 400, "content_policy_violation", "the prompt was filtered"),
    (Fault.REFUSED, 400, "ResponsibleAIPolicyViolation", "the prompt was filtered"),
    (Fault.THROTTLED, 429, "rate_limit_exceeded", "slow down"),
    (Fault.THROTTLED, 429, "x", "slow down"),
    (Fault.SERVER, 409, "conflict", "try again"),
    (Fault.SERVER, 425, "x", "too early"),
    (Fault.SERVER, 500, "server_error", "oops"),
    (Fault.SERVER, 500, "invalid_request_error", "a server that lies about the code"),
    (Fault.SERVER, 502, "x", "bad gateway"),
    (Fault.SERVER, 503, "overloaded", "try again"),
    (Fault.SERVER, 529, "overloaded_error", "try again"),
    (Fault.TIMEOUT, 408, "x", "timed out"),
    (Fault.TIMEOUT, 499, "x", "client closed"),
    (Fault.TIMEOUT, 504, "x", "gateway timed out"),
    (Fault.ACCOUNT, 401, "invalid_api_key", "who are you"),
    (Fault.ACCOUNT, 402, "x", "payment required"),
    (Fault.ACCOUNT, 429, "insufficient_quota", "you exceeded your quota"),
    (Fault.ACCOUNT, 400, "invalid_request_error", "Your credit balance is too low"),
    (Fault.ACCOUNT, 403, "spend_cap_reached", "the spending cap is reached"),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
@pytest.mark.parametrize(("fault", "status", "code", "message"), STATUS_ROWS)
def test_a_failure_means_the_same_in_every_shape(fault, status, code, message, shape):
    line = json.dumps({"id": "x", "custom_id": "a"} | shape(status, code, message)).encode()
    outcome = judge(parse_reply(line))
    assert (outcome.fault, outcome.status_code, outcome.error_message) == (fault, status, message)
    assert outcome.error_code == code
    assert outcome.answer is None


def fault_of(response=None, error=None):
    outcome = judge(parse_reply(json.dumps({"custom_id": "a", "response": response, "error": error}).encode()))
    return outcome.fault, outcome.error_code, outcome.error_message


@pytest.mark.parametrize(
    ("fault", "error", "code", "message"),
    [
        (Fault.TIMEOUT, as_reason("Timeout", error="took 600 s"), "Timeout", "took 600 s"),
        (Fault.SERVER, as_reason("NetworkError", error='{"message":"reset"}'), "NetworkError", '{"message":"reset"}'),
        (Fault.SERVER, as_reason("TaskTerminated"), "TaskTerminated", "TaskTerminated"),
        (
            Fault.INVALID,
            as_reason("RequestBuilderError", error="no such header"),
            "RequestBuilderError",
            "no such header",
        ),
        (Fault.CANCELLED_REMOTELY, as_reason("BatchTerminated"), "BatchTerminated", "BatchTerminated"),
        (
            Fault.INVALID,
            as_reason("NonRetriableHttpStatus", status=400, body="plain text"),
            "NonRetriableHttpStatus",
            "plain text",
        ),
        (
            Fault.THROTTLED,
            as_reason("RetriableHttpStatus", status=429, body="gAAAAB=="),
            "RetriableHttpStatus",
            "gAAAAB==",
        ),
        (
            Fault.SERVER,
            as_reason("RetriableHttpStatus", status=503, body=None),
            "RetriableHttpStatus",
            "RetriableHttpStatus",
        ),
        (
            Fault.INVALID,
            as_reason("NonRetriableHttpStatus", body='{"error":{"code":400}}'),
            "400",
            "NonRetriableHttpStatus",
        ),
        (Fault.SERVER, {"code": None, "message": '{"type":"Odd","details":"text"}'}, "Odd", "text"),
        (Fault.SERVER, {"code": None, "message": '{"type":7}'}, None, '{"type":7}'),
        (Fault.SERVER, {"code": None, "message": "{broken"}, None, "{broken"),
        (Fault.SERVER, {"code": None, "message": "Unknown error"}, None, "Unknown error"),
    ],
)
def test_each_reason_of_doubleword_is_read_out_of_its_string(fault, error, code, message):
    assert fault_of(error=error) == (fault, code, message)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.EXPIRED, "batch_expired"),
        (Fault.EXPIRED, "BATCH_EXPIRED"),
        (Fault.EXPIRED, "expired"),
        (Fault.CANCELLED_REMOTELY, "batch_cancelled"),
        (Fault.CANCELLED_REMOTELY, "cancelled"),
        (Fault.THROTTLED, "rate_limit_exceeded"),
        (Fault.SERVER, "server_error"),
        (Fault.SERVER, "internal_error"),
        (Fault.SERVER, "no-such-code"),
        (Fault.TIMEOUT, "timeout"),
        (Fault.INVALID, "invalid_request_error"),
        (Fault.INVALID, "model_not_found"),
        (Fault.INVALID, "context_length_exceeded"),
        (Fault.REFUSED, "content_filter"),
        (Fault.ACCOUNT, "insufficient_quota"),
    ],
)
def test_a_code_speaks_where_no_status_does(fault, code):
    assert fault_of(error={"code": code, "message": "why"}) == (fault, code, "why")
    assert fault_of(response={"status_code": 200, "body": {"error": {"code": code, "message": "why"}}})[0] is fault


@pytest.mark.parametrize("status", [400, 408, 500])
def test_an_expired_batch_is_known_by_its_code_whatever_the_status(status):
    error = {"code": "batch_expired", "message": "not run in time"}
    assert fault_of({"status_code": status, "body": None}, error)[0] is Fault.EXPIRED


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]},
        {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}], "usage": {}},
        {"choices": [{"text": "", "finish_reason": "content_filter"}]},
    ],
)
def test_an_answer_that_a_filter_emptied_is_refused(body):
    assert fault_of({"status_code": 200, "body": body})[:2] == (Fault.REFUSED, "content_filter")


@pytest.mark.parametrize(
    "body",
    [{"status": "failed"}, {"type": "error"}, {"error": "x"}, {"error": ["x"]}, {"error": 1}, {"choices": "x"}],
)
def test_a_failed_shape_under_a_good_status_is_a_server_fault(body):
    assert fault_of({"status_code": 200, "body": body})[0] is Fault.SERVER


def test_words_about_money_are_heard_only_where_money_can_be_meant():
    assert fault_of({"status_code": 500, "body": {"error": {"message": "billing service down"}}})[0] is Fault.SERVER
    assert fault_of({"status_code": 422, "body": {"error": {"message": "no field billing"}}})[0] is Fault.INVALID


def test_an_address_that_sells_a_bigger_account_makes_no_rate_limit_the_accounts_fault():
    message = "Rate limit reached. You can add a payment method at https://platform.example/account/billing."
    limited = {"status_code": 429, "body": {"error": {"message": message, "code": "rate_limit_exceeded"}}}
    assert fault_of(limited)[0] is Fault.THROTTLED


@pytest.mark.parametrize(
    ("code", "message", "fault"),
    [
        ("billing_hard_limit_reached", "Billing hard limit has been reached", Fault.ACCOUNT),
        (None, "You have insufficient quota", Fault.ACCOUNT),
        ("model_not_batchable", "Not in batches", Fault.MISSING),
        (None, None, Fault.MISSING),
    ],
)
def test_a_file_rejected_whole_is_the_accounts_fault_or_comes_back(code, message, fault):
    outcome = rejected_file(code, message)
    assert (outcome.fault, outcome.error_code, outcome.error_message) == (fault, code, message)


def test_what_one_place_leaves_out_is_taken_from_the_other():
    body = {"error": {"message": "from the body", "code": "rate_limit_exceeded"}}
    assert fault_of({"status_code": 429, "body": body}, {"code": None, "message": None}) == (
        Fault.THROTTLED,
        "rate_limit_exceeded",
        "from the body",
    )


def test_a_plain_text_body_is_the_message():
    assert fault_of({"status_code": 502, "body": "Bad Gateway"}) == (Fault.SERVER, None, "Bad Gateway")


def test_an_odd_message_is_shown_as_it_stands():
    assert fault_of({"status_code": 400, "body": {"error": {"message": [1, {"a": None}]}}})[2] == '[1,{"a":null}]'
