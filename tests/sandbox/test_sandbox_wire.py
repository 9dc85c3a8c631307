"""What all routes share: addresses, ids, keys, refusals (doubleword-api 0, 5).

Not shown: single requests (`/responses`) and `/daemons`, which are no part of batches; roles and organisations, since
the sandbox has one account.
"""

from uuid import UUID

import pytest
from sandbox_client import line

UNKNOWN = "0f6c1111-1111-4111-8111-111111111111"
FILE_ROUTES = [("GET", ""), ("DELETE", ""), ("GET", "/content"), ("GET", "/cost-estimate")]
BATCH_ROUTES = [
    ("GET", ""),
    ("DELETE", ""),
    ("GET", "/analytics"),
    ("GET", "/results"),
    ("POST", "/cancel"),
    ("POST", "/retry"),
    ("POST", "/retry-requests"),
]
ROUTES_BY_ID = [
    *((method, "file", rest) for method, rest in FILE_ROUTES),
    *((method, "batch", rest) for method, rest in BATCH_ROUTES),
]
LISTS = [("GET", "/files"), ("GET", "/batches"), ("GET", "/models"), ("POST", "/files"), ("POST", "/batches")]
FOLDERS = {"file": "/files", "batch": "/batches"}


def asked(rest):
    return {"json": {"request_ids": [UNKNOWN]}} if rest == "/retry-requests" else {}


@pytest.mark.parametrize(("method", "kind", "rest"), ROUTES_BY_ID)
async def test_every_route_exists_and_a_deleted_batch_alone_has_no_reply_body(client, method, kind, rest):
    batch = await client.finished([line("a", "fail-once")])
    named = {"file": batch["input_file_id"], "batch": batch["id"]}[kind]
    reply = await client.ask(method, f"{FOLDERS[kind]}/{named}{rest}", **asked(rest))
    silent = (method, kind) == ("DELETE", "batch")
    assert (reply.status, reply.body == b"") == ((204, True) if silent else (200, False))


async def test_there_is_no_route_for_a_batchs_output(client):
    batch = await client.finished([line("a")])
    missing, wrong = await client.get(f"/batches/{batch['id']}/output"), await client.ask("PUT", "/batches")
    assert (missing.status, missing.body) == (404, b"")
    assert (wrong.status, wrong.body) == (405, b"")


@pytest.mark.parametrize(("method", "kind", "rest"), ROUTES_BY_ID)
async def test_an_id_must_be_a_bare_uuid_and_one_nobody_knows_is_not_found(client, method, kind, rest):
    for wrong in (f"{kind}_{UNKNOWN}", f"{kind}-{UNKNOWN}", "0f6c1111"):
        reply = await client.ask(method, f"{FOLDERS[kind]}/{wrong}{rest}", **asked(rest))
        assert (reply.status, reply.text) == (400, f"Invalid {kind} ID format")
    reply = await client.ask(method, f"{FOLDERS[kind]}/{UNKNOWN}{rest}", **asked(rest))
    assert (reply.status, reply.text) == (404, f"{kind.capitalize()} with ID {UNKNOWN} not found")
    assert reply.headers["Content-Type"].startswith("text/plain")


async def test_ids_are_bare_lower_case_uuids_and_those_of_lines_carry_a_prefix(client):
    batch = await client.finished([line("a"), line("b", "fail")])
    output, errors = await client.replies(batch)
    lines = [row["id"] for row in output.lines + errors.lines]
    assert all(found.startswith("batch_req_") for found in lines)
    ids = [batch[key] for key in ("id", "input_file_id", "output_file_id", "error_file_id")]
    ids += [found.removeprefix("batch_req_") for found in lines]
    assert [str(UUID(found)) for found in ids] == ids
    assert len(set(ids)) == 6


async def test_every_get_route_answers_head_without_a_body(client):
    batch = await client.finished([line("a")])
    paths = [path for method, path in LISTS if method == "GET"]
    paths += [f"/files/{batch['output_file_id']}{rest}" for method, rest in FILE_ROUTES if method == "GET"]
    paths += [f"/batches/{batch['id']}{rest}" for method, rest in BATCH_ROUTES if method == "GET"]
    for path in paths:
        full, head = await client.get(path), await client.ask("HEAD", path)
        assert (head.status, head.body) == (200, b""), path
        assert full.body
        assert head.headers["Content-Type"] == full.headers["Content-Type"]


