import json

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


async def test_an_output_line_is_written_field_by_field_with_its_body_sorted(client):
    batch = await client.finished([line("a")])
    output = await client.content(batch["output_file_id"])
    assert list(output.lines[0]) == ["id", "custom_id", "response", "error"]
    response = output.lines[0]["response"]
    assert list(response) == ["status_code", "request_id", "body"]
    assert (response["status_code"], response["request_id"], output.lines[0]["error"]) == (200, None, None)
    assert list(response["body"]) == sorted(response["body"])
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


async def test_limit_is_clamped_to_101_and_tells_that_lines_follow(client):
    batch = await client.finished([line(f"{at:03}") for at in range(120)])
    page = await client.content(batch["output_file_id"], limit=1000)
    assert len(page.lines) == 101
    assert (page.headers["X-Incomplete"], page.headers["X-Last-Line"]) == ("true", "101")
    last = await client.content(batch["output_file_id"], limit=101, skip=101)
    assert (last.headers["X-Incomplete"], last.headers["X-Last-Line"]) == ("false", "120")
    assert len((await client.content(batch["output_file_id"], limit=0)).lines) == 1


async def test_search_finds_custom_ids_by_like_and_leaves_the_last_line_out(client):
    batch = await client.finished([line("row-1"), line("row-2"), line("col-1")])
    found = await client.content(batch["output_file_id"], search="ROW")
    assert found.custom_ids == ["row-1", "row-2"]
    assert "X-Last-Line" not in found.headers
    assert (await client.content(batch["output_file_id"], search="r_w%1")).custom_ids == ["row-1"]
    limited = await client.content(batch["output_file_id"], search="row", limit=5)
    assert limited.headers["X-Last-Line"] == "2"


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
