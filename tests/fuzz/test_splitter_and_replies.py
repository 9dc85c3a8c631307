"""Downloads and the lines in them: any bytes are cut the same way, and every line ends as one outcome that is kept."""

import itertools
import json
import sqlite3

import pytest
from effort import tried
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.core import lines
from orchestrator.core.lines import Overlong, Reply, Splitter, parse_reply
from orchestrator.core.outcomes import MESSAGE_CHARS, Outcome, judge

BOM = b"\xef\xbb\xbf"
DEEP = 20_000
TEXTS = ("error_code", "error_message", "answer", "finish_reason", "model", "response")
NUMBERS = ("status_code", "prompt_tokens", "completion_tokens")

# ---------------------------------------------------------------- splitting

breaks = [mark.encode() for mark in "\u2028\u0085\x0b\x1c\x00"]
pieces = st.sampled_from([b"\n", b"\r", b"\r\n", BOM, BOM[:2], BOM[2:], *breaks, b"abcdefgh"])
downloads = st.tuples(
    st.sampled_from([b"", b"", BOM, BOM * 2]), st.lists(pieces | st.binary(max_size=4), max_size=24)
).map(lambda drawn: drawn[0] + b"".join(drawn[1]))
cuts = st.lists(st.integers(0, 120), max_size=20)


def chunked(data, places):
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def split(chunks, max_bytes):
    splitter = Splitter(max_bytes)
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*found, splitter.tail()]


def plainly_split(data, max_bytes):
    """What the splitter should find, over whole data and in the plainest words."""
    *whole, torn = [one_line(raw, max_bytes, first=not at) for at, raw in enumerate(data.split(b"\n"))]
    return [*filter(None, whole), torn]


def one_line(raw, max_bytes, *, first):
    if len(raw) > max_bytes:
        return Overlong(raw, len(raw))
    start = len(BOM) if first and raw.startswith(BOM) else 0
    return raw[start : len(raw) - raw.endswith(b"\r")] if len(raw) > start else b""


@tried(150)
@given(downloads, cuts, st.integers(1, 16) | st.just(1 << 30), st.integers(0, 8))
@example(BOM + b"\r\n" + BOM + b"a\n", [1, 2, 3, 4, 5], 1 << 30, 8)
@example(b"a\r\nb", [2], 1 << 30, 8)
@example(b"abcdef\ng\n", [6], 5, 8)
@example(b"abcdef\ng\n", [5], 5, 2)
@example(b"abcdef\n" + BOM + b"g\n", [], 5, 2)
def test_any_cut_of_any_bytes_gives_the_lines_of_the_whole(data, places, max_bytes, kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "KEPT_OF_OVERLONG_BYTES", kept)
        found, bytewise = (
            split(chunked(data, places), max_bytes),
            split([data[i : i + 1] for i in range(len(data))], max_bytes),
        )
    expected = plainly_split(data, max_bytes)
    for cut in (found, bytewise):
        assert [without_head(line) for line in cut] == [without_head(line) for line in expected]
        least = min(max_bytes, kept)
        assert all(is_bounded_head(line, whole, least, kept) for line, whole in zip(cut, expected, strict=True))


def without_head(line):
    return line.nbytes if isinstance(line, Overlong) else line


def is_bounded_head(line, whole, least, most):
    """An overlong line's head is as much of its beginning as is kept, and at least all that fits under the cap."""
    return isinstance(line, bytes) or (least <= len(line.head) <= most and whole.head.startswith(line.head))


# ---------------------------------------------------------------- replies

NAMES = (
    "custom_id", "response", "error", "status_code", "body", "choices", "message", "content", "text", "refusal",
    "finish_reason", "usage", "prompt_tokens", "output_tokens", "model", "output", "code", "type", "details", "status",
    "stop_reason", "x",
)  # fmt: skip
ATOMS = (
    "null", "true", "false", "0", "-1", "200", "429", "500", "1e999", "-1e999", "1e308", "NaN", "Infinity", "1.5",
    "9" * 30, "-" + "9" * 30, "9" * 5000, str(2**63), str(2**64), '""', '"200"', '"\\ud800"', '"\\udc00\\ud800x"',
    '"\\u0000"', '"\\\\ud800"', '"' + "x" * 3000 + '"', '"\u2028\U0010ffff"', '"data: {}"', '"content_filter"',
    '"insufficient_quota"', '"{\\"error\\":{\\"message\\":\\"m\\"}}"',
    '"{\\"type\\":\\"t\\",\\"details\\":{\\"body\\":\\"\\\\ud800\\"}}"', "[" * DEEP + "]" * DEEP,
    '{"error":' * DEEP + "1" + "}" * DEEP, "[" * 400 + "]" * 400, "[]", "{}", "[null]", "[{}]",
)  # fmt: skip
atoms = st.sampled_from(ATOMS) | st.text(max_size=6).map(json.dumps)