async def test_times_are_whole_seconds_and_absent_fields_are_left_out(client):
    batch = await client.batch([line("a"), line("b", "fail")], metadata={"n": "1"})
    objects = [batch]
    for seconds in (2, 20, 100_000):
        client.clock.advance(seconds + 0.5)
        objects += (await client.get("/files")).json["data"]
        objects.append(await client.retrieve(batch))
    objects.append((await client.post(f"/batches/{batch['id']}/cancel")).json)
    stamps = [value for shown in objects for key, value in shown.items() if key.endswith("_at")]
    assert {type(stamp) for stamp in stamps} == {int}
    assert not [shown for shown in objects if None in shown.values()]
    assert len(objects[-1]) > len(objects[0])


async def test_replies_are_neither_compressed_nor_cut_nor_tagged(client):
    batch = await client.finished([line("a")])
    path = f"/files/{batch['output_file_id']}/content"
    whole = await client.get(path)
    reply = await client.ask("GET", path, headers={"Accept-Encoding": "gzip, zstd", "Range": "bytes=0-9"})
    assert (reply.status, reply.body) == (200, whole.body)
    assert {"Content-Encoding", "Content-Range", "Accept-Ranges", "ETag"} & set(reply.headers) == set()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "path"), [*LISTS, *((method, f"{FOLDERS[kind]}/x{rest}") for method, kind, rest in ROUTES_BY_ID)]
)
async def test_every_route_asks_for_a_key_before_anything_else(client, method, path):
    client.headers = {}
    reply = await client.ask(method, path)
    assert (reply.status, reply.text) == (401, "Authentication required")
    assert reply.headers["Content-Type"].startswith("text/plain")


TEXTS = {
    401: "Authentication required",
    402: "Account balance too low. Please add credits to continue.",
    404: "Resource not found",
    500: "Internal server error",
}


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 413, 422, 500])
async def test_most_refusals_are_plain_text_that_says_nothing_about_coming_back(client, status):
    client.sandbox.faults.add(f"status-{status}:route=upload")
    reply = await client.upload([line("a")])
    assert (reply.status, reply.headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
    assert reply.text == TEXTS.get(status, reply.text) != ""
    assert "Retry-After" not in reply.headers
    assert client.sandbox.ledger.uploads == 0


JSON_REFUSALS = {
    409: (["message", "resource"], None, None),
    429: (["error", "message", "retry_after_seconds"], "too_many_requests", "60"),
    503: (["error", "message", "retry_after_seconds"], "service_unavailable", "30"),
}


@pytest.mark.parametrize(("status", "shape"), JSON_REFUSALS.items())
async def test_conflicts_crowds_and_outages_are_json(client, status, shape):
    client.sandbox.faults.add(f"status-{status}:text=Some words")
    reply = await client.get("/files")
    keys, error, header = shape
    assert (reply.status, reply.headers["Content-Type"]) == (status, "application/json")
    assert (list(reply.json), reply.json.get("error"), reply.json["message"]) == (keys, error, "Some words")
    assert reply.headers.get("Retry-After") == header
    assert reply.json.get("retry_after_seconds") == (30 if header else None)


BAD_QUERIES = {
    "/files": ("limit=x", "limit="),
    "/batches": ("limit=x", "created_after=soon", "created_before=soon"),
    "/batches/{}/results": ("skip=x", "limit=1.5", "status=odd"),
    "/files/{}/content": ("skip=x", "skip=-1", "limit=x"),
}


@pytest.mark.parametrize("path", BAD_QUERIES)
async def test_a_query_that_cannot_be_read_is_refused_in_text(client, path):
    batch = await client.finished([line("a")])
    named = batch["output_file_id"] if path.startswith("/files") else batch["id"]
    for query in BAD_QUERIES[path]:
        reply = await client.get(f"{path.format(named)}?{query}")
        assert (reply.status, reply.text[:33]) == (400, "Failed to deserialize query strin"), query
        assert reply.headers["Content-Type"].startswith("text/plain")
