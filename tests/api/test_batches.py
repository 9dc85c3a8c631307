"""Batches: made once, found again by our key, read tolerantly."""

from urllib.parse import unquote

import pytest
from api_wire import CHAT

from orchestrator.core.remote import RemoteState
from orchestrator.errors import NotFound, ReplyLost


async def test_a_batch_carries_our_key_and_knows_its_files(wire):
    made = await wire.batch("orc-abc")
    assert "orc-abc" in made.metadata_values
    assert made.output_file_id
    assert made.error_file_id
    assert made.state is RemoteState.VALIDATING
    (entry,) = wire.sandbox.ledger.batches
    assert entry.id == made.id


async def test_a_batch_is_found_by_its_key_and_no_other(wire):
    made = await wire.batch("orc-1")
    await wire.batch("orc-10")
    await wire.batch("orc-2")
    assert [found.id for found in await wire.client.find_batches("orc-1", 0)] == [made.id]
    assert await wire.client.find_batches("orc-3", 0) == []


async def test_two_batches_under_one_key_are_both_found(wire):
    made = await wire.batch("orc-1")
    twin = await wire.client.create_batch(made.input_file_id, CHAT, "24h", "orc-1")
    assert {found.id for found in await wire.client.find_batches("orc-1", 0)} == {made.id, twin.id}


async def test_a_batch_is_found_behind_several_pages_of_a_listing_that_ignores_search(wire):
    made = await wire.batch("orc-1")
    for number in range(210):
        wire.clock.advance(1)
        await wire.client.create_batch(made.input_file_id, CHAT, "24h", f"other-{number}")
    wire.sandbox.faults.add("bad-list")
    found = await wire.client.find_batches("orc-1", 300)
    assert [one.id for one in found] == [made.id]
    assert wire.sandbox.ledger.requests["list-batches"] == 3


async def test_a_listing_without_end_proves_no_absence(wire, monkeypatch):
    monkeypatch.setattr("orchestrator.api.client.LISTING_PAGES", 2)
    made = await wire.batch("orc-1")
    for number in range(210):
        await wire.client.create_batch(made.input_file_id, CHAT, "24h", f"other-{number}")
    wire.sandbox.faults.add("bad-list")
    with pytest.raises(ReplyLost, match="no end"):
        await wire.client.find_batches("orc-1", 300)


async def test_a_listing_is_read_back_no_further_than_asked_and_a_day(wire):
    made = await wire.batch("orc-1")
    for number in range(210):
        await wire.client.create_batch(made.input_file_id, CHAT, "24h", f"old-{number}")
    wire.clock.advance(25 * 3600)
    await wire.client.create_batch(made.input_file_id, CHAT, "24h", "new")
    wire.sandbox.faults.add("bad-list")
    assert await wire.client.find_batches("orc-1", 50) == []
    assert wire.sandbox.ledger.requests["list-batches"] == 1
    assert [one.id for one in await wire.client.find_batches("orc-1", 2 * 3600)] == [made.id]


async def test_our_batch_is_found_however_old_its_provider_says_it_is(answers):
    page = b'{"data":[{"id":"a","created_at":1,"metadata":{"orchestrator_key":"orc-1"}}]}'
    client = await answers(b"HTTP/1.1 200 OK\r\nDate: Tue, 01 Sep 2026 00:00:00 GMT\r\n" + listing(page)[17:])
    assert [found.id for found in await client.find_batches("orc-1", 0)] == ["a"]


async def test_a_listing_that_starts_anew_for_an_unknown_after_is_not_read_for_ever(answers):
    page = b'{"object":"list","data":[{"id":"a","status":"completed"}],"last_id":"a","has_more":true}'
    client = await answers(listing(page))
    assert await client.find_batches("orc-1", 0) == []


def listing(page):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page


@pytest.mark.parametrize("page", [b"{}", b'{"error":"overloaded"}', b'{"data":{}}', b'{"data":""}', b'{"data":false}'])
async def test_what_is_no_listing_is_never_taken_for_an_empty_one(answers, page):
    client = await answers(listing(page))
    with pytest.raises(ReplyLost, match="no listing"):
        await client.find_batches("orc-1", 0)
    with pytest.raises(ReplyLost, match="no listing"):
        await client.find_files("orc-1")


@pytest.mark.parametrize("remote_id", [b'""', b"7", b'".."', b'"a\\nb"', b'"' + b"x" * 5000 + b'"'])
async def test_our_batch_under_an_id_that_cannot_be_used_is_not_taken_for_absent(answers, remote_id):
    client = await answers(listing(b'{"data":[{"id":' + remote_id + b',"metadata":{"orchestrator_key":"orc-1"}}]}'))
    with pytest.raises(ReplyLost, match="orc-1 is there"):
        await client.find_batches("orc-1", 0)
    assert await client.find_batches("orc-2", 0) == []


@pytest.mark.parametrize("data", [b"null", b"[null, 3, []]", b'[{"status":"x"}]', b'[{"id":7}]'])
async def test_a_listing_of_nonsense_finds_nothing(answers, data):
    client = await answers(listing(b'{"data":' + data + b',"has_more":false}'))
    assert await client.find_batches("orc-1", 0) == []
    assert await client.find_files("orc-1") == []


@pytest.mark.parametrize(
    "fault",
    ["wrapped-reply", "iso-dates", "no-nulls", "null-counts", "errors-list", "errors-text", "empty-error-file-id"],
)
async def test_an_odd_batch_object_is_read(wire, fault):
    wire.sandbox.faults.add(fault)
    made = await wire.batch("orc-1")
    wire.clock.advance(60)
    found = await wire.client.get_batch(made.id)
    assert (found.id, found.state) == (made.id, RemoteState.COMPLETED)
    assert found.created_at_ms == made.created_at_ms
    assert found.output_file_id
    assert found.error_file_id != ""


async def test_a_cancelled_and_a_deleted_batch_show_it(wire):
    made = await wire.batch("orc-1", lines=10)
    wire.clock.advance(5)
    assert (await wire.client.cancel_batch(made.id)).state is RemoteState.CANCELLED
    await wire.client.delete_batch(made.id)
    with pytest.raises(NotFound):
        await wire.client.get_batch(made.id)
    assert await wire.client.find_batches("orc-1", 0) == []


ODD_IDS = ["../../etc/passwd", "%2e%2e", "a?b=c", "a#b", "http://127.0.0.1:9/x", "@host", "a b", "\u2603", "a;b\\c"]


@pytest.mark.parametrize("remote_id", ODD_IDS)
async def test_an_id_is_one_part_of_the_path_whatever_stands_in_it(noted, remote_id):
    client, heads = noted
    for call in (client.get_batch, client.cancel_batch, client.delete_batch, client.delete_file):
        await call(remote_id)
    async with client.content(remote_id, 0) as content:
        assert [chunk async for chunk in content.chunks()]
    parts = [head.split(" ")[1].split("/") for head in heads]
    assert [(*part[:3], *part[4:]) for part in parts] == [
        ("", "v1", "batches"),
        ("", "v1", "batches", "cancel"),
        ("", "v1", "batches"),
        ("", "v1", "files"),
        ("", "v1", "files", "content"),
    ]
    assert {unquote(part[3]) for part in parts} == {remote_id}


async def test_a_servers_cookies_are_not_kept(noted):
    client, heads = noted
    for _ in range(3):
        await client.get_batch("x")
    assert not [head for head in heads if "\nCookie:" in head]
