"""Uploads (doubleword-api 1.1).

Not shown: images that cannot be fetched, since nobody fetches them here, and the limit on concurrent uploads; the
faults `reject-line` and `status-429:route=upload` word them.
"""

from uuid import UUID

import aiohttp
import pytest
from sandbox_client import CHAT, jsonl, line


async def test_an_upload_answers_201_with_the_bytes_received_and_an_expiry_of_thirty_days(client):
    data = jsonl([line("a"), line("b")])
    reply = await client.upload(data, filename="job.jsonl")
    now = int(client.clock.now)
    assert reply.status == 201
    assert list(reply.json) == ["id", "object", "bytes", "created_at", "filename", "purpose", "expires_at"]
    assert len(reply.json.pop("id")) == 36
    assert reply.json | {"id": ""} == {
        "id": "",
        "object": "file",
        "bytes": len(data),
        "created_at": now,
        "filename": "job.jsonl",
        "purpose": "batch",
        "expires_at": now + 30 * 86_400,
    }


async def test_multipart_fields_may_stand_in_either_order(client):
    fields = (("purpose", "batch"), ("expires_after[seconds]", "3600"), ("expires_after[anchor]", "created_at"))
    for file_first in (True, False):
        reply = await client.upload([line("a")], fields=fields, file_first=file_first)
        assert reply.json["expires_at"] == reply.json["created_at"] + 3600


@pytest.mark.parametrize("seconds", ["-5", "0", "1", "99999999999"])
async def test_an_expiry_may_be_any_number_and_its_anchor_any_text(client, seconds):
    fields = (("expires_after[anchor]", "odd"), ("expires_after[seconds]", seconds), ("colour", "blue"))
    reply = await client.upload([line("a")], fields=fields)
    assert reply.json["expires_at"] == reply.json["created_at"] + int(seconds)


async def test_a_file_past_its_expiry_is_listed_read_and_batched_all_the_same(client):
    uploaded = (await client.upload([line("a")], fields=(("expires_after[seconds]", "1"),))).json
    client.clock.advance(1000)
    assert [file["id"] for file in (await client.get("/files")).json["data"]] == [uploaded["id"]]
    assert (await client.get(f"/files/{uploaded['id']}")).json["expires_at"] < client.clock.now
    assert (await client.content(uploaded["id"])).custom_ids == ["a"]
    assert (await client.order(uploaded["id"])).status == 201


async def test_a_file_part_without_a_name_is_called_upload(client):
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("file", jsonl([line("a")]).decode())
    reply = await client.post("/files", data=form)
    word, _, rest = reply.json["filename"].partition("-")
    assert (reply.status, word, str(UUID(rest))) == (201, "upload", rest)


async def test_a_missing_purpose_is_reported_as_batch_and_its_case_is_kept(client):
    assert (await client.upload([line("a")], fields=())).json["purpose"] == "batch"
    assert (await client.upload([line("a")], fields=(("purpose", "BATCH"),))).json["purpose"] == "BATCH"


@pytest.mark.parametrize("seconds", ["soon", "", "1.5", "1_000", " 7", "9223372036854775808"])
async def test_an_unparsable_expiry_is_ignored(client, seconds):
    reply = await client.upload([line("a")], fields=(("expires_after[seconds]", seconds),))
    assert reply.json["expires_at"] - reply.json["created_at"] == 30 * 86_400


async def test_blank_lines_and_a_missing_last_newline_are_accepted(client):
    reply = await client.upload(b"\n" + jsonl([line("a")]) + b"  \r\n" + jsonl([line("b")]).rstrip())
    assert reply.status == 201
    assert (await client.content(reply.json["id"])).custom_ids == ["a", "b"]


async def test_duplicate_custom_ids_and_file_names_are_accepted(client):
    first = await client.upload([line("a"), line("a")])
    second = await client.upload([line("a")])
    assert (first.status, second.status) == (201, 201)
    assert first.json["filename"] == second.json["filename"]
    assert first.json["id"] != second.json["id"]


async def test_every_line_of_a_duplicate_custom_id_runs_and_answers_under_its_own_id(client):
    batch = await client.finished([line("a"), line("a")])
    output = await client.content(batch["output_file_id"])
    assert output.custom_ids == ["a", "a"]
    assert output.lines[0]["id"] != output.lines[1]["id"]
    assert client.sandbox.ledger.executions == {"a": 2}


