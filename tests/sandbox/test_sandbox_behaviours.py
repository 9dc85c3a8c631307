"""What one line may do, and what it leaves (doubleword-api 3, 4; failure-modes).

Not shown: the server's own tries and their pauses, a stream that ends in an error, and bodies enciphered for accounts
without data retention; all of them end as one of these lines.
"""

import json
from pathlib import Path

import pytest
from sandbox_client import CHAT, line

from orchestrator.sandbox.answers import expected_answer
from orchestrator.sandbox.behaviours import EFFECTS


def reason(reply):
    found = json.loads(reply["error"]["message"])
    return found["type"], found.get("details", {}).get("status")


FAILURES = {
    "fail-always": ("RetriableHttpStatus", 500),
    "status-502": ("RetriableHttpStatus", 502),
    "status-408": ("RetriableHttpStatus", 408),
    "status-499": ("RetriableHttpStatus", 499),
    "rate-limited": ("RetriableHttpStatus", 429),
    "no-quota": ("RetriableHttpStatus", 429),
    "no-model": ("RetriableHttpStatus", 404),
    "bad-request": ("NonRetriableHttpStatus", 400),
    "context-length": ("NonRetriableHttpStatus", 400),
    "content-filter": ("NonRetriableHttpStatus", 400),
    "unauthorized": ("NonRetriableHttpStatus", 401),
    "no-credit": ("NonRetriableHttpStatus", 402),
    "forbidden": ("NonRetriableHttpStatus", 403),
    "status-405": ("NonRetriableHttpStatus", 405),
    "status-409": ("NonRetriableHttpStatus", 409),
    "too-large": ("NonRetriableHttpStatus", 413),
    "unprocessable": ("NonRetriableHttpStatus", 422),
    "timeout": ("Timeout", None),
    "network": ("NetworkError", None),
    "terminated": ("TaskTerminated", None),
    "builder-error": ("RequestBuilderError", None),
}


@pytest.mark.parametrize(("behaviour", "expected"), FAILURES.items())
async def test_a_failing_line_stands_in_the_error_file_with_its_reason(client, behaviour, expected):
    batch = await client.finished([line("a", behaviour)])
    output, errors = await client.replies(batch)
    assert (output.lines, reason(errors.lines[0])) == ([], expected)
    assert batch["request_counts"] == {"total": 1, "completed": 0, "failed": 1}
    assert client.sandbox.ledger.successes == {}


async def test_a_reason_has_the_details_of_its_type(client):
    names = ["bad-request", "timeout", "network", "builder-error", "terminated"]
    batch = await client.finished([line(name, name) for name in names])
    _, errors = await client.replies(batch)
    reasons = {row["custom_id"]: json.loads(row["error"]["message"]) for row in errors.lines}
    assert list(reasons.pop("terminated")) == ["type"]
    assert {tuple(reason) for reason in reasons.values()} == {("type", "details")}
    details = {name: reason["details"] for name, reason in reasons.items()}
    assert [list(details[name]) for name in names[:4]] == [["status", "body"], ["error"], ["error"], ["error"]]
    assert isinstance(details["bad-request"]["body"], str)
    network = json.loads(details["network"]["error"])
    assert (list(network), type(network["sources"])) == (["message", "sources"], list)


async def test_a_reason_may_be_no_json_nor_may_be_what_the_upstream_said(client):
    names = ["error-shape-unknown", "error-shape-text"]
    batch = await client.finished([line(name, name) for name in names])
    _, errors = await client.replies(batch)
    unknown, text = (row["error"] for row in errors.lines)
    assert unknown == {"code": None, "message": "Unknown error"}
    assert json.loads(text["message"])["details"] == {"status": 502, "body": "upstream connect error"}


async def test_codes_of_the_upstream_stand_in_the_reasons_body(client):
    batch = await client.finished([line("a", "content-filter"), line("b", "no-quota")])
    _, errors = await client.replies(batch)
    bodies = [json.loads(json.loads(reply["error"]["message"])["details"]["body"]) for reply in errors.lines]
    assert [body["error"]["code"] for body in bodies] == ["content_filter", "insufficient_quota"]


@pytest.mark.parametrize(("behaviour", "runs"), [("fail-once", 1), ("fail-2", 2), ("status-503-once", 1)])
async def test_a_suffix_says_how_many_executions_a_behaviour_lasts(client, behaviour, runs):
    for run in range(1, 5):
        batch = await client.finished([line("a", behaviour)])
        output, errors = await client.replies(batch)
        assert (len(output.lines), len(errors.lines)) == ((0, 1) if run <= runs else (1, 0))


