"""A batch's lines in input order (doubleword-api 2.5)."""

import aiohttp
import pytest
from sandbox_client import line


async def test_results_list_all_lines_in_input_order_with_their_state(client):
    batch = await client.batch([line("a", "slow"), line("b", "bad-request"), line("c")])
    path = f"/batches/{batch['id']}/results"
    assert (await client.get(path)).headers["X-Last-Line"] == "3"
    client.clock.advance(12)
    reply = await client.get(path)
    assert [(row["custom_id"], row["status"]) for row in reply.lines] == [
        ("a", "completed"),
        ("b", "failed"),
        ("c", "completed"),
    ]
    assert set(reply.lines[0]) == {"id", "custom_id", "model", "input_body", "response_body", "error", "status"}
    assert reply.lines[0]["response_body"]["model"] == "m"
    assert "NonRetriableHttpStatus" in reply.lines[1]["error"]
    assert reply.headers["X-Incomplete"] == "false"
    assert [row["custom_id"] for row in (await client.get(path, status="failed", limit=1)).lines] == ["b"]
    assert (await client.get(path, status="odd")).status == 400


async def test_results_show_cancelled_lines_as_pending_and_fail_without_the_input_file(client):
    batch = await client.batch([line("a"), line("b")])
    client.clock.advance(7)
    await client.post(f"/batches/{batch['id']}/cancel")
    path = f"/batches/{batch['id']}/results"
    assert [row["status"] for row in (await client.get(path)).lines] == ["completed", "pending"]
    await client.delete(f"/files/{batch['input_file_id']}")
    assert (await client.get(path, limit=5)).status == 500
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.get(path)
