"""Creating batches (doubleword-api 2.1).

Not shown: files of others, spending caps, the capacity of a window and the volume of unverified accounts, which have no
counterpart here; `status-NNN:route=create:text=...` words them.
"""

import pytest
from sandbox_client import CHAT, line


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
    assert (batch["object"], batch["status"], batch["dwext"]) == ("batch", "validating", {"source": "api"})
    assert (batch["endpoint"], batch["completion_window"], batch["created_at"]) == (CHAT, "24h", now)
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


BAD_ORDERS = {
    "window": ({"completion_window": "7d"}, 400, "Unsupported completion_window. Allowed values: 24h, 1h"),
    "no humantime": ({"completion_window": "24 h"}, 400, "Unsupported completion_window. Allowed values: 24h, 1h"),
    "background": ({"completion_window": "background"}, 403, "Insufficient permissions"),
    "endpoint": ({"endpoint": "/x"}, 400, f"Unsupported endpoint '/x'. Supported: {CHAT}"),
    "file id": ({"input_file_id": "file-0f6c1111-1111-4111-8111-111111111111"}, 400, "Invalid input_file_id format"),
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


async def test_bodies_must_be_json_and_a_refusal_says_what_is_wrong_with_them(client):
    batch = await client.finished([line("a", "fail")])
    for path, field in (("/batches", "input_file_id"), (f"/batches/{batch['id']}/retry-requests", "request_ids")):
        untyped, form = await client.post(path, data=b"{}"), await client.post(path, data={"a": "b"})
        assert (untyped.status, form.status) == (415, 415)
        headers = {"Content-Type": "application/json; charset=utf-8"}
        assert (await client.post(path, data=b"{oops", headers=headers)).status == 400
        reply = await client.post(path, data=b"{}", headers=headers)
        assert (reply.status, reply.headers["Content-Type"]) == (422, "text/plain; charset=utf-8")
        assert f"missing field `{field}`" in reply.text


async def test_a_create_is_checked_from_its_form_to_its_models(start):
    client = await start(models=("m",))
    uploaded = (await client.upload([line("a")])).json
    client.sandbox.provider.files[uploaded["id"]].templates[0].model = "gone"
    body = {"input_file_id": "x", "endpoint": "/x", "completion_window": "x", "metadata": {"a": 1}}
    steps = [
        ({}, 422, "target type"),
        ({"metadata": {}}, 400, "completion_window"),
        ({"completion_window": "1h"}, 400, "endpoint"),
        ({"endpoint": CHAT}, 400, "Invalid input_file_id format"),
        ({"input_file_id": "0f6c1111-1111-4111-8111-111111111111"}, 404, "not found"),
        ({"input_file_id": uploaded["id"]}, 400, "The following model(s) are no longer available: gone"),
    ]
    for change, status, word in steps:
        body |= change
        reply = await client.post("/batches", json=body)
        assert (reply.status, word in reply.text) == (status, True), change
        assert reply.headers["Content-Type"].startswith("text/plain")
    assert client.sandbox.ledger.creates == 0


async def test_the_endpoint_is_not_compared_with_the_lines_which_run_on_their_own(client):
    batch = await client.finished([line("a")], endpoint="/v1/embeddings")
    assert batch["endpoint"] == "/v1/embeddings"
    (reply,) = (await client.content(batch["output_file_id"])).lines
    assert reply["response"]["body"]["object"] == "chat.completion"


async def test_unknown_keys_of_a_create_are_ignored(client):
    uploaded = (await client.upload([line("a")])).json
    more = {"output_expires_after": {"seconds": 1}, "api_key_id": 5, "colour": None}
    assert (await client.order(uploaded["id"], metadata=None, **more)).status == 201


INJECTED = {"request_source": "api", "created_by_email": "sandbox@example.org"}
DROPPED = ["created_by_email", "context_name", "context_type", "request_source", "created_by", "dw_user_agent"]
HIDDEN = ["dw_source_id", "dw_source_name", "dw_sync_id", "dw_external_key"]


async def test_metadata_may_be_of_any_size(client):
    metadata = {f"key-{at}-{'k' * 100}": "v" * 1000 for at in range(50)} | {"": ""}
    batch = await client.batch([line("a")], metadata=metadata)
    assert batch["metadata"] == metadata | INJECTED


@pytest.mark.parametrize("key", DROPPED)
async def test_reserved_keys_of_metadata_vanish_however_they_are_written(client, key):
    for written in (key, key.upper(), key.title().replace("_", "-")):
        batch = await client.batch([line("a")], metadata={written: "mine", "n": "1"})
        assert batch["metadata"] == {"n": "1"} | INJECTED
    assert (await client.get("/batches", search="mine")).json["data"] == []


@pytest.mark.parametrize("key", HIDDEN)
async def test_some_keys_of_metadata_are_searched_and_never_shown(client, key):
    batch = await client.batch([line("a")], metadata={key: "secret"})
    (found,) = (await client.get("/batches", search="secret")).json["data"]
    assert found["id"] == batch["id"]
    assert key not in batch["metadata"] | found["metadata"]


async def test_a_create_that_failed_may_leave_a_batch_that_is_failed_or_validates_for_ever(client):
    uploaded = (await client.upload([line("a")])).json
    for fault, left in (("population-failed", "failed"), ("stuck-validating", "validating")):
        for name in ("create-500-made", fault):
            client.sandbox.faults.add(name, times=1)
        reply = await client.order(uploaded["id"], metadata={"token": fault})
        assert (reply.status, reply.text) == (500, "Internal server error")
        client.clock.advance(1000)
        (found,) = (await client.get("/batches", search=fault)).json["data"]
        assert found["status"] == left
