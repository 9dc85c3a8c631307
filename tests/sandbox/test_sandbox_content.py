"""The bytes of files (doubleword-api 1.4 to 1.6, 3).

Not shown: archived batches, which are off by default, and storage errors, which are the faults `reset-mid-body` and
`status-500:route=content`.
"""

import base64
import json
from hashlib import sha256

import pytest
from sandbox_client import line

from orchestrator.sandbox import Options, serve
from orchestrator.sandbox.answers import expected_answer


async def test_lines_are_readable_while_the_batch_runs_in_the_order_of_completion(start):
    client = await start(slow_seconds=8.0)
    batch = await client.batch([line("a"), line("b", "slow"), line("c"), line("d")])
    client.clock.advance(9)
    reply = await client.content(batch["output_file_id"])
    assert reply.custom_ids == ["a", "c"]
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in reply.headers
    assert (reply.headers["X-Incomplete"], reply.headers["X-Last-Line"]) == ("true", "2")
    client.clock.advance(2)
    assert (await client.content(batch["output_file_id"])).custom_ids == ["a", "c", "d"]
    client.clock.advance(10)
    reply = await client.content(batch["output_file_id"])
    assert reply.custom_ids == ["a", "c", "d", "b"]
    assert (reply.headers["X-Incomplete"], reply.headers["X-Last-Line"]) == ("false", "4")


NUMBERS = b'"n":123456789012345678901234567890,"f":1e2,"i":-9223372036854775808,"u":18446744073709551615,'
READ = '"f": 100.0, "i": -9223372036854775808, "model": "m", "n": 1.2345678901234568e+29, "u": 18446744073709551615'


async def test_a_downloaded_input_file_has_sorted_keys_and_lacks_what_the_server_strips(client):
    body = b'{"model":"m","b":1,"a":2,"a":3,%b"priority":1,"service_tier":"x",'
    body = body % NUMBERS + b'"background":true}'
    data = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":%b,"extra":1}' % body
    uploaded = (await client.upload(data)).json
    reply = await client.content(uploaded["id"])
    assert list(reply.lines[0]) == ["custom_id", "method", "url", "body"]
    assert json.dumps(reply.lines[0]["body"]) == '{"a": 3, "b": 1, ' + READ + "}"
    assert reply.headers["X-Incomplete"] == "false"
    assert "X-Last-Line" not in reply.headers


IMAGE = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
ADDRESS = "https://images.example/cat.png"


def token_of(content):
    return f"dw-img://{sha256(content).hexdigest()}."


async def test_images_show_as_tokens_that_name_their_hash(client):
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in (IMAGE, ADDRESS, "about:me")]
    parts += [{"type": "text", "text": IMAGE}, {"type": "image_url"}, "x"]
    chat = {**line("chat"), "body": {"model": "m", "messages": [{"role": "user", "content": parts}, "x", {}]}}
    asked = [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}, {"type": "input_image"}]}]
    bad = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,\u00e9"}]}
    responses = {**line("responses"), "url": "/v1/responses", "body": {"model": "m", "input": [*asked, bad]}}
    batch = await client.batch([chat, responses])
    first, second = (shown["body"] for shown in (await client.content(batch["input_file_id"])).lines)
    shown = first["messages"][0]["content"]
    assert shown[0]["image_url"]["url"].startswith(token_of(b"\x89PNG"))
    assert shown[0]["image_url"]["detail"] == "low"
    assert shown[1]["image_url"]["url"].startswith(token_of(ADDRESS.encode()))
    assert shown[2:] == parts[2:]
    assert second["input"][0]["content"][0]["image_url"].startswith(token_of(b"\x89PNG"))
    assert second["input"][1] == bad
    client.clock.advance(60)
    assert "dw-img://" in (await client.get(f"/batches/{batch['id']}/results")).text


async def test_the_openai_dialect_gives_images_back(start):
    client = await start(dialect="openai")
    parts = [{"type": "image_url", "image_url": {"url": IMAGE}}]
    asked = {**line("a"), "body": {"model": "m", "messages": [{"role": "user", "content": parts}]}}
    uploaded = (await client.upload([asked])).json
    assert (await client.content(uploaded["id"])).lines[0]["body"]["messages"][0]["content"] == parts


