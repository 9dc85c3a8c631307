"""What is read back from an input file at the provider, whatever its bytes."""

import pytest

from orchestrator.core.restoring import Request, parse_request, same_question

LINE = b'{"custom_id":"a","body":{"model":"m","messages":[]}}'


def test_a_line_we_sent_is_read_back():
    assert parse_request(LINE) == Request("a", {"model": "m", "messages": []})


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b'{"custom_id":1,"body":{}}', b'{"custom_id":"\xff","body":{}}', b'{"custom_id":"a","body":' * 2],
)
def test_any_other_line_is_no_request(line):
    assert parse_request(line) is None


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":"\xff"}'])
def test_a_body_that_cannot_be_read_asks_nothing(body):
    assert not same_question(parse_request(LINE), body)