BAD = {
    "no json": (b"{oops}\n", 400, "Invalid JSON on line 1: "),
    "mistyped": (jsonl([line(5)]), 400, "invalid type: int, expected a string"),
    "null": (jsonl([line(None)]), 400, "Invalid JSON on line 1: invalid type: null, expected a string"),
    "array": (b"[]\n", 400, "Invalid JSON on line 1: "),
    "bad utf-8": (b'{"custom_id":"\xff"}\n', 400, "File contains invalid UTF-8 on/near line 1 at byte offset 14: "),
    "long id": (jsonl([line("x" * 65)]), 400, "Line 1: custom_id exceeds the maximum length of 64 bytes"),
    "few characters, many bytes": (jsonl([line("é" * 33)]), 400, "exceeds the maximum length of 64 bytes"),
    "id not ascii": (jsonl([line("é")]), 400, "Line 1: custom_id contains invalid characters"),
    "id with newline": (jsonl([line("a\n")]), 400, "Line 1: custom_id"),
    "id with delete": (jsonl([line("a\x7f")]), 400, "Line 1: custom_id"),
    "id with nul": (jsonl([line("\0")]), 400, "Line 1: custom_id"),
    "method": (jsonl([line("a", method="GET")]), 400, "Line 1: Unsupported method 'GET'"),
    "url": (jsonl([line("a", url="/v1/chat")]), 400, "Line 1: Unsupported url '/v1/chat'"),
    "whole url": (jsonl([line("a", url=f"https://x{CHAT}")]), 400, "Line 1: Unsupported url"),
    "no model": (jsonl([line("a", body={})]), 400, "Line 1: Missing or invalid 'model'"),
    "mistyped model": (jsonl([line("a", body={"model": 5})]), 400, "Line 1: Missing or invalid 'model'"),
    "body null": (jsonl([line("a", body=None)]), 400, "Line 1: Missing or invalid 'model'"),
    "body no object": (jsonl([line("a", body=[])]), 400, "Line 1: Missing or invalid 'model'"),
    "type of model": (jsonl([line("a", body={"model": "x-Embedding"})]), 400, "does not support endpoint"),
    "model": (
        jsonl([line("a", body={"model": "unknown-x"})]),
        403,
        "Line 1: Model 'unknown-x' has not been configured or is not available to user",
    ),
    "behaviour": (jsonl([line("a", "fial-once")]), 400, "Line 1: unknown behaviour 'fial'"),
    "nothing": (b"\n\n", 400, "File contains no valid request templates"),
}


@pytest.mark.parametrize(("data", "status", "text"), BAD.values(), ids=BAD.keys())
async def test_a_bad_line_refuses_the_whole_upload_in_plain_text(client, data, status, text):
    reply = await client.upload(data)
    assert reply.status == status
    assert text in reply.text
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert (await client.get("/files")).json["data"] == []


@pytest.mark.parametrize("field", ["custom_id", "method", "url", "body"])
async def test_a_line_without_one_of_its_fields_is_no_valid_json(client, field):
    incomplete = {key: value for key, value in line("b").items() if key != field}
    reply = await client.upload([line("a"), incomplete])
    assert (reply.status, reply.text[:24]) == (400, "Invalid JSON on line 2: ")
    assert f"missing field `{field}`" in reply.text


async def test_bad_utf8_is_placed_by_its_byte_in_the_file(client):
    good, bad = jsonl([line("a")]), b'{"custom_id":"\xff"}\n'
    reply = await client.upload(b"\n" + good + bad)
    at = 1 + len(good) + 14
    assert reply.text.startswith(f"File contains invalid UTF-8 on/near line 2 at byte offset {at}: ")


async def test_a_line_is_checked_from_its_custom_id_to_the_size_of_its_body(start):
    client = await start(max_body_bytes=100)
    wrong = {"custom_id": "é", "method": "GET", "url": "/x", "body": {"input": "x" * 100}}
    steps = [
        ({}, 400, "custom_id"),
        ({"custom_id": "a"}, 400, "method"),
        ({"method": "POST"}, 400, "url"),
        ({"url": CHAT}, 400, "'model'"),
        ({"body": {"model": "unknown-embedding", "input": "x" * 100}}, 403, "not been configured"),
        ({"body": {"model": "embedding", "input": "x" * 100}}, 400, "does not support endpoint"),
        ({"body": {"model": "m", "input": "x" * 100}}, 400, "bytes"),
        ({"body": {"model": "m"}}, 201, ""),
    ]
    for change, status, word in steps:
        wrong |= change
        reply = await client.upload([wrong])
        assert (reply.status, word in reply.text) == (status, True), change