async def test_a_page_of_an_input_file_tells_whether_lines_follow(client):
    uploaded = (await client.upload([line(str(at)) for at in range(5)])).json
    page = await client.content(uploaded["id"], skip=1, limit=2)
    assert page.custom_ids == ["1", "2"]
    assert (page.headers["X-Incomplete"], page.headers["X-Last-Line"]) == ("true", "3")
    last = await client.content(uploaded["id"], skip=3, limit=2)
    assert (last.headers["X-Incomplete"], last.headers["X-Last-Line"]) == ("false", "5")


def objects(value):
    """Every object within a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)


async def test_an_output_line_is_written_field_by_field_with_its_body_sorted(client):
    batch = await client.finished([line("a")])
    output = await client.content(batch["output_file_id"])
    assert list(output.lines[0]) == ["id", "custom_id", "response", "error"]
    response = output.lines[0]["response"]
    assert list(response) == ["status_code", "request_id", "body"]
    assert (response["status_code"], response["request_id"], output.lines[0]["error"]) == (200, None, None)
    assert all(list(found) == sorted(found) for found in objects(response["body"]))
    assert output.lines[0]["id"].startswith("batch_req_")
    assert response["body"]["choices"][0]["message"]["content"] == expected_answer(line("a")["body"])


async def test_an_error_line_holds_its_reason_as_json_inside_a_string(client):
    batch = await client.finished([line("a", "bad-request")])
    _, errors = await client.replies(batch)
    reply = errors.lines[0]
    assert list(reply) == ["id", "custom_id", "response", "error"]
    assert (reply["response"], reply["error"]["code"]) == (None, None)
    reason = json.loads(reply["error"]["message"])
    assert (reason["type"], reason["details"]["status"]) == ("NonRetriableHttpStatus", 400)
    assert json.loads(reason["details"]["body"])["error"]["type"] == "invalid_request_error"


async def test_skip_resumes_and_offset_is_ignored(client):
    batch = await client.finished([line(str(at)) for at in range(4)])
    skipped = await client.content(batch["output_file_id"], skip=3)
    assert (skipped.custom_ids, skipped.headers["X-Last-Line"]) == (["3"], "4")
    assert (await client.content(batch["output_file_id"], offset=3)).custom_ids == list("0123")
    beyond = await client.content(batch["output_file_id"], skip=9)
    assert (beyond.status, beyond.body, beyond.headers["X-Last-Line"]) == (200, b"", "9")
    assert (await client.content(batch["output_file_id"], skip="x")).status == 400
    assert (await client.content(batch["output_file_id"], skip=-1)).status == 400


async def test_no_key_but_skip_limit_and_search_is_known(client):
    batch = await client.finished([line("a"), line("b")])
    plain = await client.content(batch["output_file_id"])
    odd = await client.content(batch["output_file_id"], offset=1, after="a", status="failed", order="desc")
    assert (odd.body, odd.headers["X-Last-Line"]) == (plain.body, "2")


async def test_what_ends_while_a_download_runs_comes_with_the_next_one(start):
    client = await start(answer_bytes=100_000)
    batch = await client.batch([line(f"{at:03}") for at in range(100)])
    client.clock.advance(6)
    url = f"{client.sandbox.url}/files/{batch['output_file_id']}/content"
    async with client.session.get(url, headers=client.headers) as response:
        assert (response.headers["X-Incomplete"], response.headers["X-Last-Line"]) == ("true", "50")
        client.clock.advance(100)
        assert (await client.retrieve(batch))["request_counts"]["completed"] == 100
        body = await response.read()
    assert body.count(b"\n") == 50
    rest = await client.content(batch["output_file_id"], skip=50)
    assert (len(rest.lines), rest.headers["X-Incomplete"], rest.headers["X-Last-Line"]) == (50, "false", "100")


async def test_the_error_file_promises_its_own_lines(client):
    batch = await client.batch([line("a"), line("b", "fail"), line("c"), line("d", "fail")])
    client.clock.advance(7)
    errors = await client.content(batch["error_file_id"])
    assert (errors.custom_ids, errors.headers["X-Incomplete"], errors.headers["X-Last-Line"]) == (["b"], "true", "1")
    client.clock.advance(100)
    errors = await client.content(batch["error_file_id"], skip=1)
    assert (errors.custom_ids, errors.headers["X-Incomplete"], errors.headers["X-Last-Line"]) == (["d"], "false", "2")


async def test_reply_files_are_there_from_the_start_and_may_stay_empty(client):
    batch = await client.batch([line("a")])
    for expected in ("true", "false"):
        errors = await client.content(batch["error_file_id"])
        assert (errors.status, errors.body) == (200, b"")
        assert (errors.headers["X-Incomplete"], errors.headers["X-Last-Line"]) == (expected, "0")
        client.clock.advance(100)


async def test_a_page_of_a_running_batch_is_incomplete_even_if_no_line_follows(client):
    batch = await client.batch([line("a"), line("b")])
    client.clock.advance(7)
    page = await client.content(batch["output_file_id"], limit=5)
    assert (page.custom_ids, page.headers["X-Incomplete"], page.headers["X-Last-Line"]) == (["a"], "true", "1")


async def test_limit_is_clamped_to_101_and_tells_that_lines_follow(client):
    batch = await client.finished([line(f"{at:03}") for at in range(120)])
    page = await client.content(batch["output_file_id"], limit=1000)
    assert len(page.lines) == 101
    assert (page.headers["X-Incomplete"], page.headers["X-Last-Line"]) == ("true", "101")
    last = await client.content(batch["output_file_id"], limit=101, skip=101)
    assert (last.headers["X-Incomplete"], last.headers["X-Last-Line"]) == ("false", "120")
    for small in (0, -7):
        assert len((await client.content(batch["output_file_id"], limit=small)).lines) == 1


async def test_search_finds_custom_ids_by_like_and_leaves_the_last_line_out(client):
    batch = await client.finished([line("row-1"), line("row-2"), line("col-1")])
    found = await client.content(batch["output_file_id"], search="ROW")
    assert found.custom_ids == ["row-1", "row-2"]
    assert "X-Last-Line" not in found.headers
    assert (await client.content(batch["output_file_id"], search="r_w%1")).custom_ids == ["row-1"]


@pytest.mark.parametrize("key", ["input_file_id", "output_file_id"])
async def test_a_page_of_a_search_counts_what_was_found(client, key):
    batch = await client.finished([line("row-1"), line("row-2"), line("col-1")])
    page = await client.content(batch[key], search="row", limit=1)
    assert (page.custom_ids, page.headers["X-Incomplete"], page.headers["X-Last-Line"]) == (["row-1"], "true", "1")
    last = await client.content(batch[key], search="row", limit=1, skip=1)
    assert (last.custom_ids, last.headers["X-Incomplete"], last.headers["X-Last-Line"]) == (["row-2"], "false", "2")


async def test_a_head_request_gives_the_headers_without_a_body(client):
    batch = await client.finished([line("a")])
    reply = await client.ask("HEAD", f"/files/{batch['output_file_id']}/content")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["X-Last-Line"] == "1"


async def test_a_late_line_appears_before_the_cursor(client):
    batch = await client.batch([line("a"), line("b"), line("c", "late"), line("d")])
    client.clock.advance(7)
    first = await client.content(batch["output_file_id"])
    assert first.custom_ids == ["a", "b"]
    client.clock.advance(100)
    rest = await client.content(batch["output_file_id"], skip=2)
    assert rest.custom_ids == ["b", "d"]
    assert (await client.content(batch["output_file_id"])).custom_ids == ["c", "a", "b", "d"]
    assert (await client.retrieve(batch))["request_counts"]["completed"] == 4


async def test_the_served_bytes_are_counted(client):
    batch = await client.finished([line("a")])
    reply = await client.content(batch["output_file_id"])
    assert client.sandbox.ledger.bytes_served == len(reply.body)


async def test_padded_answers_keep_their_text_and_reach_the_size(start):
    client = await start(answer_bytes=5000)
    batch = await client.finished([line("a")])
    answer = (await client.content(batch["output_file_id"])).lines[0]["response"]["body"]["choices"][0]["message"]
    assert len(answer["content"]) == 5000
    assert answer["content"] == expected_answer(line("a")["body"], answer_bytes=5000)
    assert answer["content"].startswith(expected_answer(line("a")["body"]))


async def test_a_large_file_arrives_whole(start):
    client = await start(answer_bytes=20_000)
    batch = await client.finished([line(str(at)) for at in range(300)])
    output = await client.content(batch["output_file_id"])
    assert output.custom_ids == [str(at) for at in range(300)]
    assert len(output.body) > 6_000_000


async def test_the_clock_of_the_machine_drives_a_sandbox_by_default():
    async with serve(Options(validate_seconds=0, latency_seconds=0)) as sandbox:
        assert sandbox.url.startswith("http://127.0.0.1:")
        assert sandbox.ledger.batches == []
