"""F24, F25, F27, F29, F33: every complete line of a file is read, whatever happens to a download on its way."""

import asyncio
from collections import Counter

import pytest
from aiohttp import web
from rig import collect

BROKEN = (
    "reset-mid-body:nbytes=0",
    "reset-mid-body:nbytes=1",
    "reset-mid-body:nbytes=700",
    "reset-mid-body:nbytes=3000",
    "truncated-chunk:nbytes=700",
    "torn-tail:nbytes=1",
    "torn-tail:nbytes=200",
    "html-error:route=content",
    "status-503:route=content",
    "status-500:route=content",
    "status-429:route=content",
    "reset-before:route=content",
    "redirect:route=content",
    "file-gone",
)
SHAPED = ("no-final-newline", "crlf", "bom", "gzip:route=content")


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_download_that_breaks_goes_on_where_it_stopped_and_loses_nothing(rig, fault):
    fault = rig.faults.add(fault, times=3)
    names = rig.ask_many(20)
    await rig.until_idle()
    assert rig.count() == {"done": 20}
    assert all(rig.history(name) == [None] for name in names)
    assert rig.ledger.creates == 1
    assert fault.fired >= 2
    assert rig.batch()["duplicates"] == 0


@pytest.mark.parametrize("fault", SHAPED)
async def test_line_ends_and_marks_change_nothing(rig, fault):
    rig.faults.add(fault)
    rig.ask_many(5)
    rig.ask("twice", model="m+sandbox-fail-once")
    await rig.until_idle()
    assert rig.count() == {"done": 6}
    assert rig.ledger.creates == 2
    assert rig.result("twice")["attempts"] == 2


async def test_a_cut_download_keeps_what_came_and_asks_for_the_rest_only(start):
    rig = await start(sandbox={"answer_bytes": 2000}, collection={"overlap_lines": 0})
    rig.ask_many(20)
    await rig.ended()
    rig.faults.add("reset-mid-body", nbytes=25_000, times=1)
    await rig.run(collect)
    done = rig.count()["done"]
    assert 8 <= done <= 12
    assert rig.batch()["output_cursor"] == done
    await rig.until_idle()
    assert rig.ledger.bytes_served < 60_000
    assert rig.count() == {"done": 20}


async def test_bytes_downloaded_are_about_the_bytes_of_the_output(start):
    rig = await start(sandbox={"latency_seconds": 450, "answer_bytes": 1000})
    rig.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
        " INSERT INTO prompts (custom_id, model, prompt) SELECT 'q-' || i, 'm', 'What about q-' || i || '?' FROM n"
    )
    await rig.until_idle()
    output = rig.value("SELECT sum(length(response)) FROM results")
    assert rig.ledger.requests["content"] >= 10
    assert rig.ledger.bytes_served < 1.6 * output


# ---------------------------------------------------------------- resuming


async def test_a_late_line_put_before_the_cursor_is_found(start):
    rig = await start(sandbox={"latency_seconds": 400}, collection={"overlap_lines": 0})
    rig.ask("late", model="m+sandbox-late")
    rig.ask_many(10)
    await rig.until_idle()
    assert rig.count() == {"done": 11}
    assert rig.history("late") == [None]
    assert rig.ledger.creates == 1


async def test_many_late_lines_are_found_by_one_full_reading(start):
    rig = await start(sandbox={"latency_seconds": 400}, collection={"overlap_lines": 0})
    for number in range(8):
        rig.ask(f"late-{number}", model="m+sandbox-late")
    rig.ask_many(10)
    await rig.until_idle()
    assert rig.count() == {"done": 18}
    assert set(rig.ledger.executions.values()) == {1}
    assert len(rig.told("settle.rereading")) <= 1


@pytest.mark.parametrize("overlap", [0, 2, 64])
async def test_a_server_that_ignores_skip_is_noticed_and_each_line_counts_once(start, overlap):
    rig = await start(sandbox={"latency_seconds": 300}, collection={"overlap_lines": overlap})
    rig.faults.add("skip-ignored")
    rig.ask_many(20)
    rig.ask("twice", model="m+sandbox-fail-once")
    await rig.until_idle()
    assert rig.count() == {"done": 21}
    assert set(rig.ledger.successes.values()) == {1}
    assert rig.result("twice")["attempts"] == 2
    assert sum(batch["duplicates"] for batch in rig.batches()) == 0
    assert rig.told("collect.skip_ignored") or overlap == 64


async def test_without_a_resume_parameter_lines_are_skipped_here(start):
    rig = await start(provider={"resume_parameter": ""}, sandbox={"latency_seconds": 300})
    rig.ask_many(20)
    await rig.until_idle()
    assert rig.count() == {"done": 20}
    assert not rig.told("collect.skip_ignored")


# ---------------------------------------------------------------- files that are gone


