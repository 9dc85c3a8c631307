"""What OpenAI's dialect does otherwise."""

import re

import pytest
from sandbox_client import line


@pytest.fixture
async def client(start):
    return await start(dialect="openai")


async def test_creates_answer_200_with_prefixed_ids_and_null_fields(client):
    uploaded = await client.upload([line("a")])
    assert uploaded.status == 200
    assert re.fullmatch(r"file-[0-9A-Za-z]{24}", uploaded.json["id"])
    assert (uploaded.json["status"], uploaded.json["status_details"]) == ("processed", None)
    created = await client.order(uploaded.json["id"], metadata={"n": "1"})
    assert created.status == 200
    batch = created.json
    assert re.fullmatch(r"batch_[0-9a-f]{32}", batch["id"])
    assert [key for key, value in batch.items() if key.endswith("_at") and value] == ["created_at", "expires_at"]
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("validating", None, None)
    assert batch["errors"] is None
    assert batch["metadata"] == {"n": "1"}
    assert batch["request_counts"]["total"] == 0


async def test_a_list_shows_what_a_retrieve_shows_and_no_owner(client):
    batch = await client.finished([line("a")], metadata={"n": "1"})
    shown = await client.retrieve(batch)
    assert (await client.get("/batches")).json["data"] == [shown]
    assert shown["metadata"] == {"n": "1"}
    files = (await client.get("/files")).json["data"]
    assert files == [(await client.get(f"/files/{file['id']}")).json for file in files]
    keys = ["object", "id", "purpose", "filename", "bytes", "created_at", "expires_at", "status", "status_details"]
    assert [list(file) for file in files] == [keys] * 2


async def test_a_page_has_twenty_batches_unless_asked_otherwise_and_at_most_a_hundred(client):
    uploaded = (await client.upload([line("a")])).json
    for _ in range(101):
        await client.order(uploaded["id"])
    for query, count in (({}, 20), ({"limit": 100}, 100), ({"limit": 101}, 100)):
        assert len((await client.get("/batches", **query)).json["data"]) == count
    client.clock.advance(100)
    assert len((await client.get("/files")).json["data"]) == 102


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
    for reply in (output, errors, await client.content(batch["input_file_id"])):
        assert {"X-Last-Line", "X-Incomplete"} & set(reply.headers) == set()
    assert all(re.fullmatch(r"file-[0-9A-Za-z]{24}", ended[f"{kind}_file_id"]) for kind in ("output", "error"))
    assert output.lines[0]["id"].startswith("batch_req_")
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
    assert (ended["completed_at"], ended["failed_at"]) == (None, None)
    assert ended["request_counts"] == {"total": 10, "completed": 5, "failed": 5}
    output, errors = await client.replies(ended)
    assert sorted(output.custom_ids + errors.custom_ids) == list("0123456789")
    text = "This request could not be executed before the completion window expired."
    error = {"code": "batch_expired", "message": text}
    assert [(row["response"], row["error"]) for row in errors.lines] == [(None, error)] * 5
    assert set(client.sandbox.ledger.executions) == set(output.custom_ids)


