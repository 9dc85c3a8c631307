"""Creating batches (doubleword-api 2.1)."""

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


async def test_a_model_that_left_between_upload_and_create_is_refused(start):
    client = await start(models=("m",))
    uploaded = (await client.upload([line("a")])).json
    client.sandbox.provider.files[uploaded["id"]].templates[0].model = "gone"
    reply = await client.order(uploaded["id"])
    assert (reply.status, reply.text) == (400, "The following model(s) are no longer available: gone")
