"""Retries at the client's wish (doubleword-api 2.7).

Not shown: the server's own retries, which lie within one execution here, and a retry that overtakes its cancel.
"""

import pytest
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


@pytest.mark.parametrize("ended", ["completed", "failed"])
async def test_a_retry_takes_the_end_of_a_batch_back_and_empties_its_error_file(client, ended):
    lines = [line("a", "fail-once"), *([line("b")] if ended == "completed" else [])]
    batch = await client.finished(lines)
    assert (batch["status"], f"{ended}_at" in batch) == (ended, True)
    again = await client.post(f"/batches/{batch['id']}/retry")
    assert (again.status, again.json["status"], again.json["request_counts"]["failed"]) == (200, "in_progress", 0)
    assert {"completed_at", "failed_at", "finalizing_at"} & set(again.json) == set()
    errors = await client.content(batch["error_file_id"], skip=1)
    assert (errors.lines, errors.headers["X-Incomplete"], errors.headers["X-Last-Line"]) == ([], "true", "1")
    client.clock.advance(100)
    later = await client.retrieve(batch)
    assert (later["status"], later["request_counts"]["completed"]) == ("completed", len(lines))
    assert all(later[key] == batch[key] for key in ("output_file_id", "error_file_id", "expires_at"))


async def test_a_retry_past_the_deadline_runs_all_the_same(client):
    batch = await client.finished([line("a", "fail-once")], completion_window="1h")
    client.clock.advance(10_000)
    again = (await client.post(f"/batches/{batch['id']}/retry")).json
    assert (again["status"], again["expired_at"]) == ("in_progress", batch["expires_at"])
    client.clock.advance(100)
    assert (await client.retrieve(batch))["status"] == "completed"


async def test_a_retry_asks_for_no_credit(start):
    client = await start(credit_lines=0)
    batch = await client.finished([line("a")])
    again = await client.post(f"/batches/{batch['id']}/retry")
    assert (again.status, again.json["status"]) == (200, "in_progress")


async def test_a_retry_with_nothing_to_do_is_refused(client):
    ended, cancelled = await client.finished([line("a")]), await client.batch([line("a")])
    await client.post(f"/batches/{cancelled['id']}/cancel")
    for batch in (ended, cancelled):
        reply = await client.post(f"/batches/{batch['id']}/retry")
        assert (reply.status, reply.text[:18]) == (400, "Nothing to retry: ")
        assert reply.headers["Content-Type"].startswith("text/plain")


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
    assert (await client.post(path, json={"request_ids": []})).text == "No valid request IDs provided"


async def test_retry_requests_does_not_ask_whose_lines_they_are(client):
    failed, other = await client.finished([line("a", "fail-once")]), await client.finished([line("b")])
    _, errors = await client.replies(failed)
    bare = errors.lines[0]["id"].removeprefix("batch_req_")
    reply = await client.post(f"/batches/{other['id']}/retry-requests", json={"request_ids": [bare]})
    assert (reply.status, reply.json["id"], reply.json["status"]) == (200, other["id"], "completed")
    client.clock.advance(100)
    assert (await client.retrieve(failed))["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


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
