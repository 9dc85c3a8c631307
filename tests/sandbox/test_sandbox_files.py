"""Files once they are stored (doubleword-api 1.3, 1.7, 1.8).

Not shown: estimates from earlier answers and models without a price; every model has one here.
"""

from decimal import Decimal

import pytest
from sandbox_client import line

from orchestrator.sandbox.answers import canonical


async def test_a_deleted_file_is_gone_and_cannot_be_deleted_again(client):
    uploaded = (await client.upload([line("a")])).json
    reply = await client.delete(f"/files/{uploaded['id']}")
    assert reply.json == {"id": uploaded["id"], "object": "file", "deleted": True}
    assert list(reply.json) == ["id", "object", "deleted"]
    for method, rest in (("DELETE", ""), ("GET", ""), ("GET", "/content"), ("GET", "/cost-estimate")):
        reply = await client.ask(method, f"/files/{uploaded['id']}{rest}")
        assert (reply.status, reply.text) == (404, f"File with ID {uploaded['id']} not found")
    assert (await client.order(uploaded["id"])).status == 404


async def test_deleting_the_input_file_cancels_its_running_batches_and_unlinks_all(client):
    ended = await client.finished([line("a")])
    running = await client.batch([line("b"), line("c")])
    client.clock.advance(7)
    for batch in (ended, running):
        assert (await client.delete(f"/files/{batch['input_file_id']}")).status == 200
    ended, running = await client.retrieve(ended), await client.retrieve(running)
    assert (ended["status"], ended["input_file_id"]) == ("completed", "")
    assert (running["status"], running["input_file_id"]) == ("cancelled", "")
    assert (await client.content(running["output_file_id"])).custom_ids == ["b"]
    await client.post(f"/batches/{running['id']}/retry")
    client.clock.advance(1000)
    assert (await client.retrieve(running))["status"] == "in_progress"


async def test_deleting_the_input_file_of_a_validating_batch_leaves_it_cancelling_for_ever(client):
    batch = await client.batch([line("a")])
    await client.delete(f"/files/{batch['input_file_id']}")
    client.clock.advance(100_000)
    assert (await client.retrieve(batch))["status"] == "cancelling"


@pytest.mark.parametrize(("gone", "kept"), [("output_file_id", "error_file_id"), ("error_file_id", "output_file_id")])
async def test_deleting_a_reply_file_removes_its_id_from_the_batch(client, gone, kept):
    batch = await client.finished([line("a")])
    await client.delete(f"/files/{batch[gone]}")
    shown = await client.retrieve(batch)
    assert gone not in shown
    assert shown[kept] == batch[kept]
    assert (await client.content(batch[gone])).status == 404
    assert (await client.content(batch[kept])).status == 200


async def test_a_cost_estimate_counts_tokens_by_model_in_decimal_strings(client):
    requests = [line("a"), line("b", body={"model": "other", "messages": []}), line("c")]
    uploaded = (await client.upload(requests)).json
    reply = await client.get(f"/files/{uploaded['id']}/cost-estimate")
    sums = ["total_estimated_input_tokens", "total_estimated_output_tokens", "total_estimated_cost"]
    assert list(reply.json) == ["file_id", "total_requests", *sums, "models"]
    assert (reply.json["file_id"], reply.json["total_requests"]) == (uploaded["id"], 3)
    mine, other = reply.json["models"]
    assert list(mine) == ["model", "request_count", *(name.removeprefix("total_") for name in sums)]
    assert (mine["model"], mine["request_count"], other["model"], other["request_count"]) == ("m", 2, "other", 1)
    tokens = 2 * len(canonical(line("a")["body"])) // 4
    assert (mine["estimated_input_tokens"], mine["estimated_output_tokens"]) == (tokens, int(tokens * 1.1))
    costs = [Decimal(entry["estimated_cost"]) for entry in (mine, other)]
    assert (reply.json["total_estimated_cost"], min(costs) > 0) == (str(sum(costs)), True)
    assert (await client.get(f"/files/{uploaded['id']}/cost-estimate", completion_window="24h")).json == reply.json
