"""The batch object, its statuses, and its end (doubleword-api 2.2, 2.3, 2.6, 2.8, 2.9)."""

from sandbox_client import line


async def test_a_batch_walks_from_validating_to_completed_with_growing_counts(client):
    batch = await client.batch([line(str(at)) for at in range(10)])
    seen = []
    for seconds in (0.5, 1.5, 4, 6):
        client.clock.advance(seconds)
        shown = await client.retrieve(batch)
        seen.append((shown["status"], shown["request_counts"]["completed"]))
    assert seen == [("validating", 0), ("in_progress", 1), ("in_progress", 5), ("completed", 10)]
    assert shown["in_progress_at"] == batch["created_at"] + 1
    assert shown["finalizing_at"] == batch["created_at"] + 11
    assert shown["completed_at"] == int(client.clock.now)
    assert shown["metadata"]["context_name"] == "Personal"
    assert "errors" not in shown
    assert "expired_at" not in shown


async def test_a_list_shows_finalizing_until_a_retrieve_or_the_sweep_writes_the_end(client):
    batch = await client.batch([line("a")])
    client.clock.advance(12)
    assert (await client.get("/batches")).json["data"][0]["status"] == "finalizing"
    assert (await client.retrieve(batch))["status"] == "completed"
    assert (await client.get("/batches")).json["data"][0]["status"] == "completed"
    await client.batch([line("b")])
    client.clock.advance(22)
    assert (await client.get("/batches")).json["data"][0]["status"] == "completed"


async def test_a_batch_is_failed_only_when_no_line_succeeded(client):
    mixed = await client.finished([line("a", "fail-always"), line("b")])
    lost = await client.finished([line("a", "fail-always"), line("b", "bad-request")])
    assert (mixed["status"], lost["status"]) == ("completed", "failed")
    assert lost["failed_at"]
    assert "completed_at" not in lost


async def test_expired_at_appears_on_a_batch_that_completed_in_time_and_is_no_status(client):
    batch = await client.finished([line("a")])
    client.clock.advance(86_400)
    late = await client.retrieve(batch)
    assert (late["status"], late["expired_at"]) == ("completed", late["expires_at"])


async def test_an_overdue_batch_runs_on_and_delivers(start):
    client = await start(latency_seconds=10_000.0)
    batch = await client.batch([line("a"), line("b")], completion_window="1h")
    client.clock.advance(6000)
    assert batch["expires_at"] == batch["created_at"] + 3600
    overdue = await client.retrieve(batch)
    assert (overdue["status"], overdue["expired_at"]) == ("in_progress", batch["expires_at"])
    assert len((await client.get("/batches", status="expired")).json["data"]) == 1
    client.clock.advance(6000)
    assert (await client.retrieve(batch))["request_counts"]["completed"] == 2


async def test_a_cancel_ends_a_started_batch_at_once_and_late_lines_still_arrive(start):
    client = await start(abort_seconds=2.0)
    batch = await client.batch([line(str(at)) for at in range(10)])
    client.clock.advance(4.5)
    cancelled = (await client.post(f"/batches/{batch['id']}/cancel")).json
    assert cancelled["status"] == "cancelled"
    assert cancelled["cancelled_at"] == cancelled["cancelling_at"] == int(client.clock.now)
    assert cancelled["request_counts"]["completed"] == 3
    output = await client.content(batch["output_file_id"])
    assert output.headers["X-Incomplete"] == "false"
    client.clock.advance(100)
    later = await client.retrieve(batch)
    assert (later["status"], later["request_counts"]["completed"]) == ("cancelled", 5)
    output, errors = await client.replies(batch)
    assert (len(output.lines), len(errors.lines)) == (5, 0)
    assert client.sandbox.ledger.executions == dict.fromkeys("01234", 1)


async def test_a_batch_cancelled_while_validating_is_cancelling_for_ever(client):
    batch = await client.batch([line("a")])
    await client.post(f"/batches/{batch['id']}/cancel")
    client.clock.advance(100_000)
    assert (await client.retrieve(batch))["status"] == "cancelling"
    output = await client.content(batch["output_file_id"])
    assert (output.lines, output.headers["X-Incomplete"]) == ([], "true")
    assert client.sandbox.ledger.executions == {}
    assert (await client.delete(f"/batches/{batch['id']}")).status == 204


async def test_a_cancel_relabels_a_completed_batch_and_keeps_its_output(client):
    batch = await client.finished([line("a")])
    assert (await client.post(f"/batches/{batch['id']}/cancel")).json["status"] == "cancelled"
    again = (await client.post(f"/batches/{batch['id']}/cancel")).json
    assert again["status"] == "cancelled"
    assert again["completed_at"] == batch["completed_at"]
    assert (await client.content(batch["output_file_id"])).custom_ids == ["a"]


async def test_a_deleted_batch_is_gone_and_its_output_served_until_the_purge(client):
    batch = await client.finished([line("a")])
    deleted = await client.delete(f"/batches/{batch['id']}")
    assert (deleted.status, deleted.body) == (204, b"")
    reply = await client.get(f"/batches/{batch['id']}")
    assert (reply.status, reply.text) == (404, f"Batch with ID {batch['id']} not found")
    output = await client.content(batch["output_file_id"])
    assert output.custom_ids == ["a"]
    assert output.headers["X-Incomplete"] == "false"
    assert "X-Last-Line" not in output.headers
    client.clock.advance(601)
    purged = await client.content(batch["output_file_id"])
    assert (purged.lines, purged.headers["X-Incomplete"]) == ([], "false")
    assert "X-Last-Line" not in purged.headers
    assert (await client.content(batch["output_file_id"], skip=3, limit=5)).headers["X-Last-Line"] == "3"
    assert client.sandbox.ledger.batches[0].deleted


async def test_analytics_count_tokens_of_what_has_succeeded(client):
    batch = await client.batch([line("a"), line("b", "fail-always")])
    path = f"/batches/{batch['id']}/analytics"
    assert (await client.get(path)).json["total_tokens"] == 0
    client.clock.advance(20)
    totals = (await client.get(path)).json
    assert totals["total_requests"] == 2
    assert totals["total_tokens"] == totals["total_prompt_tokens"] + totals["total_completion_tokens"] > 0
    assert isinstance(totals["total_cost"], str)
    listed = (await client.get("/batches", include="analytics")).json["data"][0]
    assert listed["analytics"] == totals


async def test_credit_pays_for_so_many_lines_and_the_rest_end_with_402(start):
    client = await start(credit_lines=1)
    batch = await client.finished([line("a"), line("b")])
    output, errors = await client.replies(batch)
    assert (output.custom_ids, errors.custom_ids) == (["a"], ["b"])
    assert '"status":402' in errors.lines[0]["error"]["message"].replace("\\", "")