async def test_what_is_missed_of_one_file_says_nothing_of_the_other(start):
    rig = await start(through_proxy=True)
    rig.ask("bad", model="m+sandbox-bad-request")
    rig.ask_many(2)
    batch = await rig.ended()
    looks = Counter()

    def gone(status, headers, body):
        return 404, headers, b"File with ID x not found"

    def missing(file_id, most):
        def change(status, headers, body):
            looks[file_id] += 1
            return gone(status, headers, body) if looks[file_id] <= most else (status, headers, body)

        rig.proxy.rewrite("GET", f"{file_id}/content", change)

    missing(batch["output_file_id"], 1000)
    missing(batch["error_file_id"], 2)
    await rig.until_idle()
    assert looks[batch["error_file_id"]] > 2
    assert {told["file"] for told in rig.told("collect.file_gone")} == {"output"}
    assert rig.history("bad") == ["invalid"]
    assert rig.count() == {"done": 2, "failed": 1}


async def test_a_page_of_html_is_no_file(start):
    rig = await start(through_proxy=True)
    begun = []

    def maintenance(status, headers, body):
        begun.append(rig.clock())
        page = b"<html>\n<body>\nUnder maintenance\n</body></html>\n"
        down = rig.clock() - begun[0] < 300
        return (200, {**headers, "Content-Type": "text/html"}, page) if down else (status, headers, body)

    rig.proxy.rewrite("GET", "/content", maintenance)
    rig.ask_many(5)
    await rig.until_idle()
    assert "HTML" in rig.told("collect.failed")[0]["reason"]
    assert rig.ledger.creates == 1
    assert rig.history("q-1") == [None]


@pytest.mark.parametrize("fault", ["file-gone", "status-410:route=content"])
async def test_a_finished_batchs_file_that_is_gone_for_good_has_its_lines_resent(rig, fault):
    lost = rig.faults.add(fault, times=1000)
    rig.ask_many(3)
    await rig.until(lambda: rig.batches()[0]["status"] == "settled")
    lost.times = lost.fired
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    (gone, *_) = rig.told("collect.file_gone")
    assert gone["log_level"] == "error"
    assert rig.history("q-1")[0] == "missing"


async def test_a_file_that_cannot_be_read_while_its_batch_runs_does_not_keep_the_batch_from_ending(start):
    rig = await start(sandbox={"latency_seconds": 300})
    gone = rig.faults.add("file-gone")
    rig.ask_many(10)
    await rig.until(lambda: gone.fired >= 2)
    assert rig.batch()["status"] == "submitted"
    await rig.until(lambda: rig.batch()["status"] == "ended")
    rig.faults.clear()
    await rig.until_idle()
    assert rig.ledger.creates == 1


async def test_a_file_that_always_ends_within_a_line_is_done_without_in_the_end(rig):
    rig.faults.add("torn-tail", nbytes=200, times=14)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.count() == {"done": 3}
    assert rig.ledger.creates == 2


async def test_one_404_among_other_failures_does_not_make_a_file_gone(rig):
    rig.ask_many(3)
    await rig.ended()
    for _ in range(3):
        for fault, times in (("status-503:route=content", 5), ("file-gone", 2)):
            for _ in range(times):
                rig.faults.add(fault, times=1)
                await rig.run(collect)
                rig.clock.advance(61)
    await rig.until_idle()
    assert not rig.told("collect.file_gone")
    assert rig.ledger.creates == 1


async def broken_off(request, status, headers, body, carried):
    reply = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(body))})
    await reply.prepare(request)
    await reply.write(body[:carried])
    await asyncio.sleep(0.02)
    request.transport.close()
    return reply


@pytest.mark.parametrize("overlap", [2, 64])
async def test_the_last_full_reading_goes_on_where_a_connection_broke(start, overlap):
    rig = await start(through_proxy=True, sandbox={"answer_bytes": 1000}, collection={"overlap_lines": overlap})
    carried = 20_000

    async def cut(request, status, headers, body):
        if len(body) <= carried:
            return web.Response(status=status, body=body, headers=headers)
        return await broken_off(request, status, headers, body, carried)

    rig.proxy.spoil("GET", "/content$", cut, times=10**9)
    rig.ask_many(30)
    rig.ask("lost", model="m+sandbox-missing-once")
    await rig.until_idle()
    assert rig.count() == {"done": 31}
    assert not rig.context.reread


async def test_a_late_line_put_before_where_the_last_full_reading_broke_is_found(start):
    rig = await start(through_proxy=True, sandbox={"answer_bytes": 1000}, collection={"overlap_lines": 2})
    readings = []

    async def without_the_third(request, status, headers, body):
        lines = [line for line in body.splitlines(keepends=True) if b"q-3" not in line]
        readings.append(len(lines))
        if len(readings) == 1:
            return web.Response(status=status, body=b"".join(lines), headers=headers)
        return await broken_off(request, status, headers, b"".join(lines), len(b"".join(lines[:3])) + 10)

    rig.ask_many(6)
    batch = await rig.submitted()
    rig.proxy.spoil("GET", f"{batch['output_file_id']}/content$", without_the_third, times=2)
    await rig.until_idle()
    assert readings == [5, 5]
    assert rig.told("collect.failed")
    assert rig.history("q-3") == [None]
    assert rig.ledger.creates == 1


@pytest.mark.parametrize("fault", ["file-gone", "status-410:route=content"])
async def test_a_file_missing_for_a_while_costs_nothing(rig, fault):
    rig.faults.add(fault, times=4)
    rig.ask_many(3)
    await rig.until_idle()
    assert rig.ledger.creates == 1