@pytest.mark.parametrize("model", ["sandbox-fail-once", "Qwen/Qwen3+sandbox-fail-once"])
async def test_the_model_name_may_carry_the_marker(client, model):
    request = line("a", body={"model": model, "messages": []})
    assert (await client.finished([request]))["request_counts"]["failed"] == 1
    assert (await client.finished([request]))["request_counts"]["completed"] == 1


async def test_a_run_that_a_cancel_prevented_does_not_count_as_an_execution(start):
    client = await start(abort_seconds=0.0)
    batch = await client.batch([line("a", "fail-once")])
    client.clock.advance(2)
    await client.post(f"/batches/{batch['id']}/cancel")
    assert (await client.finished([line("a", "fail-once")]))["request_counts"]["failed"] == 1


async def test_missing_lines_stand_in_neither_file_and_the_batch_ends(client):
    batch = await client.finished([line("a", "missing"), line("b", "missing-counted"), line("c")])
    output, errors = await client.replies(batch)
    assert (output.custom_ids, errors.lines) == (["c"], [])
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 3, "completed": 2, "failed": 0})
    again = await client.finished([line("a", "missing-once"), line("d", "missing-once")])
    assert (await client.content(again["output_file_id"])).custom_ids == ["a"]


def parsed(raw):
    return json.loads(raw.removesuffix(b"\n"))


async def raw_line(client, behaviour):
    batch = await client.finished([line("a", behaviour), line("b")])
    body = (await client.content(batch["output_file_id"])).body
    raw, _, rest = body.partition(b"\n")
    assert parsed(rest)["custom_id"] == "b"
    return raw + b"\n"


@pytest.mark.parametrize("behaviour", ["bad-utf8", "bad-json", "torn"])
async def test_an_unreadable_line_spoils_only_itself(client, behaviour):
    raw = await raw_line(client, behaviour)
    with pytest.raises(ValueError, match=r"utf-8|column"):
        parsed(raw)
    assert json.loads(await raw_line(client, f"{behaviour}-1"))["custom_id"] == "a"


async def test_a_line_may_be_no_object_at_all(client):
    assert parsed(await raw_line(client, "not-object")) == [1, 2, 3]


async def test_bad_utf8_is_not_utf8_and_a_byte_order_mark_stands_first(client):
    with pytest.raises(UnicodeDecodeError):
        (await raw_line(client, "bad-utf8")).decode()
    assert (await raw_line(client, "bom")).startswith(b"\xef\xbb\xbf{")


async def test_huge_lines_have_the_size_asked_for(start):
    client = await start(huge_bytes=700_000)
    assert len(await raw_line(client, "huge")) > 700_000
    assert 200_000 < len(await raw_line(client, "huge-200000")) < 210_000


async def test_line_ends_inside_text_are_raw_and_crlf_ends_the_line(client):
    raw = await raw_line(client, "u2028")
    assert all(mark.encode() in raw for mark in "\u2028\u2029\x85")
    assert (await raw_line(client, "crlf")).endswith(b"}\r\n")


async def content_of(client, behaviour):
    return parsed(await raw_line(client, behaviour))["response"]["body"]["choices"][0]["message"]["content"]


async def test_nul_and_lone_surrogates_are_escaped_in_the_answer(client):
    assert "\0" in await content_of(client, "nul")
    assert "\ud83d" in await content_of(client, "lone-surrogate")


async def test_a_body_may_be_a_json_string(client):
    body = parsed(await raw_line(client, "string-body"))["response"]["body"]
    assert json.loads(body)["object"] == "chat.completion"


@pytest.mark.parametrize(("behaviour", "status"), [("status-in-output", 500), ("status-zero", 0)])
async def test_the_output_file_may_hold_a_line_that_failed(client, behaviour, status):
    response = parsed(await raw_line(client, behaviour))["response"]
    assert response["status_code"] == status
    assert "error" in response["body"]


async def test_a_duplicated_line_appears_twice_and_counts_once(client):
    batch = await client.finished([line("a", "duplicate")])
    output = await client.content(batch["output_file_id"])
    assert output.custom_ids == ["a", "a"]
    assert output.lines[0] == output.lines[1]
    assert batch["request_counts"]["completed"] == 1


async def test_error_lines_come_in_the_shapes_of_other_servers(client):
    shapes = ["error-shape-response", "error-shape-code", "error-shape-type", "batch-expired"]
    batch = await client.finished([line(shape, shape) for shape in shapes])
    _, errors = await client.replies(batch)
    response, code, kind, expired = errors.lines
    assert (response["response"]["status_code"], response["error"]) == (429, None)
    assert (code["response"], set(code["error"])) == (None, {"code", "message"})
    assert ("response" not in kind, set(kind["error"])) == (True, {"type", "message"})
    assert expired["error"]["code"] == "batch_expired"


