"""Faults, one by one (failure-modes)."""

import gzip
import json
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from sandbox_client import CHAT, jsonl, line

from orchestrator.sandbox.fault_table import F_NUMBERS, KINDS
from orchestrator.sandbox.faults import Fault

LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


async def lost(coroutine):
    with pytest.raises(LOST):
        await coroutine


async def test_a_lost_reply_to_a_create_leaves_a_batch_that_runs(client):
    uploaded = (await client.upload([line("a")])).json
    client.sandbox.faults.add("create-lost-reply", times=1)
    await lost(client.order(uploaded["id"], metadata={"token": "j-42"}))
    found = (await client.get("/batches", search="j-42")).json["data"]
    assert len(found) == 1
    assert client.sandbox.ledger.creates == 1
    assert client.sandbox.ledger.statuses["create reset"] == 1
    assert (await client.order(uploaded["id"])).status == 201


@pytest.mark.parametrize(("fault", "status"), [("create-500-made", 500), ("create-502-made", 502)])
async def test_an_error_after_a_create_hides_a_batch_that_was_made(client, fault, status):
    uploaded = (await client.upload([line("a")])).json
    client.sandbox.faults.add(fault, times=1)
    reply = await client.order(uploaded["id"])
    assert reply.status == status
    assert reply.text == "Internal server error" if status == 500 else "<html>" in reply.text
    assert client.sandbox.ledger.creates == 1


async def test_a_lost_reply_to_an_upload_leaves_a_file_that_is_listed(client):
    client.sandbox.faults.add("upload-lost-reply", times=1)
    await lost(client.upload([line("a")], filename="mine.jsonl"))
    assert (await client.get("/files", search="mine")).json["data"][0]["filename"] == "mine.jsonl"


async def test_a_reset_before_executes_nothing_and_a_lost_reply_executes(client):
    batch = await client.batch([line("a")])
    client.clock.advance(2)
    client.sandbox.faults.add("reset-before", route="cancel", times=1)
    await lost(client.post(f"/batches/{batch['id']}/cancel"))
    assert (await client.retrieve(batch))["status"] == "in_progress"
    client.sandbox.faults.add("lost-reply", route="cancel", times=1)
    await lost(client.post(f"/batches/{batch['id']}/cancel"))
    assert (await client.retrieve(batch))["status"] == "cancelled"


async def test_a_429_disagrees_with_itself_and_a_503_does_not(client):
    client.sandbox.faults.add("status-429", times=1)
    client.sandbox.faults.add("status-503", after=1, times=1)
    limited, down = await client.get("/files"), await client.get("/files")
    assert (limited.status, limited.headers["Retry-After"]) == (429, "60")
    assert limited.json["error"] == "too_many_requests"
    assert limited.json["retry_after_seconds"] == 30
    assert (down.status, down.headers["Retry-After"], down.json["retry_after_seconds"]) == (503, "30", 30)
    assert (await client.get("/files")).status == 200


async def test_retry_after_text_and_status_can_be_told(client):
    faults = client.sandbox.faults
    faults.add("status-429:retry_after=7:body_retry_after=8:text=Insufficient capacity for 1h", times=1)
    told = await client.get("/files")
    assert (told.headers["Retry-After"], told.json["retry_after_seconds"]) == ("7", 8)
    assert told.json["message"] == "Insufficient capacity for 1h"
    faults.add("status-503", retry_after=None, body_retry_after="none", times=1)
    silent = await client.get("/files")
    assert "Retry-After" not in silent.headers
    assert "retry_after_seconds" not in silent.json
    faults.add("status-500:retry_after=3", times=1)
    internal = await client.get("/files")
    assert (internal.text, internal.headers["Retry-After"]) == ("Internal server error", "3")


async def test_a_key_is_required_and_a_401_may_be_transient(start):
    client = await start(api_key="secret")
    for key in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        client.headers = key
        reply = await client.get("/files")
        assert (reply.status, reply.text) == (401, "Authentication required")
    client.headers = {"Authorization": "Bearer secret"}
    client.sandbox.faults.add("unauthorized", times=1)
    assert [(await client.get("/files")).status for _ in range(2)] == [401, 200]


