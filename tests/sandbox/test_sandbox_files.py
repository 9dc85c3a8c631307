"""Files once they are stored (doubleword-api 1.3, 1.7, 1.8)."""

from sandbox_client import line


async def test_deleting_the_input_file_cancels_its_running_batches_and_unlinks_all(client):
    ended = await client.finished([line("a")])
    running = await client.batch([line("b"), line("c")])
    client.clock.advance(7)
    for batch in (ended, running):
        reply = await client.delete(f"/files/{batch['input_file_id']}")
        assert reply.json == {"id": batch["input_file_id"], "object": "file", "deleted": True}
        assert (await client.get(f"/files/{batch['input_file_id']}")).status == 404
    ended, running = await client.retrieve(ended), await client.retrieve(running)
    assert (ended["status"], ended["input_file_id"]) == ("completed", "")
    assert (running["status"], running["input_file_id"]) == ("cancelled", "")
    assert (await client.content(running["output_file_id"])).custom_ids == ["b"]
    await client.post(f"/batches/{running['id']}/retry")
    client.clock.advance(1000)
    assert (await client.retrieve(running))["status"] == "in_progress"


async def test_deleting_a_reply_file_removes_its_id_from_the_batch(client):
    batch = await client.finished([line("a")])
    await client.delete(f"/files/{batch['output_file_id']}")
    shown = await client.retrieve(batch)
    assert "output_file_id" not in shown
    assert shown["error_file_id"] == batch["error_file_id"]
    assert (await client.content(batch["output_file_id"])).status == 404


async def test_a_cost_estimate_counts_tokens_by_model_in_decimal_strings(client):
    other = line("b", body={"model": "other", "messages": []})
    uploaded = (await client.upload([line("a"), other])).json
    estimate = (await client.get(f"/files/{uploaded['id']}/cost-estimate")).json
    assert estimate["file_id"] == uploaded["id"]
    assert estimate["total_requests"] == 2
    assert [entry["model"] for entry in estimate["models"]] == ["m", "other"]
    assert float(estimate["total_estimated_cost"]) > 0
    assert isinstance(estimate["total_estimated_cost"], str)
