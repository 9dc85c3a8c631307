"""Retries at the client's wish (doubleword-api 2.7)."""

from sandbox_client import line


async def test_a_retry_runs_failed_and_cancelled_lines_again_under_their_old_ids(start):
    client = await start(abort_seconds=0.0)
    batch = await client.batch([line("a"), line("b", "fail-once"), line("c"), line("d")])
    client.clock.advance(8)
    await client.post(f"/batches/{batch['id']}/cancel")
    client.clock.advance(100)
    output, errors = await client.replies(batch)
    assert (output.custom_ids, errors.custom_ids) == (["a"], ["b"])
    retried = (await client.post(f"/batches/{batch['id']}/retry")).json
    assert retried["status"] == "in_progress"
    assert "cancelled_at" not in retried
    assert retried["expires_at"] == batch["expires_at"]
    client.clock.advance(100)
    output, gone = await client.replies(batch)
    assert (sorted(output.custom_ids), gone.custom_ids) == (["a", "b", "c", "d"], [])
    ids = {reply["custom_id"]: reply["id"] for reply in output.lines}
    assert ids["b"] == errors.lines[0]["id"]
    assert (await client.retrieve(batch))["status"] == "completed"
    ledger = client.sandbox.ledger
    assert ledger.executions == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert ledger.successes == dict.fromkeys("abcd", 1)
    assert ledger.batches[0].executed == 5


async def test_a_retry_with_nothing_to_do_is_refused(client):
    batch = await client.finished([line("a")])
    reply = await client.post(f"/batches/{batch['id']}/retry")
    assert reply.status == 400
    assert reply.text.startswith("Nothing to retry: ")


async def test_retry_requests_takes_bare_ids_of_failed_lines_and_always_answers_200(client):
    batch = await client.finished([line("a", "fail-once"), line("b", "fail-once")])
    path = f"/batches/{batch['id']}/retry-requests"
    _, errors = await client.replies(batch)
    prefixed = errors.lines[0]["id"]
    refused = await client.post(path, json={"request_ids": [prefixed]})
    assert (refused.status, refused.text) == (400, "No valid request IDs provided")
    bare = [prefixed.removeprefix("batch_req_"), "nonsense"]
    assert (await client.post(path, json={"request_ids": bare})).status == 200
    client.clock.advance(100)
    output, errors = await client.replies(batch)
    assert (output.custom_ids, errors.custom_ids) == (["a"], ["b"])
    assert (await client.post(path, json={"request_ids": bare})).status == 200
    assert (await client.post(path, json={})).status == 422


async def test_retry_requests_of_a_cancelled_batch_leaves_its_cancelled_lines_cancelled(start):
    client = await start(abort_seconds=0.0)
    batch = await client.batch([line("a", "fail-once"), line("b")])
    client.clock.advance(7)
    await client.post(f"/batches/{batch['id']}/cancel")
    _, errors = await client.replies(batch)
    bare = errors.lines[0]["id"].removeprefix("batch_req_")
    await client.post(f"/batches/{batch['id']}/retry-requests", json={"request_ids": [bare]})
    client.clock.advance(100)
    shown = await client.retrieve(batch)
    assert (shown["status"], shown["request_counts"]) == ("completed", {"total": 2, "completed": 1, "failed": 0})
