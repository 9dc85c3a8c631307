import pytest
from sandbox_client import line


async def names(client, **query):
    return [entry["filename"] for entry in (await client.get("/files", **query)).json["data"]]


@pytest.fixture
async def three(client):
    for name in ("one_x.jsonl", "two-x.jsonl", "THREE.jsonl"):
        await client.upload([line("a")], filename=name)
        client.clock.advance(1)
    return client


async def test_files_are_listed_newest_first_unless_asked_otherwise(three):
    assert await names(three) == ["THREE.jsonl", "two-x.jsonl", "one_x.jsonl"]
    assert await names(three, order="asc") == ["one_x.jsonl", "two-x.jsonl", "THREE.jsonl"]
    wrong = await three.get("/files", order="up")
    assert (wrong.status, wrong.text) == (400, "Order must be 'asc' or 'desc'")


async def test_pages_follow_one_another_and_an_unknown_after_starts_again(three):
    page = (await three.get("/files", limit=2)).json
    assert page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])
    assert await names(three, limit=2, after=page["last_id"]) == ["one_x.jsonl"]
    for unknown in ("nonsense", "0f6c1111-1111-4111-8111-111111111111"):
        assert await names(three, limit=2, after=unknown) == ["THREE.jsonl", "two-x.jsonl"]


async def test_an_empty_list_has_neither_first_nor_last_id(client):
    assert (await client.get("/files")).json == {"object": "list", "data": [], "has_more": False}


async def test_limit_is_clamped_and_must_be_a_number(three):
    assert len(await names(three, limit=0)) == 1
    assert len(await names(three, limit=5000)) == 3
    assert (await three.get("/files", limit="x")).status == 400


async def test_search_is_like_with_wildcards_and_without_case(three):
    assert await names(three, search="three") == ["THREE.jsonl"]
    assert await names(three, search="_x") == ["two-x.jsonl", "one_x.jsonl"]
    assert await names(three, search="\\_x") == ["one_x.jsonl"]
    assert await names(three, search="t%j") == ["THREE.jsonl", "two-x.jsonl"]


async def test_output_and_error_files_are_listed_too_and_purpose_is_exact(client):
    batch = await client.finished([line("a")])
    assert len(await names(client)) == 3
    assert await names(client, purpose="batch_output") == [f"batch-{batch['id']}-output.jsonl"]
    assert await names(client, purpose="BATCH") == []
    output = (await client.get(f"/files/{batch['output_file_id']}")).json
    assert output["purpose"] == "batch_output"
    assert "expires_at" not in output
    assert output["context_type"] == "personal"
    assert output["bytes"] > 0


async def listed(client, **query):
    return [entry["metadata"]["n"] for entry in (await client.get("/batches", **query)).json["data"]]


@pytest.fixture
async def four(client):
    for number in range(4):
        await client.batch([line(f"c{number}")], metadata={"n": str(number)})
        client.clock.advance(1)
    return client


async def test_batches_are_listed_newest_first_in_pages(four):
    assert await listed(four) == ["3", "2", "1", "0"]
    page = (await four.get("/batches", limit=3)).json
    assert (page["has_more"], len(page["data"])) == (True, 3)
    assert await listed(four, limit=3, after=page["last_id"]) == ["0"]
    assert await listed(four, limit=3, after="unknown") == ["3", "2", "1"]


async def test_search_sees_metadata_as_text_the_file_name_and_the_id(client):
    uploaded = (await client.upload([line("a")], filename="job-77.jsonl")).json
    batch = (await client.order(uploaded["id"], metadata={"client_token": "J-42", "n": "0"})).json
    await client.batch([line("b")], metadata={"n": "1"})
    for needle in ('"client_token": "j-42"', "job-77", batch["id"][:13], "j_42", '{"n": "0", "client_token"'):
        assert await listed(client, search=needle) == ["0"], needle
    assert await listed(client, search='"client_token":"j-42"') == []


async def test_the_status_filter_groups_statuses(four):
    await four.post(f"/batches/{(await four.get('/batches')).json['first_id']}/cancel")
    assert await listed(four, status="in_progress") == ["2", "1", "0"]
    assert await listed(four, status="cancelled") == ["3"]
    four.clock.advance(100)
    assert await listed(four, status="completed") == ["2", "1", "0"]
    assert await listed(four, status="failed") == []
    assert (await four.get("/batches", status="odd")).status == 400


async def test_batches_are_filtered_by_age_and_window(four):
    last = (await four.get("/batches")).json["data"][0]["created_at"]
    iso = "2026-09-21T14:13:2"
    assert last == 1_790_000_003
    assert await listed(four, created_after=f"{iso}2Z") == ["3", "2"]
    assert await listed(four, created_before=f"{iso}0") == ["0"]
    assert (await four.get("/batches", created_after="soon")).status == 400
    await four.batch([line("x")], completion_window="1h", metadata={"n": "4"})
    assert await listed(four, completion_window="1h") == ["4"]
    assert len(await listed(four, completion_window="1h,24h")) == 5


async def test_active_first_puts_running_batches_on_top(client):
    await client.finished([line("a")], metadata={"n": "old"})
    running = await client.batch([line("b", "slow")], metadata={"n": "running"})
    client.clock.advance(2)
    ended = await client.batch([line("c")], metadata={"n": "ended"})
    await client.post(f"/batches/{ended['id']}/cancel")
    assert await listed(client) == ["ended", "running", "old"]
    assert await listed(client, active_first="true") == ["running", "ended", "old"]
    assert await listed(client, active_first="true", after=running["id"], limit=1) == ["ended"]


async def test_deleted_batches_are_not_listed(four):
    first = (await four.get("/batches")).json["first_id"]
    await four.delete(f"/batches/{first}")
    assert await listed(four) == ["2", "1", "0"]