async def test_html_pages_redirects_and_empty_balances_are_answered_instead(client):
    faults = client.sandbox.faults
    faults.add("html-error:status=504", times=1)
    page = await client.get("/files")
    assert (page.status, page.headers["Content-Type"]) == (504, "text/html; charset=utf-8")
    faults.add("redirect", times=1)
    moved = await client.get("/files")
    assert (moved.status, moved.headers["Location"]) == (307, "/elsewhere")
    uploaded = (await client.upload([line("a")])).json
    faults.add("no-credit", times=1)
    poor = await client.order(uploaded["id"])
    assert (poor.status, poor.text) == (402, "Account balance too low. Please add credits to continue.")
    assert client.sandbox.ledger.creates == 0


async def test_a_replica_lags_for_files_and_batches(client):
    client.sandbox.faults.add("replica-lag:seconds=3", times=2)
    uploaded = (await client.upload([line("a")])).json
    batch = (await client.order(uploaded["id"])).json
    for path in (f"/files/{uploaded['id']}", f"/batches/{batch['id']}"):
        assert (await client.get(path)).status == 404
    assert (await client.get("/batches")).json["data"] == []
    assert uploaded["id"] not in (await client.get("/files")).text
    client.clock.advance(3)
    for path in (f"/files/{uploaded['id']}", f"/batches/{batch['id']}"):
        assert (await client.get(path)).status == 200
    assert len((await client.get("/batches")).json["data"]) == 1


async def test_things_that_exist_may_be_denied(client):
    batch = await client.finished([line("a")])
    faults = client.sandbox.faults
    for fault in ("file-not-found-on-create", "batch-gone", "file-gone"):
        faults.add(fault, times=1)
    assert (await client.order(batch["input_file_id"])).status == 404
    assert (await client.get(f"/batches/{batch['id']}")).status == 404
    assert (await client.content(batch["output_file_id"])).status == 404
    assert (await client.content(batch["output_file_id"])).custom_ids == ["a"]


async def partial(client, file_id):
    """The bytes that came before the connection broke."""
    url = f"{client.sandbox.url}/files/{file_id}/content"
    got = bytearray()
    async with client.session.get(url, headers=client.headers) as response:
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
            await drain(response.content, got)
    return bytes(got)


async def drain(stream, got):
    async for chunk in stream.iter_any():
        got += chunk


@pytest.mark.parametrize("fault", ["reset-mid-body", "truncated-chunk"])
async def test_a_download_may_be_cut_after_so_many_bytes(client, fault):
    batch = await client.finished([line("a"), line("b")])
    whole = (await client.content(batch["output_file_id"])).body
    client.sandbox.faults.add(fault, nbytes=500, times=1)
    got = await partial(client, batch["output_file_id"])
    assert 500 <= len(got) < len(whole)
    assert whole.startswith(got)
    assert (await client.content(batch["output_file_id"])).body == whole


async def test_a_cut_beyond_the_end_resets_once_everything_was_sent(client):
    batch = await client.finished([line("a")])
    client.sandbox.faults.add("reset-mid-body", nbytes=1_000_000, times=1)
    await partial(client, batch["output_file_id"])
    assert client.sandbox.ledger.statuses["content reset"] == 1


async def test_the_bytes_of_a_file_may_be_framed_oddly(client):
    batch = await client.finished([line("a"), line("b")])
    whole = (await client.content(batch["output_file_id"])).body
    expected = {
        "torn-tail:nbytes=9": whole[:-9],
        "no-final-newline": whole[:-1],
        "crlf": whole.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + whole,
    }
    for fault, body in expected.items():
        client.sandbox.faults.add(fault, times=1)
        assert (await client.content(batch["output_file_id"])).body == body, fault


async def test_skip_may_be_ignored(client):
    batch = await client.finished([line("a"), line("b")])
    client.sandbox.faults.add("skip-ignored", times=1)
    reply = await client.content(batch["output_file_id"], skip=1)
    assert (reply.custom_ids, reply.headers["X-Last-Line"]) == (["a", "b"], "2")


