"""Files on their way up and down: streamed, of known length, and bounded however the connection behaves."""

import tracemalloc

import msgspec
import pytest
from api_wire import each, line

from orchestrator.errors import NotFound, ProviderError, Rejected, ReplyLost


async def test_an_upload_is_stored_under_its_name_and_size(wire):
    file = await wire.upload("orc-1.jsonl", lines=5)
    (stored,) = wire.sandbox.ledger.files
    assert (stored.id, stored.filename, stored.lines, stored.nbytes) == (file.id, "orc-1.jsonl", 5, file.nbytes)


async def test_an_upload_is_streamed_and_never_held_as_a_whole(draining):
    client, received = await draining()
    piece, count = line("q-1") * 7000, 200
    tracemalloc.start()
    await client.upload("big.jsonl", len(piece) * count, each(piece for _ in range(count)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(received) > len(piece) * count > 150 << 20
    assert peak < 16 << 20


async def test_a_refusal_that_comes_before_the_upload_is_sent_is_read(wire):
    wire.sandbox.faults.add("file-too-large", max_bytes=1000)
    sent = 0

    async def lines():
        nonlocal sent
        for number in range(100_000):
            sent += 1
            yield line(f"q-{number:05}")

    nbytes = 100_000 * len(line("q-00000"))
    with pytest.raises((Rejected, ReplyLost)) as caught:
        await wire.client.upload("big.jsonl", nbytes, lines())
    assert isinstance(caught.value, Rejected), "the refusal was lost in the broken connection"
    assert caught.value.status == 413
    assert wire.sandbox.ledger.uploads == 0
    assert sent < 100_000


async def test_lines_that_fail_on_the_way_break_the_upload_off_and_store_nothing(wire):
    async def lines():
        yield line("q-1")
        raise RuntimeError("the table says no")

    with pytest.raises((RuntimeError, ProviderError)):
        await wire.client.upload("f.jsonl", 10_000, lines())
    assert wire.sandbox.ledger.uploads == 0


async def test_more_bytes_than_declared_are_never_taken_for_the_file(wire):
    data = [line("q-1"), line("q-2")]
    with pytest.raises(ProviderError):
        await wire.client.upload("f.jsonl", sum(map(len, data)) - 10, each(data))
    assert wire.sandbox.ledger.uploads == 0


async def test_fewer_bytes_than_declared_are_never_taken_for_the_file(wire):
    wire.client.provider = msgspec.structs.replace(wire.client.provider, upload_timeout_seconds=0.3)
    data = [line("q-1"), line("q-2")]
    with pytest.raises(ProviderError):
        await wire.client.upload("f.jsonl", sum(map(len, data)) + 10, each(data))
    assert wire.sandbox.ledger.uploads == 0


async def test_files_are_found_by_their_whole_name_only(wire):
    wanted = await wire.upload("orc-1.jsonl")
    await wire.upload("orc-10.jsonl")
    await wire.upload("xorc-1.jsonl")
    assert [file.id for file in await wire.client.find_files("orc-1.jsonl")] == [wanted.id]
    assert await wire.client.find_files("orc-2.jsonl") == []


async def test_a_file_is_found_behind_several_pages(wire):
    wanted = await wire.upload("orc-1.jsonl", lines=1)
    for number in range(205):
        wire.clock.advance(1)
        await wire.upload(f"other-{number}.jsonl", lines=1)
    wire.sandbox.faults.add("bad-list")
    assert [file.id for file in await wire.client.find_files("orc-1.jsonl")] == [wanted.id]
    assert wire.sandbox.ledger.requests["list-files"] == 3


async def test_a_deleted_file_is_not_found(wire):
    file = await wire.upload("orc-1.jsonl")
    await wire.client.delete_file(file.id)
    assert await wire.client.find_files("orc-1.jsonl") == []


# ---------------------------------------------------------------- content


async def test_content_is_read_from_the_line_asked_for(wire):
    batch = await wire.ended(lines=10)
    whole = await wire.read(batch.output_file_id)
    assert whole.count(b"\n") == 10
    lines = whole.splitlines(keepends=True)
    for skip in (1, 4, 9, 10, 50):
        assert await wire.read(batch.output_file_id, skip) == b"".join(lines[skip:])


async def test_content_is_never_asked_for_compressed(wire):
    wire.sandbox.faults.add("gzip")
    batch = await wire.ended(lines=10)
    assert (await wire.read(batch.output_file_id)).count(b"\n") == 10


async def test_a_partial_file_of_a_running_batch_can_be_read(wire):
    made = await wire.batch(lines=10)
    wire.clock.advance(6)
    assert 0 < (await wire.read(made.output_file_id)).count(b"\n") < 10


@pytest.mark.parametrize("fault", ["reset-mid-body", "truncated-chunk"])
@pytest.mark.parametrize("nbytes", [0, 1, 500, 2000])
async def test_what_came_before_a_break_is_given_and_then_the_break_is_told(wire, fault, nbytes):
    batch = await wire.ended(lines=20)
    wire.sandbox.faults.add(fault, nbytes=nbytes)
    got = b""
    with pytest.raises(ReplyLost):
        async with wire.client.content(batch.output_file_id, 0) as content:
            async for chunk in content.chunks():
                got += chunk
    assert len(got) >= nbytes
    wire.sandbox.faults.clear()
    assert (await wire.read(batch.output_file_id)).startswith(got[:nbytes])


@pytest.mark.parametrize("fault", ["status-500:route=content", "html-error:route=content"])
async def test_an_error_page_is_never_taken_for_content(wire, fault):
    batch = await wire.ended()
    wire.sandbox.faults.add(fault)
    with pytest.raises(ReplyLost):
        await wire.read(batch.output_file_id)


async def test_a_file_that_is_gone_is_not_found(wire):
    batch = await wire.ended()
    wire.sandbox.faults.add("file-gone")
    with pytest.raises(NotFound):
        await wire.read(batch.output_file_id)


async def test_a_line_of_many_megabytes_comes_through_in_bounded_pieces(answers):
    body = b"x" * (20 << 20)
    client = await answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    longest = total = 0
    async with client.content("f", 0) as content:
        async for chunk in content.chunks():
            longest, total = max(longest, len(chunk)), total + len(chunk)
    assert total == len(body)
    assert longest <= 1 << 20
