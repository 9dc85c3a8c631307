"""A restored queue finds what was sent since its backup, and pays for none of it again."""

import asyncio
import json
import re
import shutil
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from rig import admit, pack, poll, submit

from orchestrator.api import client
from orchestrator.context import key_prefix, new_key
from orchestrator.errors import ProviderError
from orchestrator.stages import prune, reclaim
from orchestrator.store.backup import back_up
from orchestrator.store.restoring import read_name, read_restored

pytestmark = pytest.mark.sqlite  # backups of PostgreSQL are restored in tests/e2e/test_restored_dump.py

LOOKS, APART_SECONDS = 3, 30
QUICK = {"submission": {"adopt_checks": LOOKS, "adopt_interval_seconds": APART_SECONDS}}


@pytest.fixture
async def lived(start, tmp_path):
    """Open a rig whose queue can be backed up and restored."""

    async def opened(**settings):
        rig = await start(**{**QUICK, **settings})
        name = await rig.context.database.read(read_name)
        rig.context = replace(rig.context, new_key=partial(new_key, key_prefix(name)))
        rig.backup = tmp_path / "backup.db"
        return rig

    return opened


def backed_up(rig):
    back_up(rig.path, rig.backup, rig.context.now_ms(), lambda *_: None)


async def restored(rig):
    """The daemon is stopped, and the backup put in the queue's place."""
    await rig.context.database.close()
    put_in_place(rig)
    rig.context.strangers.clear()


def put_in_place(rig):
    for suffix in ("-wal", "-shm"):
        Path(f"{rig.path}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(rig.backup, rig.path)


async def reclaimed(rig):
    """As the daemon does it, before anything else."""
    await rig.run(admit)
    for _ in range(50):
        await rig.run(reclaim)
        if await rig.context.database.read(read_restored) is None:
            return
        rig.clock.advance(APART_SECONDS)
    raise AssertionError("it never ends")


async def made_do(rig):
    """As `reclaimed`, whatever cannot be read: the reasons why it waited meanwhile."""
    rig.context = replace(rig.context, steady=rig.clock)
    await rig.run(admit)
    reasons = set()
    for _ in range(500):
        try:
            await rig.run(reclaim)
        except ProviderError as error:
            reasons.add(re.sub(r"[\d.]+ hours", "some hours", str(error)))
            rig.clock.advance(300)
            continue
        if await rig.context.database.read(read_restored) is None:
            return reasons
        rig.clock.advance(APART_SECONDS)
    raise AssertionError("it never ends")


def paid_once(rig):
    assert rig.ledger.successes == dict.fromkeys(rig.statuses(), 1)
    assert rig.count() == {"done": len(rig.statuses())}


async def uploaded(rig):
    rig.faults.add("status-429:route=create", times=1)
    await rig.submitted()


async def in_creation(rig):
    rig.faults.add("reset-before:route=create", times=1)
    await rig.submitted()


STEPS = {
    "queued": lambda rig: rig.run(admit),
    "new": lambda rig: rig.run(),
    "sealed": lambda rig: rig.sealed(),
    "uploaded": uploaded,
    "creating": in_creation,
    "submitted": lambda rig: rig.submitted(),
    "ended": lambda rig: rig.ended(),
    "collected": lambda rig: rig.collected(),
}


@pytest.mark.parametrize("now", ["sent", "answered"])
@pytest.mark.parametrize("step", STEPS)
async def test_whatever_stood_where_when_the_backup_was_made_is_paid_once(lived, step, now):
    rig = await lived()
    rig.ask_many(3)
    await STEPS[step](rig)
    backed_up(rig)
    if now == "answered":
        await rig.until_idle()
    else:
        for _ in range(LOOKS + 2):
            await rig.later(admit, pack, submit, seconds=900)
    assert rig.ledger.creates == 1
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


@pytest.mark.parametrize("dialect", ["doubleword", "openai"])
async def test_batches_open_at_the_backup_and_batches_sent_since_come_back(lived, dialect):
    rig = await lived(sandbox={"dialect": dialect}, profile=dialect, packing={"linger_seconds": 0, "max_lines": 2})
    rig.ask_many(5)
    await rig.submitted()
    rig.ask("waits")
    backed_up(rig)
    for number in range(4):
        rig.ask(f"late-{number}")
    await rig.submitted()
    rig.clock.advance(5)
    creates = rig.ledger.creates
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == creates
    assert {rig.ledger.successes[custom_id] for custom_id in rig.statuses()} == {1}
    assert rig.count() == {"done": 6}
    strangers = rig.told("reclaim.stranger")
    assert 1 <= len(strangers) <= 2, "each is told of once"


async def test_a_prompt_that_failed_and_was_sent_again_since_is_not_sent_a_third_time(lived):
    rig = await lived()
    rig.ask("steady")
    rig.ask("fails", model="m+sandbox-fail-2")
    await rig.submitted()
    backed_up(rig)
    await rig.until_idle()
    assert (rig.ledger.creates, rig.ledger.executions["fails"]) == (3, 3)
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert (rig.ledger.creates, rig.ledger.executions["fails"]) == (3, 3)
    paid_once(rig)


async def test_a_batch_that_was_replaced_since_is_found_under_its_key(lived):
    rig = await lived()
    rig.faults.add("stuck-validating", times=1)
    rig.ask_many(2)
    await rig.submitted()
    backed_up(rig)
    await rig.later(poll, submit, seconds=1801)
    assert rig.ledger.creates == 2
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 2
    paid_once(rig)


async def test_an_answer_never_goes_to_another_question_of_the_same_custom_id(lived):
    rig = await lived()
    rig.ask("q", "The old question")
    rig.ask("same")
    await rig.run(admit)
    backed_up(rig)
    rig.sql("DELETE FROM prompts WHERE custom_id = 'q'")
    rig.ask("q", "The new question")
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert "The old question" in rig.result("q")["answer"]
    assert rig.ledger.executions == {"q": 2, "same": 1}


def picture(url):
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]})


