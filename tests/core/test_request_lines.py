import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.lines import CHAT, COMPLETIONS, MESSAGES, RESPONSES, InvalidPrompt, encode_body, encode_line
from orchestrator.core.model import Prompt

EMBEDDINGS = "/v1/embeddings"
ENDPOINTS = [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES]

spaces = st.text(" \t\r\n", max_size=3)
numbers = st.sampled_from(
    ["1", "1.0", "1e5", "-0", "1E+2", "0.10", "12345678901234567890123", "-1.7976931348623157e308"]
)
strings = st.text(max_size=6).map(json.dumps) | st.text(max_size=6).map(lambda s: json.dumps(s, ensure_ascii=False))
escapes = st.sampled_from(['"\\u00e9"', '"\\/"', '"\\u0000"', '"\\ud83d\\ude00"', '"\u2028"'])
atoms = numbers | strings | escapes | st.sampled_from(["null", "true", "false"])


def spaced(parts):
    return st.tuples(spaces, spaces).map(lambda around: around[0] + parts + around[1])


def arrays(inner):
    return st.lists(inner.flatmap(spaced), max_size=3).map(lambda items: f"[{','.join(items)}]")


def objects(inner):
    members = st.lists(st.tuples(strings, spaces, inner.flatmap(spaced)), max_size=3)
    return members.map(lambda them: "{" + ",".join(f"{name}{space}:{value}" for name, space, value in them) + "}")


raw_values = st.recursive(atoms, lambda inner: arrays(inner) | objects(inner), max_leaves=6)
extras = st.dictionaries(st.sampled_from(["temperature", "seed", "z", "a", "response_format"]), raw_values, max_size=4)
texts = st.text(max_size=12)


def prompt(**columns):
    columns = {name: text.encode() if isinstance(text, str) else text for name, text in columns.items()}
    return Prompt(1, "row-1", **columns)


def refusal(row, endpoint=CHAT, default_model="m"):
    with pytest.raises(InvalidPrompt) as caught:
        encode_body(row, endpoint, default_model)
    return str(caught.value)


@settings(max_examples=30, deadline=None)
@given(extras, st.permutations(["model", "messages"]), spaces, spaces)
def test_a_whole_body_reaches_the_wire_byte_for_byte(extra, names, before, after):
    members = extra | {"model": '"m"', "messages": '[{"role":"user","content":"hi"}]'}
    order = names[:1] + list(extra) + names[1:]
    text = before + "{" + after + ",".join(f'"{name}":{before}{members[name]}{after}' for name in order) + "}" + after
    sent, model = encode_body(prompt(body=text), CHAT, None)
    assert sent == re.sub(rb"[\r\n]", b" ", text.encode())
    assert model == "m"


@settings(max_examples=30, deadline=None)
@given(extras, texts, st.none() | texts, st.sampled_from(ENDPOINTS))
def test_what_is_added_leaves_every_value_as_written_and_in_its_order(extra, text, system, endpoint):
    system = None if endpoint in (COMPLETIONS, EMBEDDINGS) else system
    body = "{" + ",".join(f'"{name}":{value}' for name, value in extra.items()) + "}"
    sent, _ = encode_body(prompt(prompt=text, system=system, body=body), endpoint, "m")
    kept = "".join(f',"{name}":{value}' for name, value in extra.items()) + "}"
    assert sent.endswith(re.sub(r"[\r\n]", " ", kept).encode())
    assert b"\n" not in sent
    assert list(json.loads(sent))[-len(extra) :] == list(extra) or not extra


