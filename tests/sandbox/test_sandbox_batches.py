import re

import aiohttp
import pytest
from sandbox_client import CHAT, line

from orchestrator.sandbox import Options, serve


async def test_a_create_answers_201_with_totals_and_both_file_ids_while_validating(client):
    batch = await client.batch([line("a"), line("b")], metadata={"token": "j-42"})
    now = int(client.clock.now)
    assert list(batch) == [
        "id",
        "object",
        "endpoint",
        "input_file_id",
        "completion_window",
        "status",
        "output_file_id",
        "error_file_id",
        "created_at",
        "expires_at",
        "request_counts",
        "metadata",
        "dwext",
    ]
    assert batch["status"] == "validating"
    assert batch["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert batch["expires_at"] == now + 86_400
    assert batch["metadata"] == {"token": "j-42", "request_source": "api", "created_by_email": "sandbox@example.org"}


async def test_every_create_makes_another_batch_of_the_same_file(client):
    uploaded = (await client.upload([line("a")])).json
    first, second = [(await client.order(uploaded["id"])) for _ in range(2)]
    assert (first.status, second.status) == (201, 201)
    assert first.json["id"] != second.json["id"]
    client.clock.advance(100)
    assert client.sandbox.ledger.creates == 2
    assert client.sandbox.ledger.executions == {"a": 2}


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


BAD_ORDERS = {
    "window": ({"completion_window": "7d"}, 400, "Unsupported completion_window. Allowed values: 24h, 1h"),
    "background": ({"completion_window": "background"}, 403, "Insufficient permissions"),
    "endpoint": ({"endpoint": "/x"}, 400, f"Unsupported endpoint '/x'. Supported: {CHAT}"),
    "file id": ({"input_file_id": "file-abc"}, 400, "Invalid input_file_id format"),
    "file": (
        {"input_file_id": "0f6c1111-1111-4111-8111-111111111111"},
        404,
        "File with ID 0f6c1111-1111-4111-8111-111111111111 not found",
    ),
    "metadata": ({"metadata": {"a": 1}}, 422, "Failed to deserialize the JSON body into the target type"),
    "missing": ({"endpoint": None}, 422, "Failed to deserialize the JSON body into the target type"),
}


@pytest.mark.parametrize(("change", "status", "text"), BAD_ORDERS.values(), ids=BAD_ORDERS.keys())
async def test_a_bad_create_is_refused_in_the_servers_words(client, change, status, text):
    uploaded = (await client.upload([line("a")])).json
    reply = await client.order(uploaded["id"], **change)
    assert reply.status == status
    assert reply.text.startswith(text)
    assert client.sandbox.ledger.creates == 0


async def test_a_create_wants_json_and_says_what_is_wrong_with_it(client):
    assert (await client.post("/batches", data=b"{}")).status == 415
    headers = {"Content-Type": "application/json"}
    assert (await client.post("/batches", data=b"{oops", headers=headers)).status == 400
    reply = await client.post("/batches", data=b"{}", headers=headers)
    assert reply.status == 422
    assert "missing field `input_file_id`" in reply.text


async def test_unknown_keys_of_a_create_are_ignored_and_reserved_metadata_vanishes(client):
    metadata = {"Created-By-Email": "x", "request_source": "y", "dw_external_key": "hidden", "mine": "1"}
    batch = await client.batch([line("a")], metadata=metadata, output_expires_after={"seconds": 1})
    assert set(batch["metadata"]) == {"mine", "request_source", "created_by_email"}
    assert batch["metadata"]["request_source"] == "api"
    found = (await client.get("/batches", search="hidden")).json["data"]
    assert [entry["id"] for entry in found] == [batch["id"]]


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
    assert (await client.content(batch["output_file_id"])).lines == []
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


async def test_ids_of_another_form_are_refused_and_unknown_ones_not_found(client):
    for kind in ("file", "batch"):
        path = f"/{kind}s" if kind == "file" else "/batches"
        reply = await client.get(f"{path}/{kind}_0f6c1111")
        assert (reply.status, reply.text) == (400, f"Invalid {kind} ID format")
        unknown = "0f6c1111-1111-4111-8111-111111111111"
        reply = await client.get(f"{path}/{unknown}")
        assert (reply.status, reply.text) == (404, f"{kind.capitalize()} with ID {unknown} not found")


async def test_credit_pays_for_so_many_lines_and_the_rest_end_with_402(start):
    client = await start(credit_lines=1)
    batch = await client.finished([line("a"), line("b")])
    output, errors = await client.replies(batch)
    assert (output.custom_ids, errors.custom_ids) == (["a"], ["b"])
    assert '"status":402' in errors.lines[0]["error"]["message"].replace("\\", "")


async def test_equal_seeds_give_equal_ids_and_completion_order(clock, start):
    seen = []
    for _ in range(2):
        client = await start(order="shuffled", clock=clock)
        batch = await client.finished([line(str(at)) for at in range(20)])
        seen.append((batch["id"], (await client.content(batch["output_file_id"])).custom_ids))
        clock.now = 1_790_000_000.0
    assert seen[0] == seen[1]
    assert seen[0][1] != sorted(seen[0][1], key=int)


async def test_lines_may_finish_in_reverse(start):
    client = await start(order="reversed")
    batch = await client.finished([line(str(at)) for at in range(5)])
    assert (await client.content(batch["output_file_id"])).custom_ids == list("43210")


async def test_a_model_that_left_between_upload_and_create_is_refused(start):
    client = await start(models=("m",))
    uploaded = (await client.upload([line("a")])).json
    client.sandbox.provider.files[uploaded["id"]].templates[0].model = "gone"
    reply = await client.order(uploaded["id"])
    assert (reply.status, reply.text) == (400, "The following model(s) are no longer available: gone")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "random"}, "order must be one of shuffled, input, reversed, not 'random'"),
        ({"line_faults": {"fail": 0.7, "missing": 0.7}}, "add up to at most 1"),
        ({"line_faults": {"odd": 0.1}}, "unknown behaviour 'odd'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Options(**settings)


async def test_an_unknown_dialect_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown dialect 'azure'; known: doubleword, openai"):
        async with serve(Options(dialect="azure")):
            pass