@pytest.mark.parametrize("fault", ["stuck-validating", "validation-failed", "population-failed"])
async def test_a_batch_that_never_starts_is_shown_with_a_short_window_too(client, fault):
    client.sandbox.faults.add(fault, times=1)
    client.sandbox.faults.add("expired", times=1)
    batch = await client.batch([line("a")])
    client.clock.advance(100)
    shown = await client.retrieve(batch)
    assert shown["status"] == ("validating" if fault == "stuck-validating" else "failed")
    assert shown["expires_at"] < client.clock.now


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
    client.sandbox.faults.add("token-limit:seconds=240", times=1)
    uploaded = await client.upload([line("a")])
    created = await client.order(uploaded.json["id"])
    assert (created.status, created.json["status"]) == (200, "validating")
    client.clock.advance(239)
    assert (await client.retrieve(created.json))["status"] == "validating"
    client.clock.advance(1)
    failed = await client.retrieve(created.json)
    assert (failed["status"], failed["failed_at"]) == ("failed", created.json["created_at"] + 240)
    (error,) = failed["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == ("token_limit_exceeded", None, None)
    assert error["message"].startswith("Enqueued token limit reached for m in organization org-")
    assert (failed["in_progress_at"], failed["output_file_id"], failed["error_file_id"]) == (None, None, None)
    assert client.sandbox.ledger.executions == {}


async def test_batches_of_one_model_share_a_quota_of_tokens_while_they_run(start):
    client = await start(dialect="openai", enqueued_tokens=50)
    text = {"messages": [{"role": "user", "content": "x" * 100}]}
    first, second = [await client.batch([line("a", body={"model": "m"} | text)]) for _ in range(2)]
    other = await client.batch([line("a", body={"model": "other"} | text)])
    client.clock.advance(2)
    statuses = [(await client.retrieve(batch))["status"] for batch in (first, second, other)]
    assert statuses == ["in_progress", "failed", "in_progress"]
    assert (await client.retrieve(second))["errors"]["data"][0]["code"] == "token_limit_exceeded"
    client.clock.advance(100)
    again = (await client.order(second["input_file_id"])).json
    client.clock.advance(2)
    assert (await client.retrieve(again))["status"] == "in_progress"


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


REFUSED = {
    "batch": ("GET", "/batches/batch_x", {}, 404, "No batch found with id 'batch_x'.", "batch_id"),
    "file": ("GET", "/files/file-x", {}, 404, "No such File object: file-x", "id"),
    "content": ("GET", "/files/file-x/content", {}, 404, "No such File object: file-x", "id"),
    "order": ("GET", "/files?order=up", {}, 400, "", "order"),
    "limit": ("GET", "/batches?limit=x", {}, 400, "", "limit"),
    "no multipart": ("POST", "/files", {"data": b"{}"}, 400, "", None),
    "no json": ("POST", "/batches", {"data": b"{}"}, 400, "", None),
    "no fields": ("POST", "/batches", {"json": {}}, 400, "", None),
    "route": ("GET", "/nothing", {}, 404, "Invalid URL (GET /v1/nothing)", None),
    "method": ("PUT", "/batches", {}, 405, "Invalid URL (PUT /v1/batches)", None),
}


@pytest.mark.parametrize(("method", "path", "sent", "status", "text", "param"), REFUSED.values(), ids=REFUSED.keys())
async def test_refusals_are_json_of_one_shape(client, method, path, sent, status, text, param):
    reply = await client.ask(method, path, **sent)
    assert (reply.status, reply.headers["Content-Type"]) == (status, "application/json")
    assert list(reply.json) == ["error"]
    error = reply.json["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["message"][: len(text)], error["type"], error["param"]) == (text, "invalid_request_error", param)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"completion_window": "2h"}, 400, "completion_window"),
        ({"endpoint": "/x"}, 400, "endpoint"),
        ({"input_file_id": "file-x"}, 404, "id"),
    ],
)
async def test_a_bad_create_names_its_parameter(client, change, status, param):
    uploaded = (await client.upload([line("a")])).json
    reply = await client.order(uploaded["id"], **change)
    assert (reply.status, reply.json["error"]["param"]) == (status, param)
    assert client.sandbox.ledger.creates == 0


async def test_a_wrong_key_is_an_invalid_api_key(client):
    client.headers = {}
    reply = await client.get("/files")
    assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
    assert reply.json["error"]["message"] == "Incorrect API key provided."


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


EXTENSIONS = [
    ("DELETE", "/batches/{batch}", 405),
    ("GET", "/batches/{batch}/results", 404),
    ("GET", "/batches/{batch}/analytics", 404),
    ("POST", "/batches/{batch}/retry", 404),
    ("POST", "/batches/{batch}/retry-requests", 404),
    ("GET", "/files/{file}/cost-estimate", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), EXTENSIONS)
async def test_extensions_do_not_exist(client, method, path, status):
    batch = await client.finished([line("a")])
    reply = await client.ask(method, path.format(batch=batch["id"], file=batch["input_file_id"]))
    assert (reply.status, reply.json["error"]["type"]) == (status, "invalid_request_error")


async def test_lists_know_no_filters_and_files_no_parts(client):
    batch = await client.finished([line("a"), line("b")])
    for query in ({"search": "nothing like it"}, {"status": "failed"}, {"completion_window": "1h"}):
        assert len((await client.get("/batches", **query)).json["data"]) == 1
    assert len((await client.get("/files", search="nothing like it")).json["data"]) == 2
    assert "analytics" not in (await client.get("/batches", include="analytics")).json["data"][0]
    assert (await client.content(batch["output_file_id"], skip=1, limit=1, search="b")).custom_ids == ["a", "b"]


async def test_a_deleted_file_is_gone(client):
    batch = await client.finished([line("a")])
    deleted = await client.delete(f"/files/{batch['output_file_id']}")
    assert (deleted.status, deleted.json["deleted"]) == (200, True)
    assert (await client.content(batch["output_file_id"])).status == 404
