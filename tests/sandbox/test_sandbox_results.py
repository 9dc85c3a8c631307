"""A batch's lines in input order (doubleword-api 2.5)."""

import json

import aiohttp
import pytest
from sandbox_client import jsonl, line


async def test_results_list_all_lines_in_input_order_with_their_state(client):
    batch = await client.batch([line("a", "slow"), line("b", "bad-request"), line("c")])
    path = f"/batches/{batch['id']}/results"
    early = await client.get(path)
    assert (early.status, early.lines, early.headers["X-Last-Line"]) == (200, [], "3")
    client.clock.advance(12)
    reply = await client.get(path)
    assert [(row["custom_id"], row["status"]) for row in reply.lines] == [
        ("a", "completed"),
        ("b", "failed"),
        ("c", "completed"),
    ]
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert (reply.headers["X-Incomplete"], reply.headers["X-Last-Line"]) == ("false", "3")
    assert (await client.get(path, status="failed", limit=1)).custom_ids == ["b"]


async def test_a_result_shows_question_and_answer_or_error_under_its_bare_id(client):
    numbers = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"x","n":1%b,"model":"m"}}\n'
    uploaded = await client.upload(numbers % (b"0" * 30) + jsonl([line("b", "bad-request")]))
    batch = (await client.order(uploaded.json["id"])).json
    client.clock.advance(100)
    good, bad = (await client.get(f"/batches/{batch['id']}/results")).lines
    fields = ["id", "custom_id", "model", "input_body", "response_body", "error", "status"]
    assert (list(good), list(bad)) == (fields, fields)
    output, errors = await client.replies(batch)
    assert f"batch_req_{good['id']}" == output.lines[0]["id"]
    assert f"batch_req_{bad['id']}" == errors.lines[0]["id"]
    assert json.dumps(good["input_body"]) == '{"model": "m", "n": 1e+30, "prompt": "x"}'
    assert json.dumps(good["response_body"]) == json.dumps(output.lines[0]["response"]["body"])
    assert (good["error"], bad["response_body"], bad["error"]) == (None, None, errors.lines[0]["error"]["message"])
    assert (good["model"], bad["model"]) == ("m", "m")


async def test_results_are_sought_and_paged_like_content(start):
    client = await start(latency_seconds=100.0)
    batch = await client.batch([line(f"{at:03}") for at in range(110)])
    path = f"/batches/{batch['id']}/results"
    client.clock.advance(51)
    reply = await client.get(path, skip=109)
    assert (reply.custom_ids, reply.lines[0]["status"]) == (["109"], "in_progress")
    assert (reply.headers["X-Incomplete"], reply.headers["X-Last-Line"]) == ("true", "219")
    page = await client.get(path, limit=1000, skip=2)
    assert (len(page.lines), page.headers["X-Last-Line"]) == (101, "103")
    assert (await client.get(path, search="1_8")).custom_ids == ["108"]
    assert (await client.get(path, offset=100)).custom_ids[0] == "000"


async def test_results_filtered_by_status_are_no_feed_to_resume(start):
    client = await start(order="reversed")
    batch = await client.batch([line("a"), line("b"), line("c"), line("d")])
    path = f"/batches/{batch['id']}/results"
    client.clock.advance(7)
    assert (await client.get(path, status="completed")).custom_ids == ["c", "d"]
    client.clock.advance(100)
    assert (await client.get(path, status="completed", skip=2)).custom_ids == ["c", "d"]


async def test_results_show_cancelled_lines_as_pending_and_fail_without_the_input_file(client):
    batch = await client.batch([line("a"), line("b")])
    client.clock.advance(7)
    await client.post(f"/batches/{batch['id']}/cancel")
    path = f"/batches/{batch['id']}/results"
    reply = await client.get(path)
    assert [row["status"] for row in reply.lines] == ["completed", "pending"]
    assert reply.headers["X-Incomplete"] == "false"
    await client.delete(f"/files/{batch['input_file_id']}")
    assert (await client.get(path, limit=5)).status == 500
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.get(path)