async def test_answers_may_be_refused_cut_filtered_in_parts_or_from_another_model(client):
    names = ["refusal", "length", "content-filter-answer", "text-parts", "model-differs", "empty-answer"]
    batch = await client.finished([line(name, name) for name in names])
    bodies = {
        row["custom_id"]: row["response"]["body"] for row in (await client.content(batch["output_file_id"])).lines
    }
    choices = {name: body["choices"][0] for name, body in bodies.items()}
    assert choices["refusal"]["message"]["refusal"]
    assert choices["length"]["finish_reason"] == "length"
    assert choices["content-filter-answer"]["finish_reason"] == "content_filter"
    parts = choices["text-parts"]["message"]["content"]
    assert "".join(part["text"] for part in parts) == expected_answer(line("text-parts", "text-parts")["body"])
    assert bodies["model-differs"]["model"] == "m-fallback"
    assert choices["empty-answer"]["message"]["content"] == ""


URLS = ["/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"]


def request(url, behaviour=None, **body):
    model = "sandbox-embedding" if url.endswith("embeddings") else "m"
    metadata = {"metadata": {"sandbox": behaviour}} if behaviour else {}
    return line(f"{url}{behaviour}", url=url, body={"model": model, **body, **metadata})


async def test_every_endpoint_answers_in_its_own_shape(client):
    requests = [
        request("/v1/completions", prompt="why?"),
        request("/v1/responses", input="why?"),
        request("/v1/messages", messages=[{"role": "user", "content": "why?"}]),
        request("/v1/embeddings", input=["one", "two"]),
    ]
    batch = await client.finished(requests)
    bodies = [row["response"]["body"] for row in (await client.content(batch["output_file_id"])).lines]
    answers = [expected_answer(row["body"], row["url"]) for row in requests]
    assert bodies[0]["choices"][0]["text"] == answers[0]
    assert bodies[1]["output"][0]["content"][0]["text"] == answers[1]
    assert bodies[2]["content"][0]["text"] == answers[2]
    assert bodies[3]["data"][0]["embedding"] == json.loads(answers[3])
    assert len(bodies[3]["data"]) == 2
    assert all(body["usage"] for body in bodies)
    assert "why?" in answers[0]


async def test_responses_and_messages_may_have_several_parts_or_refuse(client):
    asked = [
        request("/v1/responses", "multi-output", input="why?"),
        request("/v1/responses", "text-parts", input="why?"),
        request("/v1/responses", "refusal", input="why?"),
        request("/v1/messages", "text-parts", messages=[]),
        request("/v1/messages", "length", messages=[]),
    ]
    batch = await client.finished(asked)
    several, parts, refusal, message, cut = [
        row["response"]["body"] for row in (await client.content(batch["output_file_id"])).lines
    ]
    assert [len(item["content"]) for item in several["output"]] == [1, 1]
    assert [len(item["content"]) for item in parts["output"]] == [2]
    assert refusal["output"][0]["content"][0]["type"] == "refusal"
    assert len(message["content"]) == 2
    assert cut["stop_reason"] == "max_tokens"


async def test_an_answer_belongs_to_its_own_question(client):
    batch = await client.finished([line(str(at)) for at in range(20)])
    rows = (await client.content(batch["output_file_id"])).lines
    answers = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}
    assert answers == {str(at): expected_answer(line(str(at))["body"], CHAT) for at in range(20)}
    assert len(set(answers.values())) == 20


async def test_a_mix_of_line_faults_is_drawn_by_rate_and_is_repeatable(start):
    mixes = []
    for _ in range(2):
        client = await start(line_faults={"rate-limited": 0.2, "missing": 0.1})
        batch = await client.finished([line(str(at)) for at in range(1000)])
        output, errors = await client.replies(batch)
        mixes.append((set(output.custom_ids), set(errors.custom_ids)))
    done, failed = mixes[0]
    assert mixes[0] == mixes[1]
    assert 150 < len(failed) < 250
    assert 650 < len(done) < 750


async def test_a_retried_line_draws_its_fault_anew(start):
    client = await start(line_faults={"fail": 0.5})
    for _ in range(10):
        batch = await client.finished([line("a")])
        if batch["request_counts"]["completed"]:
            break
    assert batch["request_counts"]["completed"] == 1


def test_every_behaviour_is_named_in_these_tests():
    text = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {"slow", "late"}
    assert [name for name in EFFECTS if f'"{name}' not in text and name not in elsewhere] == []
