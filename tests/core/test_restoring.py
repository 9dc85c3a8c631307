"""What is read back from an input file at the provider, whatever its bytes."""

import base64
import json
from hashlib import sha256

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


PIXEL, OTHER = b"\x89PNG", b"\x89png"
UNREADABLE = "data:image/png,x"


def inline(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def token(content, nonce=".5f"):
    return f"dw-img://{sha256(content).hexdigest()}{nonce}"


def chat(image, text="What is this?", **more):
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": image, **more}}]
    return {"model": "m", "messages": [{"role": "user", "content": parts}]}


def responses(image):
    return {"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": image}]}]}


def hash_of(image):
    return sha256(base64.b64decode(image.partition(",")[2])).hexdigest() if image != UNREADABLE else None


def asks_the_same(theirs, ours):
    return same_question(Request("a", theirs), json.dumps(ours).encode(), hash_of)


@pytest.mark.parametrize("shape", [chat, responses])
@pytest.mark.parametrize(
    ("shown", "sent"),
    [
        (token(PIXEL), inline(PIXEL)),
        (token(PIXEL, nonce=""), inline(PIXEL)),
        (token(PIXEL), "HTTPS://images.example/cat.png"),
        ("dw-img://7", inline(PIXEL)),
        (token(PIXEL), UNREADABLE),
        (token(PIXEL), token(PIXEL)),
    ],
)
def test_a_token_stands_for_the_image_that_was_sent(shape, shown, sent):
    assert asks_the_same(shape(shown), shape(sent))


@pytest.mark.parametrize(
    ("shown", "sent"),
    [
        (token(OTHER), inline(PIXEL)),
        (token(PIXEL), "A cat"),
        (inline(OTHER), inline(PIXEL)),
        ("https://images.example/dog.png", "https://images.example/cat.png"),
    ],
)
def test_another_image_is_another_question(shown, sent):
    assert not asks_the_same(chat(shown), chat(sent))


@pytest.mark.parametrize(
    "other",
    [
        chat(token(PIXEL), text="And this?"),
        chat(token(PIXEL), detail="low"),
        {**chat(token(PIXEL)), "model": "n"},
        {**chat(token(PIXEL)), "messages": chat(token(PIXEL))["messages"] * 2},
        {**chat(token(PIXEL)), "messages": token(PIXEL)},
        {**chat(token(PIXEL)), "messages": {"a": 1}},
    ],
)
def test_all_but_the_image_must_be_equal(other):
    assert not asks_the_same(other, chat(inline(PIXEL)))


def test_no_depth_of_a_hostile_line_is_walked_to_its_end():
    deep = [[1]]
    for _ in range(400):
        deep = [deep]
    assert not asks_the_same({"model": "m", "input": [deep]}, {"model": "m", "input": [[deep]]})