@pytest.mark.parametrize("dialect", ["doubleword", "openai"])
async def test_a_prompt_with_images_is_known_again_wherever_the_provider_keeps_them(lived, dialect):
    rig = await lived(sandbox={"dialect": dialect}, profile=dialect)
    rig.ask("inline", body=picture("data:image/png;base64,iVBORw=="), model=None)
    rig.ask("linked", body=picture("https://images.example/cat.png"), model=None)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_the_answer_about_one_image_never_goes_to_another(lived):
    rig = await lived()
    rig.ask("q", body=picture("data:image/png;base64,iVBORw=="), model=None)
    await rig.run(admit)
    backed_up(rig)
    rig.sql("DELETE FROM prompts WHERE custom_id = 'q'")
    rig.ask("q", body=picture("data:image/png;base64,iVBORg=="), model=None)
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.executions == {"q": 2}


async def test_a_file_that_is_gone_is_told_and_its_prompts_are_sent_again(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    await rig.until_idle()
    provider = rig.sandbox.provider
    provider.delete_file(provider.files[rig.batch()["input_file_id"]], rig.clock())
    await restored(rig)
    await reclaimed(rig)
    (told,) = rig.told("reclaim.unreadable")
    assert told["log_level"] == "error"
    await rig.until_idle()
    assert rig.count() == {"done": 2}


async def test_until_the_provider_can_tell_nothing_is_decided(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await rig.run(admit)
    for fault in ("status-500:route=list-batches", "status-401:route=list-batches", "reset-mid-body:nbytes=100"):
        rig.faults.add(fault)
        with pytest.raises(ProviderError):
            await reclaim(rig.context)
        assert (await rig.context.database.read(read_restored)).looks == 0
        rig.faults.clear()
    await reclaimed(rig)
    await rig.until_idle()
    paid_once(rig)


async def test_a_provider_that_left_the_settings_is_not_taken_to_have_been_sent_nothing(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await rig.run(admit)
    client = rig.context.clients.pop("doubleword")
    for _ in range(LOOKS + 1):
        with pytest.raises(ProviderError, match=r"put its table \[providers\.doubleword\] back"):
            await reclaim(rig.context)
        rig.clock.advance(APART_SECONDS)
    rig.context.clients["doubleword"] = client
    await reclaimed(rig)
    await rig.until_idle()
    paid_once(rig)


async def test_a_batch_that_the_listing_shows_late_is_found(lived):
    rig = await lived()
    rig.faults.add(f"replica-lag:route=create:seconds={APART_SECONDS * 2 - 5}")
    rig.ask_many(2)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_a_file_that_comes_short_is_not_taken_for_the_whole(lived):
    rig = await lived(through_proxy=True)
    rig.ask_many(4)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await rig.run(admit)

    def cut(status, headers, body):
        return status, headers, body[: body.index(b"\n") + 1]

    rig.proxy.rewrite("GET", "/content$", cut)
    with pytest.raises(ProviderError, match="1 of 4 lines"):
        await reclaim(rig.context)
    rig.proxy.rewrites.clear()
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


# ---------------------------------------------------------------- files that cannot be read


TEXT = {"Content-Type": "text/plain"}
GONE = {
    "404": lambda *_: (404, TEXT, b"File not found"),
    "410": lambda *_: (410, TEXT, b"Gone"),
}
SPOILED = {
    "403": lambda *_: (403, TEXT, b"Insufficient permissions"),
    "400": lambda *_: (400, TEXT, b"Invalid file ID format"),
    "html": lambda *_: (200, {"Content-Type": "text/html"}, b"<html>Sign in</html>"),
    "text": lambda *_: (200, TEXT, b"<html>Sign in</html>"),
    "error": lambda *_: (200, TEXT, b'{"error":{"message":"no such file"}}\n'),
    "empty": lambda *_: (200, TEXT, b""),
    "cut": lambda status, headers, body: (status, headers, body[:-40]),
    "short": lambda status, headers, body: (status, headers, body[: body.index(b"\n") + 1]),
}


async def asked_since(rig, count=3):
    """A backup, then a batch that is over; its input file's path."""
    rig.ask_many(count)
    backed_up(rig)
    return f"/files/{(await rig.ended())['input_file_id']}/content$"


@pytest.mark.parametrize(
    ("how", "counts"),
    [(how, "shown") for how in GONE | SPOILED] + [("410", "null"), ("error", "null"), ("cut", "zero")],
)
async def test_what_an_input_file_does_not_tell_the_answers_do(lived, how, counts):
    rig = await lived(through_proxy=True)
    path = await asked_since(rig)
    await restored(rig)
    if counts != "shown":
        rig.faults.add(f"{counts}-counts")
    rig.proxy.rewrite("GET", path, (GONE | SPOILED)[how])
    reasons = await made_do(rig)
    (told,) = rig.told("reclaim.unreadable")
    assert told["log_level"] == "error"
    assert (told.get("lines"), told.get("unknown")) == ((3, 0) if counts == "shown" else (None, None))
    assert len(reasons) == (how in SPOILED)
    rig.faults.clear()
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_a_download_that_always_breaks_off_tells_what_came_before(lived):
    rig = await lived(through_proxy=True)
    path = await asked_since(rig)

    async def broken(request, status, headers, body):
        response = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: body.index(b"\n") + 5])
        await asyncio.sleep(0.01)
        request.transport.abort()
        return response

    await restored(rig)
    rig.proxy.spoil("GET", path, broken, times=1000)
    rig.proxy.rewrite("GET", "/content$", GONE["410"])
    (reason,) = await made_do(rig)
    assert "broke" in reason
    (told,) = rig.told("reclaim.unreadable")
    assert (told["lines"], told["unknown"]) == (3, 2)
    rig.proxy.spoilings.clear()
    rig.proxy.rewrites.clear()
    await rig.until_idle()
    assert rig.ledger.executions == {"q-1": 1, "q-2": 2, "q-3": 2}


async def test_the_reason_names_the_batch_what_is_wrong_and_what_to_do(lived):
    rig = await lived(through_proxy=True)
    path = await asked_since(rig)
    remote_id = rig.batch()["remote_batch_id"]
    await restored(rig)
    rig.proxy.rewrite("GET", path, SPOILED["403"])
    (reason,) = await made_do(rig)
    assert f"batch {remote_id}" in reason
    assert "403 Insufficient permissions: it is tried for some hours more" in reason
    assert "set queue_state.backed_up_at_ms to NULL" in reason


async def test_a_file_that_comes_back_in_time_is_read(lived):
    rig = await lived(through_proxy=True)
    path = await asked_since(rig)
    await restored(rig)
    await rig.run(admit)
    rig.proxy.rewrite("GET", path, SPOILED["cut"])
    for _ in range(LOOKS + 2):
        with pytest.raises(ProviderError):
            await reclaim(rig.context)
        rig.clock.advance(300)
    rig.proxy.rewrites.clear()
    await reclaimed(rig)
    assert not rig.told("reclaim.unreadable")
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_counts_that_lie_hold_a_queue_for_hours_and_not_for_ever(lived):
    rig = await lived(through_proxy=True)
    await asked_since(rig)
    await restored(rig)
    rig.proxy.rewrite("GET", "/batches$", lambda s, h, body: (s, h, body.replace(b'"total":3', b'"total":9')))
    (reason,) = await made_do(rig)
    assert "its input file came with 3 of 9 lines" in reason
    rig.proxy.rewrites.clear()
    (told,) = rig.told("reclaim.unreadable")
    assert (told["lines"], told["unknown"]) == (9, 6)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_where_neither_file_tells_the_prompts_are_told_of_and_sent_again(lived):
    rig = await lived(through_proxy=True)
    await asked_since(rig)
    await restored(rig)
    rig.proxy.rewrite("GET", "/content$", GONE["410"])
    await made_do(rig)
    (told,) = rig.told("reclaim.unreadable")
    assert (told["lines"], told["unknown"]) == (3, 3)
    assert rig.statuses() == dict.fromkeys(rig.statuses(), "queued")
    rig.proxy.rewrites.clear()
    await rig.until_idle()
    assert rig.count() == {"done": 3}


async def test_only_lines_that_were_not_answered_are_sent_again(lived):
    rig = await lived()
    rig.faults.add("cancelled-by-provider:share=0.5", times=1)
    await asked_since(rig, count=10)
    answered = sum(rig.ledger.successes.values())
    provider = rig.sandbox.provider
    provider.delete_file(provider.files[rig.batch()["input_file_id"]], rig.clock())
    await restored(rig)
    assert not await made_do(rig)
    (told,) = rig.told("reclaim.unreadable")
    assert 0 < told["unknown"] == 10 - answered < 10
    await rig.until_idle()
    paid_once(rig)


async def test_a_batch_that_runs_is_waited_for_since_its_answers_will_tell(lived):
    rig = await lived(through_proxy=True, sandbox={"latency_seconds": 5000.0})
    rig.ask_many(3)
    backed_up(rig)
    path = f"/files/{(await rig.submitted())['input_file_id']}/content$"
    await restored(rig)
    rig.proxy.rewrite("GET", path, GONE["410"])
    (reason,) = await made_do(rig)
    assert "410 Gone" in reason
    assert rig.told("reclaim.unreadable")[0]["unknown"] == 0
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_a_batch_that_never_ends_is_not_waited_for_for_ever(lived):
    rig = await lived(through_proxy=True)
    rig.faults.add("stuck-in-progress:share=0.5", times=1)
    rig.ask_many(4)
    backed_up(rig)
    path = f"/files/{(await rig.submitted())['input_file_id']}/content$"
    await restored(rig)
    rig.proxy.rewrite("GET", path, GONE["410"])
    since = rig.clock()
    assert await made_do(rig)
    assert rig.clock() - since > 24 * 3600
    assert rig.told("reclaim.unreadable")[0]["unknown"] == 2
    await rig.until_idle()
    paid_once(rig)


async def test_an_answer_of_a_batch_that_cannot_be_read_never_goes_to_a_question_that_was_read_to_be_another(lived):
    rig = await lived(through_proxy=True)
    rig.ask("q", "The old question")
    rig.ask("same")
    await rig.run(admit)
    backed_up(rig)
    rig.sql("DELETE FROM prompts WHERE custom_id = 'q'")
    rig.ask("q", "The new question")
    path = f"/files/{(await rig.ended())['input_file_id']}/content$"
    await restored(rig)
    rig.proxy.rewrite("GET", path, lambda status, headers, body: (status, headers, body + b"{"))
    await made_do(rig)
    await rig.until_idle()
    assert "The old question" in rig.result("q")["answer"]
    assert rig.ledger.executions == {"q": 2, "same": 1}


@pytest.mark.parametrize("times", [1, None])
async def test_a_prompt_stays_in_the_last_batch_it_was_in_whenever_an_earlier_one_is_read(lived, times):
    rig = await lived(through_proxy=True)
    rig.ask("fails", model="m+sandbox-fail-2")
    backed_up(rig)
    path = f"/files/{(await rig.submitted())['input_file_id']}/content$"
    await rig.until_idle()
    assert (rig.ledger.creates, rig.ledger.executions["fails"]) == (3, 3)
    await restored(rig)
    left = [True] * (times or 1000)
    rig.proxy.rewrite("GET", path, lambda *reply: left.pop() and GONE["404"]() if left else reply)
    await made_do(rig)
    await rig.until_idle()
    assert rig.ledger.executions["fails"] == 3
    paid_once(rig)


async def test_a_file_that_is_missing_once_at_the_last_look_is_looked_for_again(lived):
    rig = await lived()
    rig.faults.add(f"replica-lag:route=create:seconds={APART_SECONDS * 2 - 5}")
    rig.ask_many(2)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    rig.faults.add("file-gone", times=1)
    await reclaimed(rig)
    await rig.until_idle()
    assert rig.ledger.creates == 1
    paid_once(rig)


async def test_batches_that_were_pruned_long_before_the_backup_are_let_be(lived, monkeypatch):
    monkeypatch.setattr(client, "PAGE_ITEMS", 2)
    monkeypatch.setattr(client, "LISTING_PAGES", 2)
    rig = await lived(retention={"finished_days": 1})
    for number in range(5):
        rig.ask(f"old-{number}")
        await rig.until_idle()
    rig.clock.advance(3 * 86_400)
    await rig.run(prune)
    assert not rig.batches()
    rig.ask("q")
    await rig.run(admit)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    contents = rig.ledger.requests["content"]
    await reclaimed(rig)
    assert rig.ledger.requests["content"] == contents + 1
    assert not rig.told("reclaim.stranger")
    await rig.until_idle()
    assert rig.ledger.executions["q"] == 1


async def test_a_listing_in_another_order_is_read_to_its_end(lived):
    rig = await lived(through_proxy=True, retention={"finished_days": 1})
    rig.ask("old")
    await rig.until_idle()
    rig.clock.advance(3 * 86_400)
    await rig.run(prune)
    rig.ask("q")
    await rig.run(admit)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)

    def oldest_first(status, headers, body):
        listed = json.loads(body)
        listed["data"].reverse()
        return status, {**headers, "Date": formatdate(rig.clock(), usegmt=True)}, json.dumps(listed).encode()

    rig.proxy.rewrite("GET", "/batches$", oldest_first)
    await reclaimed(rig)
    rig.proxy.rewrites.clear()
    await rig.until_idle()
    assert rig.ledger.executions["q"] == 1


