"""Lists of files and batches (doubleword-api 1.2, 2.4).

Not shown: other members' files, since the sandbox has one account, and the sample files of a new one.
"""

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


async def test_a_listed_file_shows_its_owner_and_is_the_one_retrieved(client):
    uploaded = (await client.upload([line("a")])).json
    reply = await client.get("/files")
    assert list(reply.json) == ["object", "data", "first_id", "last_id", "has_more"]
    (listed,) = reply.json["data"]
    assert list(listed)[:7] == list(uploaded)
    owner = {"created_by_email": "sandbox@example.org", "context_name": "Personal", "context_type": "personal"}
    assert listed == uploaded | owner
    assert list(listed)[7:] == list(owner)
    assert (await client.get(f"/files/{uploaded['id']}")).json == listed


async def test_files_of_the_same_moment_are_listed_by_their_ids(client):
    ids = sorted([(await client.upload([line("a")])).json["id"] for _ in range(5)])
    for order, wanted in (("asc", ids), ("desc", ids[::-1])):
        first = (await client.get("/files", order=order, limit=2)).json
        rest = (await client.get("/files", order=order, after=first["last_id"])).json
        assert [file["id"] for file in first["data"] + rest["data"]] == wanted


async def test_a_page_has_twenty_entries_unless_asked_otherwise_and_at_most_101(client):
    uploaded = (await client.upload([line("a")])).json
    for _ in range(102):
        await client.order(uploaded["id"])
    for path in ("/files", "/batches"):
        for query, count in (({}, 20), ({"limit": 101}, 101), ({"limit": 102}, 101), ({"limit": -3}, 1)):
            page = (await client.get(path, **query)).json
            assert (len(page["data"]), page["has_more"]) == (count, True)


async def test_a_deleted_file_is_not_listed(three):
    await three.delete(f"/files/{(await three.get('/files')).json['first_id']}")
    assert await names(three) == ["two-x.jsonl", "one_x.jsonl"]


async def test_unknown_keys_of_a_query_are_ignored(three):
    assert len(await names(three, own="true", colour="blue")) == 3


async def test_pages_follow_one_another_and_an_unknown_after_starts_again(three):
    page = (await three.get("/files", limit=2)).json
    assert page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])
    assert await names(three, limit=2, after=page["last_id"]) == ["one_x.jsonl"]
    for unknown in ("nonsense", "0f6c1111-1111-4111-8111-111111111111"):
        assert await names(three, limit=2, after=unknown) == ["THREE.jsonl", "two-x.jsonl"]


@pytest.mark.parametrize("path", ["/files", "/batches"])
async def test_an_empty_list_has_neither_first_nor_last_id(client, path):
    assert (await client.get(path)).json == {"object": "list", "data": [], "has_more": False}


async def test_search_is_like_with_wildcards_and_without_case(three):
    assert await names(three, search="three") == ["THREE.jsonl"]
    assert await names(three, search="_x") == ["two-x.jsonl", "one_x.jsonl"]
    assert await names(three, search="\\_x") == ["one_x.jsonl"]
    assert await names(three, search="t%j") == ["THREE.jsonl", "two-x.jsonl"]


@pytest.mark.parametrize("word", ["output", "error"])
async def test_output_and_error_files_are_listed_too_with_an_estimate_of_their_size(client, word):
    batch = await client.finished([line("a"), line("b", "fail")])
    assert len(await names(client)) == 3
    assert await names(client, purpose=f"batch_{word}") == [f"batch-{batch['id']}-{word}.jsonl"]
    shown = (await client.get(f"/files/{batch[f'{word}_file_id']}")).json
    assert shown["purpose"] == f"batch_{word}"
    assert "expires_at" not in shown
    assert shown["context_type"] == "personal"
    assert 0 < shown["bytes"] != len((await client.content(shown["id"])).body)


async def test_a_purpose_is_sought_as_it_was_uploaded(client):
    for name, fields in (("none", ()), ("lower", [("purpose", "batch")]), ("UPPER", [("purpose", "BATCH")])):
        await client.upload([line("a")], filename=name, fields=fields)
    assert await names(client, purpose="batch") == ["lower"]
    assert await names(client, purpose="BATCH") == ["UPPER"]
    assert len(await names(client)) == 3


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
    assert await listed(four, order="asc") == ["3", "2", "1", "0"]
    for unknown in ("nonsense", "0f6c1111-1111-4111-8111-111111111111"):
        assert await listed(four, limit=3, after=unknown) == ["3", "2", "1"]


async def test_a_listed_batch_is_the_one_retrieved(client):
    batch = await client.finished([line("a")])
    reply = await client.get("/batches")
    assert list(reply.json) == ["object", "data", "first_id", "last_id", "has_more"]
    assert reply.json["data"] == [await client.retrieve(batch)]
    assert (reply.json["first_id"], reply.json["last_id"]) == (batch["id"], batch["id"])


async def test_search_sees_metadata_as_text_the_file_name_and_the_id(client):
    uploaded = (await client.upload([line("a")], filename="job-77.jsonl")).json
    batch = (await client.order(uploaded["id"], metadata={"client_token": "J-42", "n": "0"})).json
    await client.batch([line("b")], metadata={"n": "1"})
    for needle in ('"client_token": "j-42"', "job-77", batch["id"][:13], "j_42", '{"n": "0", "client_token"'):
        assert await listed(client, search=needle) == ["0"], needle
    assert await listed(client, search='"client_token":"j-42"') == []


async def statuses(client, **query):
    return [entry["status"] for entry in (await client.get("/batches", **query)).json["data"]]


async def test_the_status_filter_groups_statuses(client):
    made = [await client.batch([line("a", behaviour)], metadata={"n": "0"}) for behaviour in ("ok", "fail", "slow")]
    client.clock.advance(12)
    await client.post(f"/batches/{made[2]['id']}/cancel")
    made.append(await client.batch([line("a")]))
    await client.post(f"/batches/{made[3]['id']}/cancel")
    await client.batch([line("a")])
    assert sorted(await statuses(client, status="in_progress")) == ["finalizing", "validating"]
    assert sorted(await statuses(client, status="cancelled")) == ["cancelled", "cancelling"]
    assert await statuses(client, status="failed") == ["failed"]
    assert await statuses(client, status="completed") == []
    client.clock.advance(2)
    assert sorted(await statuses(client, status="in_progress")) == ["finalizing", "in_progress"]
    client.clock.advance(100)
    assert await statuses(client, status="completed") == ["completed", "completed"]
    assert await statuses(client, status="in_progress") == []
    odd = await client.get("/batches", status="odd")
    assert (odd.status, odd.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")


async def test_the_filter_for_expired_finds_what_is_overdue_or_came_late_and_not_what_came_in_time(start):
    client = await start(latency_seconds=5000.0, windows={"1h": 3600.0, "24h": 86_400.0})
    await client.batch([line("a")], completion_window="1h", metadata={"n": "late"})
    await client.batch([line("a")], completion_window="24h", metadata={"n": "in time"})
    assert await listed(client, status="expired") == []
    client.clock.advance(4000)
    assert await listed(client, status="expired") == ["late"]
    assert await listed(client, status="in_progress", completion_window="1h") == ["late"]
    client.clock.advance(100_000)
    assert await listed(client, status="expired") == ["late"]
    assert await listed(client, status="completed", completion_window="1h") == ["late"]


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
