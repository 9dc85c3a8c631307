"""Batches: made once, found again by our key, read tolerantly."""

import pytest
from api_wire import CHAT

from orchestrator.core.remote import RemoteState
from orchestrator.errors import NotFound


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


async def test_a_listing_that_starts_anew_for_an_unknown_after_is_not_read_for_ever(answers):
    page = b'{"object":"list","data":[{"id":"a","status":"completed"}],"last_id":"a","has_more":true}'
    client = await answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(page) + page)
    assert await client.find_batches("orc-1", 0) == []


@pytest.mark.parametrize("data", [b"null", b"{}", b"[null, 3, []]", b'[{"status":"x"}]', b'[{"id":7}]'])
async def test_a_listing_of_nonsense_finds_nothing(answers, data):
    page = b'{"data":' + data + b',"has_more":false}'
    client = await answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page)
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