def objects(values):
    """JSON text, with keys that may stand twice."""
    members = st.tuples(st.sampled_from(NAMES), values).map(lambda one: f'"{one[0]}":{one[1]}')
    return st.lists(members, max_size=5).map(lambda some: "{" + ",".join(some) + "}")


documents = st.recursive(
    atoms,
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda some: "[" + ",".join(some) + "]"),
    max_leaves=10,
)


def a_line(response, error, more):
    members = [f'"response":{response}', f'"error":{error}', *more]
    return '{"custom_id":"a",' + ",".join(members) + "}"


responses = documents | st.tuples(atoms, documents).map(lambda two: f'{{"status_code":{two[0]},"body":{two[1]}}}')
reply_lines = (
    documents
    | st.builds(a_line, responses, documents, st.lists(documents.map(lambda d: f'"response":{d}'), max_size=1))
).map(lambda text: text.encode(errors="replace"))
torn_lines = st.tuples(reply_lines, st.integers(0, 200), st.binary(max_size=3)).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :]
)
overlong = st.builds(Overlong, torn_lines, st.integers(1, 1 << 60))


@pytest.fixture(scope="module")
def shelf():
    connection = sqlite3.connect(":memory:")
    yield connection
    connection.close()


def kept(shelf, value):
    """What SQLite gives back of a value that it was given."""
    return shelf.execute("SELECT ?", (value,)).fetchone()[0]


def assert_storable(shelf, outcome):
    for name in TEXTS:
        text = getattr(outcome, name)
        assert text is None or (isinstance(text, str) and kept(shelf, text) == text), name
        assert name == "response" or "\x00" not in (text or ""), name
    for name in NUMBERS:
        number = getattr(outcome, name)
        assert number is None or (type(number) is int and kept(shelf, number) == number), name
    assert max(len(outcome.error_code or ""), len(outcome.error_message or "")) <= MESSAGE_CHARS + 1


@tried(250)
@given(st.binary(max_size=40) | reply_lines | torn_lines | overlong)
def test_every_line_ends_as_an_outcome_that_can_be_stored(shelf, line):
    reply = parse_reply(line)
    outcome = judge(reply)
    assert isinstance(outcome, Outcome)
    assert_storable(shelf, outcome)
    if not isinstance(reply, Reply):
        assert outcome.fault is not None
        assert outcome.raw == (line.head if isinstance(line, Overlong) else line)
    else:
        assert outcome.response == (None if reply.body is None else reply.body.decode())


BODIES = (
    '{"choices":[{"message":{"content":"yes"},"finish_reason":"stop"}]%s}',
    '{ "choices" : [ {"text":"yes"} ]%s }',
    '{"output":[{"content":[{"type":"output_text","text":"yes"}]}]%s}',
    '{"content":[{"type":"text","text":"yes"}]%s}',
    '{"data":[{"embedding":[1.0,-0.0,1E+2]}]%s}',
)
READABLE = tuple(atom for atom in ATOMS if len(atom) < 10_000 and atom not in ("NaN", "Infinity"))
"""What is JSON to everybody, numbers beyond every range among it."""
extras = st.recursive(st.sampled_from(READABLE) | st.text(max_size=6).map(json.dumps), objects, max_leaves=6)
others = st.lists(
    st.tuples(st.sampled_from(["id", "x", "request_id", "usage", "model", "\\u0065", ""]), extras), max_size=4
).map(lambda some: "".join(f',"{name}":{value}' for name, value in some))


@tried(250)
@given(st.sampled_from(BODIES), others, others, others, st.sampled_from(["null", "200", '"200"', "299", "200.0"]))
@example(BODIES[0], "", ',"x":"\\ud800"', "", "200")
def test_an_answer_stays_an_answer_whatever_stands_beside_it(shelf, body, in_body, in_response, in_line, status):
    body %= in_body
    line = f'{{"custom_id":"a","response":{{"status_code":{status},"body":{body}{in_response}}}{in_line},"error":null}}'
    outcome = judge(parse_reply(line.encode()))
    assert outcome.fault is None
    assert outcome.answer == (None if "embedding" in body else "yes")
    assert_storable(shelf, outcome)
    assert same_but_for_surrogates(outcome.response, body)


def same_but_for_surrogates(found, sent):
    """Byte for byte, or with nothing but halves of characters replaced."""
    return found == sent or ("\\ud" in sent and found == lines.mend_surrogates(sent.encode()).decode())


@pytest.mark.parametrize("atom", ATOMS, ids=range(len(ATOMS)))
def test_every_odd_value_is_met_in_every_member(shelf, atom):
    for name in ("content", "finish_reason", "refusal"):
        choice = f'{{"message":{{"{name}":{atom}}},"{name}":{atom}}}'
        body = f'{{"choices":[{choice}],"model":{atom},"usage":{{"prompt_tokens":{atom}}}}}'
        error = f'{{"code":{atom},"message":{atom}}}'
        for told in ("null", error):
            line = a_line(f'{{"status_code":{atom},"body":{body}}}', told, [])
            assert_storable(shelf, judge(parse_reply(line.encode())))