async def test_line_numbers_do_not_count_blank_lines(client):
    reply = await client.upload(jsonl([line("a")]) + b"\n\n" + jsonl([line("b", method="GET")]))
    assert reply.text.startswith("Line 2: ")


async def test_a_tab_an_empty_id_and_lower_case_post_are_legal(client):
    reply = await client.upload([line("a\tb"), line(""), line("c", method="post")])
    assert reply.status == 201
    assert [row["method"] for row in (await client.content(reply.json["id"])).lines] == ["POST", "POST", "post"]


async def test_only_the_models_served_are_accepted(start):
    client = await start(models=("good",))
    assert (await client.upload([line("a", body={"model": "good"})])).status == 201
    assert (await client.upload([line("a", body={"model": "other"})])).status == 403
    assert [model["id"] for model in (await client.get("/models")).json["data"]] == ["good"]


async def test_purpose_file_part_and_multipart_are_required(client):
    bad = await client.upload([line("a")], fields=(("purpose", "fine-tune"),))
    assert (bad.status, bad.text) == (400, "Invalid purpose 'fine-tune'. Only 'batch' is supported.")
    form = aiohttp.FormData({"purpose": "batch"}, default_to_multipart=True)
    assert (await client.post("/files", data=form)).text == "No file field found in multipart upload"
    for kind in ("application/json", "multipart/form-data"):
        reply = await client.post("/files", data=b"{}", headers={"Content-Type": kind})
        assert (reply.status, reply.text[:27]) == (400, "Invalid multipart request: ")


async def test_a_multipart_body_that_breaks_off_is_refused_and_leaves_nothing(client):
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + jsonl([line("a")])
    reply = await client.post("/files", data=part, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (reply.status, reply.text[:32]) == (400, "Failed to read multipart upload:")
    assert (await client.get("/files")).json["data"] == []


async def test_limits_on_lines_bytes_and_bodies_are_kept(start):
    client = await start(max_file_lines=2, max_file_bytes=2000, max_body_bytes=500)
    many = await client.upload([line(str(at)) for at in range(3)])
    assert (many.status, many.text) == (400, "File contains 3 requests, which exceeds the maximum of 2")
    wide = await client.upload([line("a", body={"model": "m", "input": "x" * 600})])
    assert wide.status == 400
    assert wide.text.startswith("Line 1: ")
    big = await client.upload(jsonl([line("a")]) + b"\n" * 2000)
    assert (big.status, big.text) == (413, "File exceeds the maximum allowed size of 2000 bytes")


async def test_a_limit_of_zero_is_none(start):
    client = await start(max_file_lines=0, max_file_bytes=0, max_body_bytes=0)
    assert (await client.upload([line("a", body={"model": "m", "input": "x"})])).status == 201


async def test_only_the_body_that_is_kept_counts_towards_its_limit(start):
    client = await start(max_body_bytes=100)
    stripped = {"model": "m", "priority": "x" * 200, "service_tier": "x" * 200, "background": "x" * 200}
    spaced = jsonl([line("b", body={"model": "m"})]).replace(b'"m"', b" " * 200 + b'"m"')
    assert (await client.upload(jsonl([line("a", body=stripped)]) + spaced)).status == 201


async def test_a_file_of_exactly_the_limit_is_accepted(start):
    data = jsonl([line("x" * 64)])
    client = await start(max_file_bytes=len(data), max_file_lines=1)
    assert (await client.upload(data)).status == 201


async def test_a_declared_length_over_the_limit_is_refused_before_the_lines_are_read(start):
    client = await start(max_file_bytes=300_000)
    assert (await client.upload(b"{bad}\n" + b"\n" * 1_000_000)).status == 413
    # Other parts may take ten kibibytes, so that a file a little too large is only found out as it arrives.
    assert (await client.upload(b"{bad}\n" + b"\n" * 300_100)).status == 400
    assert (await client.upload(b"\n" * 300_100)).status == 413


async def test_a_file_of_many_long_lines_passes_through_as_a_stream(client):
    data = jsonl([line(str(at), body={"model": "m", "input": "x" * 300_000}) for at in range(8)])
    reply = await client.upload(data)
    assert reply.json["bytes"] == len(data)
    assert client.sandbox.ledger.files[0].lines == 8
