"""The batch object, its statuses, and its end (doubleword-api 2.2, 2.3, 2.6, 2.8, 2.9)."""

from decimal import Decimal
from math import inf

import pytest
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


async def test_the_fields_of_a_batch_stand_in_one_order_and_its_counts_know_no_cancelled(client):
    batch = await client.finished([line("a"), line("b", "fail")])
    client.clock.advance(86_400)
    completed = await client.retrieve(batch)
    assert list(completed) == [
        "id",
        "object",
        "endpoint",
        "input_file_id",
        "completion_window",
        "status",
        "output_file_id",
        "error_file_id",
        "created_at",
        "in_progress_at",
        "expires_at",
        "finalizing_at",
        "completed_at",
        "expired_at",
        "request_counts",
        "metadata",
        "dwext",
    ]
    assert list(completed["request_counts"]) == ["total", "completed", "failed"]
    assert (completed["object"], completed["dwext"]) == ("batch", {"source": "api"})
    cancelled = (await client.post(f"/batches/{batch['id']}/cancel")).json
    assert set(cancelled) - set(completed) == {"cancelling_at", "cancelled_at"}
    assert set(completed) - set(cancelled) == {"finalizing_at"}
    assert cancelled["request_counts"] == completed["request_counts"]


async def test_both_reply_files_are_named_at_every_stage_even_if_one_stays_empty(client):
    batch = await client.batch([line("a")])
    for seconds in (0.5, 1, 20):
        client.clock.advance(seconds)
        shown = await client.retrieve(batch)
        assert {key: shown[key] for key in ("output_file_id", "error_file_id")}.items() <= batch.items()


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
    assert {"completed_at", "finalizing_at", "errors"} & set(lost) == set()


async def test_a_batch_without_a_success_is_failed_in_lists_before_the_moment_is_written(client):
    batch = await client.batch([line("a", "fail"), line("b", "fail")])
    client.clock.advance(12)
    listed = (await client.get("/batches")).json["data"][0]
    assert (listed["status"], "failed_at" in listed) == ("failed", False)
    assert (await client.retrieve(batch))["failed_at"] == int(client.clock.now)


async def test_a_batch_that_could_not_be_populated_is_failed_and_does_not_say_why(client):
    client.sandbox.faults.add("population-failed", times=1)
    batch = await client.finished([line("a"), line("b")])
    assert (batch["status"], batch["failed_at"]) == ("failed", batch["created_at"] + 1)
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert {"errors", "in_progress_at", "completed_at"} & set(batch) == set()
    for reply in await client.replies(batch):
        assert (reply.lines, reply.headers["X-Incomplete"], reply.headers["X-Last-Line"]) == ([], "true", "0")
    assert client.sandbox.ledger.executions == {}


async def test_a_window_without_an_end_has_no_expiry(start):
    client = await start(windows={"24h": 86_400.0, "background": inf})
    batch = await client.finished([line("a")], completion_window="background")
    assert (batch["status"], batch["completion_window"]) == ("completed", "background")
    assert {"expires_at", "expired_at"} & set(batch) == set()


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


@pytest.mark.parametrize(("behaviour", "ended"), [("ok", "completed"), ("fail", "failed")])
async def test_a_cancel_relabels_an_ended_batch_for_good_and_keeps_its_output(client, behaviour, ended):
    batch = await client.finished([line("a", behaviour)])
    assert batch["status"] == ended
    first = (await client.post(f"/batches/{batch['id']}/cancel")).json
    client.clock.advance(100)
    again = (await client.post(f"/batches/{batch['id']}/cancel")).json
    assert (again["status"], again) == ("cancelled", first)
    assert again[f"{ended}_at"] == batch[f"{ended}_at"]
    output, errors = await client.replies(batch)
    assert output.custom_ids + errors.custom_ids == ["a"]


async def test_lines_that_fail_before_the_abort_supersede_their_cancel_too(start):
    client = await start(abort_seconds=2.0)
    batch = await client.batch([line(str(at), "fail") for at in range(10)])
    client.clock.advance(4.5)
    assert (await client.post(f"/batches/{batch['id']}/cancel")).json["request_counts"]["failed"] == 3
    client.clock.advance(100)
    later = await client.retrieve(batch)
    assert (later["status"], later["request_counts"]) == ("cancelled", {"total": 10, "completed": 0, "failed": 5})


async def test_a_deleted_batch_is_gone_and_its_output_served_until_the_purge(client):
    batch = await client.finished([line("a")])
    deleted = await client.delete(f"/batches/{batch['id']}")
    assert (deleted.status, deleted.body) == (204, b"")
    routes = [("GET", ""), ("DELETE", ""), ("GET", "/results"), ("GET", "/analytics"), ("POST", "/cancel")]
    for method, rest in [*routes, ("POST", "/retry")]:
        reply = await client.ask(method, f"/batches/{batch['id']}{rest}")
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


async def test_deleting_a_running_batch_cancels_it(start):
    client = await start(abort_seconds=0.0)
    batch = await client.batch([line("a"), line("b")])
    client.clock.advance(7)
    await client.delete(f"/batches/{batch['id']}")
    client.clock.advance(100)
    assert client.sandbox.ledger.executions == {"a": 1}
    output = await client.content(batch["output_file_id"])
    assert (output.custom_ids, output.headers["X-Incomplete"]) == (["a"], "false")


async def test_a_batch_that_validates_for_ever_can_be_deleted(client):
    client.sandbox.faults.add("stuck-validating", times=1)
    batch = await client.batch([line("a")])
    client.clock.advance(100_000)
    assert (await client.retrieve(batch))["status"] == "validating"
    assert (await client.delete(f"/batches/{batch['id']}")).status == 204
    assert (await client.get("/batches")).json["data"] == []
    output = await client.content(batch["output_file_id"])
    assert (output.lines, output.headers["X-Incomplete"], output.headers.get("X-Last-Line")) == ([], "false", None)
    assert (await client.order(batch["input_file_id"])).status == 201


async def test_analytics_count_tokens_of_what_has_succeeded(client):
    batch = await client.batch([line("a"), line("b", "fail-always")])
    path = f"/batches/{batch['id']}/analytics"
    assert (await client.get(path)).json["total_tokens"] == 0
    client.clock.advance(20)
    totals = (await client.get(path)).json
    assert totals["total_requests"] == 2
    assert totals["total_tokens"] == totals["total_prompt_tokens"] + totals["total_completion_tokens"] > 0
    assert Decimal(totals["total_cost"]) == Decimal(totals["total_list_cost"]) > 0
    tokens = ["total_prompt_tokens", "total_completion_tokens", "total_tokens"]
    assert list(totals) == ["total_requests", *tokens, "total_cost", "total_list_cost"]
    listed = (await client.get("/batches", include="analytics")).json["data"][0]
    assert listed["analytics"] == totals
    assert "analytics" not in (await client.get("/batches")).json["data"][0]
    assert "analytics" not in (await client.get(f"/batches/{batch['id']}", include="analytics")).json


async def test_an_account_at_zero_may_create_batches_whose_every_line_fails_with_402(start):
    client = await start(credit_lines=0)
    batch = await client.finished([line("a"), line("b")])
    assert (batch["status"], batch["request_counts"]["failed"]) == ("failed", 2)


async def test_credit_pays_for_so_many_lines_and_the_rest_end_with_402(start):
    client = await start(credit_lines=1)
    batch = await client.finished([line("a"), line("b")])
    output, errors = await client.replies(batch)
    assert (output.custom_ids, errors.custom_ids) == (["a"], ["b"])
    assert '"status":402' in errors.lines[0]["error"]["message"].replace("\\", "")