@pytest.mark.parametrize(("since", "years"), [("restored", -3), ("restored", 3), ("always", 3)])
async def test_a_machine_with_a_wrong_clock_finds_what_was_sent(lived, since, years):
    rig = await lived()
    right = rig.clock
    wrong = replace(rig.context, clock=lambda: right() + years * 365 * 86_400)
    rig.ask("q")
    await rig.run(admit)
    rig.context = wrong if since == "always" else rig.context
    backed_up(rig)
    await rig.submitted()
    rig.clock.advance(3 * 86_400)
    await restored(rig)
    rig.context = wrong
    await reclaimed(rig)
    rig.context = replace(rig.context, clock=right)
    await rig.until_idle()
    assert rig.ledger.executions["q"] == 1


@pytest.mark.parametrize("fault", [(), ("bad-list",)])
async def test_batches_of_other_queues_are_left_alone(lived, fault):
    """Also where the listing shows all there are, whatever is searched for."""
    rig = await lived()
    for name in fault:
        rig.faults.add(name)
    rig.context = replace(rig.context, new_key=partial(new_key, key_prefix("another")))
    rig.ask("q")
    await rig.run(admit)
    backed_up(rig)
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    assert rig.statuses() == {"q": "queued"}
    assert not rig.told("reclaim.stranger")


async def test_a_listing_that_cannot_show_it_holds_the_queue_and_says_what_to_do(lived):
    rig = await lived(provider={"searchable_batches": False})
    rig.ask("q")
    await rig.submitted()
    backed_up(rig)
    await restored(rig)
    with pytest.raises(ProviderError, match=r"set queue_state\.backed_up_at_ms to NULL"):
        await reclaim(rig.context)


async def test_a_queue_that_is_no_backup_asks_nobody(lived):
    rig = await lived()
    rig.ask("q")
    await rig.submitted()
    calls = rig.ledger.requests
    assert await reclaim(rig.context) is not None
    assert rig.ledger.requests == calls


async def test_the_log_tells_how_it_went(lived):
    rig = await lived()
    rig.ask_many(2)
    backed_up(rig)
    rig.ask("late")
    await rig.submitted()
    await restored(rig)
    await reclaimed(rig)
    (begun,), (adopted,), (done,) = (rig.told(f"reclaim.{name}") for name in ("begun", "adopted", "done"))
    assert begun["log_level"] == "warning"
    assert (adopted["lines"], adopted["total"], done["unreadable"]) == (2, 3, 0)