@pytest.mark.parametrize(
    ("endpoint", "system", "expected"),
    [
        (CHAT, None, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        (
            CHAT,
            "be",
            {"model": "m", "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]},
        ),
        (MESSAGES, None, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        (MESSAGES, "be", {"model": "m", "system": "be", "messages": [{"role": "user", "content": "hi"}]}),
        (RESPONSES, None, {"model": "m", "input": "hi"}),
        (RESPONSES, "be", {"model": "m", "instructions": "be", "input": "hi"}),
        (COMPLETIONS, None, {"model": "m", "prompt": "hi"}),
        (EMBEDDINGS, None, {"model": "m", "input": "hi"}),
        ("/v1/rerank", None, {"model": "m", "input": "hi"}),
    ],
)
def test_each_endpoint_gets_the_prompt_where_it_looks_for_it(endpoint, system, expected):
    sent, model = encode_body(prompt(prompt="hi", system=system), endpoint, "m")
    assert (json.loads(sent), model) == (expected, "m")


def test_a_prompt_without_system_adds_no_empty_system_and_an_empty_one_is_kept():
    assert b"system" not in encode_body(prompt(prompt="hi"), CHAT, "m")[0]
    assert json.loads(encode_body(prompt(prompt="hi", system=""), CHAT, "m")[0])["messages"][0]["content"] == ""


@pytest.mark.parametrize(
    ("column", "body", "default", "sent", "model"),
    [
        (None, '{"input": 1, "model": "b"}', "d", b'{"input": 1, "model": "b"}', "b"),
        (None, '{"input": 1}', "d", b'{"model":"d","input":1}', "d"),
        ("c", '{"input": 1}', "d", b'{"model":"c","input":1}', "c"),
        ("c", '{"input": 1, "model": "b"}', None, b'{"input":1,"model":"c"}', "c"),
        ("c", '{"input": 1, "model": 7}', None, b'{"input":1,"model":"c"}', "c"),
        ("b", '{"input": 1, "model": "b"}', None, b'{"input": 1, "model": "b"}', "b"),
        (" \t", '{"input": 1, "model": "b"}', None, b'{"input": 1, "model": "b"}', "b"),
        (None, '{"input": 1, "model": "\\u0062"}', None, b'{"input": 1, "model": "\\u0062"}', "b"),
    ],
)
def test_the_row_names_the_model_before_the_body_and_the_body_before_the_settings(column, body, default, sent, model):
    assert encode_body(prompt(model=column, body=body), EMBEDDINGS, default) == (sent, model)


def test_a_model_already_named_keeps_its_place_when_a_prompt_is_added():
    sent, model = encode_body(prompt(prompt="hi", body='{"a":1,"model":"b"}'), EMBEDDINGS, "d")
    assert (sent, model) == (b'{"input":"hi","a":1,"model":"b"}', "b")


@pytest.mark.parametrize(
    ("row", "endpoint", "mistake", "remedy"),
    [
        ({"body": "[1]"}, CHAT, "body is not a JSON object", 'give an object such as {"temperature": 0}'),
        ({"body": '"text"'}, CHAT, "body is not a JSON object", "give an object"),
        ({"body": "null"}, CHAT, "body is not a JSON object", "give an object"),
        ({"body": "{"}, CHAT, "body is not valid JSON", "correct it and insert the prompt again"),
        ({"body": ""}, CHAT, "body is not valid JSON", "correct it"),
        ({"body": '{"a": NaN}'}, CHAT, "body is not valid JSON", "correct it"),
        ({"body": '{"a": "1\n2"}'}, CHAT, "body is not valid JSON", "correct it"),
        ({"body": "{'a': 1}"}, CHAT, "body is not valid JSON", "correct it"),
        ({"body": '{"a":' + "[" * 100_000}, CHAT, "body is not valid JSON", "correct it"),
        ({"body": b'{"a": "\xff"}'}, CHAT, "body is not UTF-8 (byte 7)", "store it as UTF-8"),
        ({"prompt": b"\xff"}, CHAT, "prompt is not UTF-8 (byte 0)", "store it as UTF-8"),
        ({"prompt": "hi", "system": b"a\xff"}, CHAT, "system is not UTF-8 (byte 1)", "store it as UTF-8"),
        ({"prompt": "hi", "model": b"\xff"}, CHAT, "model is not UTF-8", "store it as UTF-8"),
        ({"prompt": "hi", "body": '{"messages": []}'}, CHAT, "both prompt and body.messages", "keep one of them"),
        ({"prompt": "hi", "body": '{"messages": []}'}, MESSAGES, "both prompt and body.messages", "keep one"),
        ({"prompt": "hi", "body": '{"input": 1}'}, EMBEDDINGS, "both prompt and body.input", "keep one"),
        ({"prompt": "hi", "body": '{"prompt": 1}'}, COMPLETIONS, "both prompt and body.prompt", "keep one"),
        (
            {"prompt": "hi", "system": "be", "body": '{"instructions": ""}'},
            RESPONSES,
            "both prompt and body.instructions",
            "keep one",
        ),
        ({"system": "be", "body": '{"messages": []}'}, CHAT, "system stands without prompt", "give prompt too"),
        ({"prompt": "hi", "system": "be"}, EMBEDDINGS, "system has no place in /v1/embeddings", "into prompt"),
        ({"prompt": "hi", "system": "be"}, COMPLETIONS, "system has no place", "put the text into prompt"),
        ({"body": "{}"}, CHAT, "nothing to send", "give prompt, or a body with the whole request"),
        ({"body": '{"model": "m"}'}, EMBEDDINGS, "nothing to send", "give prompt"),
        ({}, CHAT, "nothing to send", "give prompt"),
        ({"body": '{"temperature": 0}'}, CHAT, "no messages", "give prompt, or body.messages"),
        ({"prompt": "hi", "body": '{"model": 7}'}, CHAT, "body.model is not a string", "give the model's name"),
        ({"prompt": "hi", "body": '{"model": ""}'}, CHAT, "body.model is empty", "give the model's name"),
    ],
)
def test_each_refusal_names_the_mistake_and_the_remedy(row, endpoint, mistake, remedy):
    message = refusal(prompt(**row), endpoint)
    assert mistake in message
    assert remedy in message.partition(mistake)[2]


@pytest.mark.parametrize("default", [None, ""])
def test_a_prompt_without_any_model_is_told_the_three_places_for_one(default):
    message = refusal(prompt(prompt="hi"), CHAT, default)
    assert message == "no model: set prompts.model, body.model or defaults.model in the settings"


@settings(max_examples=30, deadline=None)
@given(texts, texts, st.text(min_size=1, max_size=8))
def test_a_line_is_one_json_object_with_the_wire_names_in_order(text, custom_id, model):
    body, _ = encode_body(prompt(prompt=text), CHAT, model)
    line = encode_line(custom_id, CHAT, body)
    assert line.index(b"\n") == len(line) - 1
    found = json.loads(line)
    assert list(found) == ["custom_id", "method", "url", "body"]
    assert found == {
        "custom_id": custom_id,
        "method": "POST",
        "url": CHAT,
        "body": {"model": model, "messages": [{"role": "user", "content": text}]},
    }
