import pytest
from sandbox_client import line


@pytest.fixture
async def client(start):
    return await start(dialect="openai")


async def test_creates_answer_200_with_prefixed_ids_and_null_fields(client):
    uploaded = await client.upload([line("a")])
    assert uploaded.status == 200
    assert uploaded.json["id"].startswith("file-")
    assert uploaded.json["status"] == "processed"
    created = await client.order(uploaded.json["id"], metadata={"n": "1"})
    assert created.status == 200
    batch = created.json
    assert batch["id"].startswith("batch_")
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("validating", None, None)
    assert batch["errors"] is None
    assert batch["metadata"] == {"n": "1"}
    assert batch["request_counts"]["total"] == 0


async def test_output_and_error_files_come_only_with_the_end(client):
    batch = await client.batch([line("a"), line("b", "fail-always")])
    client.clock.advance(8)
    running = await client.retrieve(batch)
    assert (running["status"], running["output_file_id"]) == ("in_progress", None)
    assert running["request_counts"] == {"total": 2, "completed": 1, "failed": 0}
    assert len((await client.get("/files")).json["data"]) == 1
    client.clock.advance(10)
    ended = await client.retrieve(batch)
    assert ended["status"] == "completed"
    output, errors = await client.replies(ended)
    assert (output.custom_ids, errors.custom_ids) == (["a"], ["b"])
    assert "X-Last-Line" not in output.headers
    assert output.lines[0]["response"]["request_id"].startswith("req_")
    failed = errors.lines[0]
    assert (failed["response"]["status_code"], failed["error"]) == (500, None)
    assert failed["response"]["body"]["error"]["type"] == "server_error"


async def test_a_batch_whose_every_line_failed_is_completed_without_an_output_file(client):
    ended = await client.finished([line("a", "fail-always"), line("b", "timeout")])
    assert (ended["status"], ended["output_file_id"]) == ("completed", None)
    timeout = (await client.content(ended["error_file_id"])).lines[1]
    assert (timeout["response"], timeout["error"]["code"]) == (None, "server_error")


async def test_an_error_file_may_be_empty(client):
    client.sandbox.faults.add("empty-error-file", times=1)
    ended = await client.finished([line("a")])
    assert (await client.content(ended["error_file_id"])).lines == []


async def test_lines_late_for_the_window_end_as_batch_expired(client):
    client.sandbox.faults.add("expired:share=0.5", times=1)
    ended = await client.finished([line(str(at)) for at in range(10)])
    assert (ended["status"], ended["expired_at"]) == ("expired", ended["expires_at"])
    output, errors = await client.replies(ended)
    assert (len(output.lines), len(errors.lines)) == (5, 5)
    assert errors.lines[0]["error"]["code"] == "batch_expired"
    assert set(client.sandbox.ledger.executions) == set(output.custom_ids)


async def test_a_stuck_batch_expires_with_its_window(client):
    client.sandbox.faults.add("stuck-in-progress", times=1)
    batch = await client.batch([line("a"), line("b")])
    client.clock.advance(80_000)
    assert (await client.retrieve(batch))["status"] == "in_progress"
    client.clock.advance(10_000)
    assert (await client.retrieve(batch))["status"] == "expired"


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        ([line("a"), line("b", body={"model": "other"})], [("mismatched_model", 2)]),
        ([line("a", url="/v1/responses")], [("url_mismatch", 1)]),
        ([line("a"), line("a")], [("duplicate_custom_id", 2)]),
        ([line("a"), line("b", body={"model": "unknown-x"})], [("model_not_found", 2)]),
        (b"{oops}\n", [("invalid_json_line", 1)]),
        ([line("a", method="GET")], [("invalid_request", 1)]),
        (b"\n", [("empty_file", None)]),
    ],
)
async def test_a_bad_file_is_accepted_and_fails_its_batch_naming_the_lines(client, lines, rows):
    batch = await client.batch(lines)
    client.clock.advance(1)
    failed = await client.retrieve(batch)
    assert (failed["status"], failed["failed_at"]) == ("failed", int(client.clock.now))
    assert [(row["code"], row["line"]) for row in failed["errors"]["data"]] == rows
    assert (failed["output_file_id"], failed["error_file_id"]) == (None, None)
    assert client.sandbox.ledger.executions == {}