async def test_replies_are_compressed_only_when_the_client_offers_it(client):
    batch = await client.finished([line("a")])
    client.sandbox.faults.add("gzip")
    for path in (f"/files/{batch['output_file_id']}/content", f"/batches/{batch['id']}"):
        url = client.sandbox.url + path
        headers = client.headers | {"Accept-Encoding": "gzip"}
        async with client.session.get(url, headers=headers) as packed:
            assert packed.headers["Content-Encoding"] == "gzip"
            unpacked = await packed.read()
            assert int(packed.headers["Content-Length"]) == len(gzip.compress(unpacked))
        plain = await client.ask("GET", path, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert plain.body == unpacked


async def test_a_trickle_and_a_delay_end_all_the_same(client):
    batch = await client.finished([line("a")])
    client.sandbox.faults.add("one-byte-a-second:bytes_per_second=100000", times=1)
    assert (await client.content(batch["output_file_id"])).custom_ids == ["a"]
    client.sandbox.faults.add("slow:seconds=0.01", times=1)
    assert (await client.retrieve(batch))["status"] == "completed"


async def test_json_may_be_cut_in_half_with_status_200(client):
    client.sandbox.faults.add("malformed-json", times=1)
    reply = await client.get("/files")
    assert reply.status == 200
    with pytest.raises(json.JSONDecodeError):
        _ = reply.json


async def test_a_connection_may_be_reset_after_a_refusal(client):
    client.sandbox.faults.add("reset-after-4xx")
    with suppress(*LOST):
        assert (await client.order("nonsense")).status == 400
    assert client.sandbox.ledger.statuses == {"create reset": 1}
    assert (await client.get("/files")).status == 200


async def test_one_line_may_refuse_the_upload_with_or_without_its_number(client):
    faults = client.sandbox.faults
    faults.add("reject-line:line=2:status=422:reason=Reasoning budget too large", times=1)
    reply = await client.upload([line("a"), line("b")])
    assert (reply.status, reply.text) == (422, "Line 2: Reasoning budget too large")
    faults.add("reject-line:numbered=0", times=1)
    assert (await client.upload([line("a")])).text == "The request was refused"
    faults.add("reject-line:line=3")
    assert (await client.upload([line("a"), line("b")])).status == 201


async def test_a_file_may_be_too_large_for_an_undocumented_limit(client):
    client.sandbox.faults.add("file-too-large:max_bytes=300", times=1)
    reply = await client.upload(jsonl([line(str(at)) for at in range(9)]))
    assert (reply.status, reply.text) == (413, "File exceeds the maximum allowed size of 300 bytes")


async def test_a_batch_may_hang_in_every_state(client):
    for fault in ("stuck-validating", "stuck-in-progress", "stuck-cancelling"):
        client.sandbox.faults.add(fault, times=1, after=0)
        batch = await client.batch([line("a"), line("b")])
        client.sandbox.faults.clear()
        client.clock.advance(2)
        if fault == "stuck-cancelling":
            await client.post(f"/batches/{batch['id']}/cancel")
        client.clock.advance(1_000_000)
        shown = await client.retrieve(batch)
        assert shown["status"] == fault.removeprefix("stuck-").replace("-", "_")
        assert shown["request_counts"]["completed"] == (1 if fault == "stuck-in-progress" else 0)


async def test_validation_may_fail_late_naming_lines_or_not(client):
    client.sandbox.faults.add("validation-failed:lines=2,none", times=1)
    batch = await client.batch([line("a"), line("b")])
    assert batch["status"] == "validating"
    client.clock.advance(1)
    shown = await client.retrieve(batch)
    assert (shown["status"], shown["failed_at"]) == ("failed", int(client.clock.now))
    assert [row["line"] for row in shown["errors"]["data"]] == [2, None]
    assert shown["errors"]["data"][0]["code"] == "invalid_json_line"
    output = await client.content(batch["output_file_id"])
    assert (output.lines, output.headers["X-Incomplete"]) == ([], "true")
    assert client.sandbox.ledger.executions == {}
    await client.delete(f"/files/{batch['input_file_id']}")
    assert (await client.retrieve(batch))["status"] == "failed"


async def test_a_token_limit_fails_the_batch_minutes_after_its_creation(client):
    client.sandbox.faults.add("token-limit:seconds=120", times=1)
    batch = await client.batch([line("a")])
    client.clock.advance(119)
    assert (await client.retrieve(batch))["status"] == "validating"
    client.clock.advance(1)
    shown = await client.retrieve(batch)
    assert (shown["status"], shown["errors"]["data"][0]["code"]) == ("failed", "token_limit_exceeded")


async def test_the_output_id_may_be_null_for_a_while_and_finalizing_long(client):
    client.sandbox.faults.add("null-output-id:seconds=30", times=1)
    client.sandbox.faults.add("long-finalizing:seconds=20", times=1)
    batch = await client.batch([line("a")])
    client.clock.advance(12)
    assert (await client.retrieve(batch))["status"] == "finalizing"
    client.clock.advance(20)
    shown = await client.retrieve(batch)
    assert (shown["status"], shown["output_file_id"]) == ("completed", None)
    client.clock.advance(20)
    assert (await client.retrieve(batch))["output_file_id"]


async def test_an_expired_batch_says_so_and_delivers_all_the_same(client):
    client.sandbox.faults.add("expired", times=1)
    shown = await client.finished([line("a"), line("b")])
    assert (shown["status"], shown["expired_at"]) == ("completed", shown["created_at"])
    assert shown["request_counts"]["completed"] == 2


async def test_the_provider_may_cancel_a_batch_that_carries_output(client):
    client.sandbox.faults.add("cancelled-by-provider:share=0.5", times=1)
    batch = await client.batch([line(str(at)) for at in range(10)])
    client.clock.advance(3)
    assert (await client.retrieve(batch))["status"] == "in_progress"
    client.clock.advance(100)
    shown = await client.retrieve(batch)
    assert (shown["status"], shown["request_counts"]["completed"]) == ("cancelled", 6)
    assert len((await client.content(batch["output_file_id"])).lines) == 6


async def test_a_cancel_that_lies_ahead_leaves_the_batch_running_until_then(start):
    client = await start(faults=("cancelled-by-provider:share=0.8",), abort_seconds=0.0)
    batch = await client.batch([line("a"), line("b")])
    client.clock.advance(8)
    assert (await client.retrieve(batch))["status"] == "in_progress"
    client.clock.advance(2)
    assert (await client.retrieve(batch))["status"] == "cancelled"


async def test_an_early_refusal_of_a_large_upload_is_answered_or_breaks_the_connection(client):
    client.sandbox.faults.add("status-503:route=upload", times=1)
    with suppress(*LOST):
        assert (await client.upload([line("a")] + [line("b", note="x" * 1_000_000)] * 20)).status == 503
    assert client.sandbox.ledger.uploads == 0
    assert client.sandbox.ledger.statuses == {"upload 503": 1}


async def test_a_share_of_the_lines_of_one_batch_may_misbehave(client):
    client.sandbox.faults.add("lines:behaviour=fail:share=0.5", times=1)
    client.sandbox.faults.add("lines:behaviour=missing:share=0.2", times=1)
    counts = (await client.finished([line(str(at)) for at in range(200)]))["request_counts"]
    assert 70 < counts["failed"] < 130
    assert 30 < counts["completed"] < 90
    assert (await client.finished([line("x")]))["request_counts"]["completed"] == 1


async def test_ids_may_be_long_and_line_ids_may_collide(client):
    client.sandbox.faults.add("long-ids", times=1)
    client.sandbox.faults.add("colliding-ids", times=1)
    batch = await client.finished([line(str(at)) for at in range(6)])
    assert len(batch["id"]) == 260
    ids = [row["id"] for row in (await client.content(batch["output_file_id"])).lines]
    assert len(set(ids)) == 3
    assert all(len(found) == len("batch_req_") + 5 for found in ids)


async def shown_under(client, fault, lines=("a",), seconds=1000.0):
    batch = await client.batch([line(custom_id) for custom_id in lines])
    client.clock.advance(seconds)
    client.sandbox.faults.add(fault, times=1)
    return await client.retrieve(batch)


async def test_a_batch_object_may_be_written_in_the_ways_of_other_servers(client):
    assert (await shown_under(client, "unknown-status", seconds=2))["status"] == "scheduling"
    assert (await shown_under(client, "unknown-status"))["status"] == "completed"
    assert (await shown_under(client, "unknown-status:status=PROGRESS", seconds=2))["status"] == "PROGRESS"
    assert (await shown_under(client, "upper-case-status"))["status"] == "COMPLETED"
    assert (await shown_under(client, "null-counts"))["request_counts"] is None
    assert (await shown_under(client, "zero-counts"))["request_counts"]["total"] == 0
    assert (await shown_under(client, "counts-backwards", "ab"))["request_counts"]["completed"] == 1
    assert (await shown_under(client, "empty-error-file-id"))["error_file_id"] == ""
    assert isinstance((await shown_under(client, "errors-list"))["errors"], list)
    assert isinstance((await shown_under(client, "errors-text"))["errors"], str)
    assert (await shown_under(client, "iso-dates"))["completed_at"].endswith("Z")


async def test_a_create_reply_may_be_wrapped_and_a_file_stay_uploaded(client):
    client.sandbox.faults.add("wrapped-reply", times=1)
    client.sandbox.faults.add("file-uploaded", times=1)
    uploaded = (await client.upload([line("a")])).json
    assert uploaded["status"] == "uploaded"
    assert (await client.order(uploaded["id"])).json["job"]["status"] == "validating"


async def test_a_list_may_ignore_the_search(client):
    await client.batch([line("a")], metadata={"n": "1"})
    client.sandbox.faults.add("bad-list", times=1)
    assert len((await client.get("/batches", search="other")).json["data"]) == 1
    assert (await client.get("/batches", search="other")).json["data"] == []


async def test_a_list_may_show_batches_as_they_were(client):
    batch = await client.batch([line("a")])
    client.clock.advance(100)
    client.sandbox.faults.add("old-list", seconds=95)
    assert (await client.get("/batches")).json["data"][0]["status"] == "in_progress"
    assert (await client.get(f"/batches/{batch['id']}")).json["status"] == "completed"


async def test_times_after_rate_and_route_decide_which_requests_are_struck(client):
    fault = client.sandbox.faults.add("status-500:route=list-files+models:after=1:times=2")
    routes = ["/files", "/batches", "/models", "/files", "/files"]
    assert [(await client.get(route)).status for route in routes] == [200, 200, 500, 500, 200]
    assert (fault.matched, fault.fired) == (4, 2)
    client.sandbox.faults.remove(fault)
    half = client.sandbox.faults.add("status-500", rate=0.5)
    for _ in range(100):
        await client.get("/files")
    assert 30 < half.fired < 70


MISTAKES = {
    "teapot": "unknown fault 'teapot'; known: reset-before, ",
    "slow:seconds": "'seconds' is not key=value",
    "slow:speed=1": "fault 'slow' has no setting 'speed'; it has: route, times, rate, after, seconds",
    "slow:seconds=long": "fault 'slow': seconds must be a number, not 'long'",
    "slow:times=-1": "fault 'slow': times must not be negative, not '-1'",
    "slow:times=x": "fault 'slow': times must be a whole number, not 'x'",
    "slow:rate=2": "fault 'slow': rate must lie between 0 and 1, not '2'",
    "slow:route=home": "fault 'slow': unknown route 'home'; known: any, upload, ",
    "lines:behaviour=odd": "unknown behaviour 'odd'; known: ",
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.items())
def test_a_mistaken_fault_is_refused_in_one_line_that_names_it(text, message):
    with pytest.raises(ValueError, match=r"known|key=value|has no|must") as refused:
        Fault.parse(text)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_f_number_a_server_can_show_names_faults_that_exist():
    assert set(F_NUMBERS) == {f"F{number}" for number in range(1, 43)} - {"F39", "F40"}
    for number, texts in F_NUMBERS.items():
        assert [Fault.parse(text).name for text in texts]
        assert Fault.parse(f"{number}:times=2").times == 2


async def test_a_fault_can_be_added_by_its_f_number(client):
    uploaded = (await client.upload([line("a")])).json
    fault = client.sandbox.faults.add("F1", times=1)
    assert fault.name == "create-lost-reply"
    await lost(client.order(uploaded["id"]))


async def test_faults_can_be_switched_on_from_the_start(start):
    client = await start(faults=("status-503:route=models:times=1", "F9:times=1"))
    assert (await client.get("/models")).status == 503
    uploaded = (await client.upload([line("a")])).json
    body = {"input_file_id": uploaded["id"], "endpoint": CHAT, "completion_window": "24h"}
    assert (await client.post("/batches", json=body)).status == 429


def test_every_fault_is_named_in_the_tests():
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in KINDS if f'"{name}' not in text] == []
