import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.core.admission import Defaults, Rules, place
from orchestrator.core.lines import InvalidPrompt, encode_body, encode_line
from orchestrator.core.model import Lane, Prompt

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
RULES = {
    "mixed": Rules((CHAT, EMBEDDINGS), ("24h", "1h"), 1000, 1100, mix_models=True),
    "strict": Rules((CHAT,), ("24h",), 1000, 1100, mix_models=False),
}
DEFAULTS = Defaults("mixed", "m", CHAT, "24h")


def prompt(**columns):
    columns = {name: text.encode() if isinstance(text, str) else text for name, text in columns.items()}
    return Prompt(1, "row-1", **({"prompt": b"hi"} | columns))


def refusal(row, rules=RULES, defaults=DEFAULTS):
    with pytest.raises(InvalidPrompt) as caught:
        place(row, rules, defaults)
    return str(caught.value)


def test_a_bare_prompt_goes_where_the_settings_say():
    placed = place(prompt(), RULES, DEFAULTS)
    assert placed.lane == Lane("mixed", CHAT, "24h")
    assert placed.model == "m"


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_column_is_one_left_out(blank):
    row = prompt(provider=blank, endpoint=blank, completion_window=blank, model=blank)
    assert place(row, RULES, DEFAULTS) == place(prompt(), RULES, DEFAULTS)


def test_columns_go_before_the_settings():
    row = prompt(provider="mixed", endpoint=EMBEDDINGS, completion_window="1h", model="other")
    placed = place(row, RULES, Defaults("strict", "m", CHAT, "24h"))
    assert (placed.lane, placed.model) == (Lane("mixed", EMBEDDINGS, "1h"), "other")


def test_models_share_a_lane_only_where_the_provider_lets_them():
    one, two = (place(prompt(model=model, provider="mixed"), RULES, DEFAULTS).lane for model in ("a", "b"))
    assert one == two
    one, two = (place(prompt(model=model, provider="strict"), RULES, DEFAULTS).lane for model in ("a", "b"))
    assert (one.model, two.model) == ("a", "b")


@pytest.mark.parametrize(
    ("row", "mistake", "remedy"),
    [
        ({"provider": "nobody"}, "unknown provider 'nobody'", "use one of mixed, strict, or add [providers.nobody]"),
        ({"provider": b"\xff"}, "provider is not UTF-8", "store it as UTF-8"),
        ({"endpoint": "/v1/x"}, "endpoint '/v1/x' is not offered by mixed", f"use one of {CHAT}, {EMBEDDINGS}"),
        ({"endpoint": EMBEDDINGS, "provider": "strict"}, "is not offered by strict", f"use one of {CHAT}"),
        ({"completion_window": "7d"}, "completion_window '7d' is not offered by mixed", "use one of 24h, 1h"),
        ({"not_before_readable": False}, "not_before is no time", "such as 2026-01-31 18:00:00"),
        ({"prompt": "x" * 1000}, "request body of 10", "the 1000 bytes that mixed takes: shorten the prompt"),
    ],
)
def test_each_refusal_names_the_mistake_and_the_remedy(row, mistake, remedy):
    message = refusal(prompt(**row))
    assert mistake in message
    assert remedy in message


def test_a_line_that_fits_no_file_is_refused():
    rules = {"mixed": Rules((CHAT,), ("24h",), 1000, 150, mix_models=True)}
    assert "over the 150 bytes that mixed takes" in refusal(prompt(prompt="x" * 60), rules)


@settings(max_examples=30, deadline=None)
@given(
    st.none() | st.text(max_size=9),
    st.none() | st.text(max_size=9),
    st.none()
    | st.sampled_from(['{"temperature": 0}', '{"model":\n"b", "messages": []}', '{"messages":[],\r\n "a":1}']),
    st.none() | st.text(max_size=5),
)
def test_the_size_admitted_is_the_size_sent(text, system, body, model):
    columns = {"prompt": text, "system": system, "body": body, "model": model}
    row = Prompt(1, "row-1", **{name: None if value is None else value.encode() for name, value in columns.items()})
    try:
        placed = place(row, RULES, DEFAULTS)
    except InvalidPrompt:
        assume(False)
    sent = encode_line(row.custom_id, placed.lane.endpoint, encode_body(row, placed.lane.endpoint, placed.model)[0])
    assert len(sent) == placed.line_bytes


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40))
def test_a_body_is_taken_up_to_the_last_byte_and_not_beyond(spare):
    body, _ = encode_body(prompt(), CHAT, "m")
    line = encode_line("row-1", CHAT, body)
    rules = {"mixed": Rules((CHAT,), ("24h",), len(body) + spare, len(line) + spare, mix_models=True)}
    assert place(prompt(prompt="hi" + "x" * spare), rules, DEFAULTS).line_bytes == len(line) + spare
    assert "over the" in refusal(prompt(prompt="hi" + "x" * (spare + 1)), rules)


@pytest.mark.parametrize("column", ["provider", "endpoint", "completion_window"])
def test_a_refusal_quotes_no_more_than_a_line_of_what_it_refuses(column):
    with pytest.raises(InvalidPrompt) as refused:
        place(prompt(**{column: "\n" + "x" * 1_000_000}), RULES, DEFAULTS)
    assert "xxx…" in str(refused.value)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()