async def test_a_token_limit_shows_minutes_after_the_create(client):
    client.sandbox.faults.add("token-limit:seconds=60", times=1)
    batch = await client.batch([line("a")])
    client.clock.advance(61)
    failed = await client.retrieve(batch)
    assert [row["code"] for row in failed["errors"]["data"]] == ["token_limit_exceeded"]


async def test_a_cancel_takes_its_time_and_keeps_the_output(start):
    client = await start(dialect="openai", abort_seconds=3.0)
    batch = await client.batch([line(str(at)) for at in range(10)])
    client.clock.advance(4)
    cancelling = (await client.post(f"/batches/{batch['id']}/cancel")).json
    assert (cancelling["status"], cancelling["cancelled_at"]) == ("cancelling", None)
    client.clock.advance(3)
    cancelled = await client.retrieve(batch)
    assert (cancelled["status"], cancelled["cancelled_at"]) == ("cancelled", cancelling["cancelling_at"] + 3)
    assert len((await client.content(cancelled["output_file_id"])).lines) == 6
    again = await client.post(f"/batches/{batch['id']}/cancel")
    assert (again.status, again.json["error"]["message"]) == (400, "Cannot cancel a batch with status 'cancelled'.")


async def test_a_cancel_while_validating_ends_too(client):
    batch = await client.batch([line("a")])
    await client.post(f"/batches/{batch['id']}/cancel")
    client.clock.advance(10)
    assert (await client.retrieve(batch))["status"] == "cancelled"


async def test_finalizing_may_take_long_with_counts_at_100_percent(client):
    client.sandbox.faults.add("long-finalizing:seconds=60", times=1)
    batch = await client.batch([line("a")])
    client.clock.advance(20)
    shown = await client.retrieve(batch)
    assert (shown["status"], shown["request_counts"]["completed"]) == ("finalizing", 1)
    client.clock.advance(60)
    assert (await client.retrieve(batch))["status"] == "completed"


async def test_null_fields_may_be_left_out(client):
    batch = await client.batch([line("a")])
    client.sandbox.faults.add("no-nulls", times=1)
    assert None not in (await client.retrieve(batch)).values()


async def test_refusals_are_json_of_one_shape(client):
    missing = await client.get("/batches/batch_x")
    assert (missing.status, missing.json["error"]["message"]) == (404, "No batch found with id 'batch_x'.")
    assert set(missing.json["error"]) == {"message", "type", "param", "code"}
    assert (await client.get("/files/file-x")).json["error"]["message"] == "No such File object: file-x"
    client.headers = {}
    unauthorized = await client.get("/files")
    assert (unauthorized.status, unauthorized.json["error"]["code"]) == (401, "invalid_api_key")


async def test_limits_and_money_have_their_own_codes(client):
    for fault, status, kind, code in (
        ("status-429", 429, "requests", "rate_limit_exceeded"),
        ("status-402", 429, "insufficient_quota", "insufficient_quota"),
        ("status-500", 500, "server_error", None),
        ("status-422", 400, "invalid_request_error", None),
    ):
        client.sandbox.faults.add(fault, times=1)
        reply = await client.get("/models")
        assert (reply.status, reply.json["error"]["type"], reply.json["error"]["code"]) == (status, kind, code)


async def test_purpose_is_required(client):
    assert (await client.upload([line("a")], fields=())).json["error"]["param"] == "purpose"


async def test_extensions_do_not_exist_and_lists_know_no_search(client):
    batch = await client.finished([line("a")])
    assert (await client.delete(f"/batches/{batch['id']}")).status == 405
    retried = await client.post(f"/batches/{batch['id']}/retry")
    assert (retried.status, retried.json["error"]["type"]) == (404, "invalid_request_error")
    assert len((await client.get("/batches", search="nothing like it")).json["data"]) == 1
    assert (await client.content(batch["output_file_id"], skip=1)).custom_ids == ["a"]
    deleted = await client.delete(f"/files/{batch['output_file_id']}")
    assert deleted.json["deleted"] is True
