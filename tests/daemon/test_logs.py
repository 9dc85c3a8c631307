"""What a full run with faults writes: the documented vocabulary and nothing of a prompt, an answer or a key."""

import json
import re

import pytest
from daemon_process import KEY

from orchestrator.sandbox import Options, serve
from orchestrator.telemetry import EVENTS

SECRET = "xyzzy-{}-plugh"
FAULTS = (
    "create-lost-reply:times=1",
    "upload-lost-reply:times=1",
    "no-credit:times=1:after=2",
    "reject-line:line=4:times=1:after=1",
    "reset-mid-body:nbytes=500:times=2",
    "html-error:route=retrieve:times=2",
    "status-429:route=create:times=1:after=3:retry_after=none:body_retry_after=none",
    "file-not-found-on-create:times=1:after=4",
)
MARKERS = (
    "fail-once",
    "bad-request",
    "content-filter",
    "bad-json-once",
    "bad-utf8-once",
    "not-object-once",
    "missing-once",
    "duplicate",
    "no-credit-once",
    "nul",
    "u2028",
    "fail-always",
)
FACTS = {"event", "level", "timestamp", "todo"}


@pytest.fixture
async def faulted(make_daemon):
    """The daemon after a run in which nearly everything went wrong once."""
    async with serve(Options(validate_seconds=0.0, latency_seconds=0.2, faults=FAULTS)) as sandbox:
        daemon = make_daemon(sandbox.url, packing={"linger_seconds": 0, "max_lines": 12}, retry={"max_attempts": 3})
        for number, marker in enumerate(MARKERS):
            daemon.queue.ask(f"m-{number}", model=f"m+sandbox-{marker}", prompt=SECRET.format(marker))
        for number in range(20):
            daemon.queue.ask(f"q-{number}", prompt=SECRET.format(number), system=SECRET.format("system"))
        daemon.queue.ask("bad-1", body=json.dumps({"messages": SECRET.format("body")})[:-1], prompt=None)
        daemon.queue.ask("bad-2", body=json.dumps([SECRET.format("list")]), prompt=None)
        daemon.queue.ask("bad-3", body=json.dumps({"messages": SECRET.format("both")}))
        daemon.queue.ask("bad-4", provider="nobody", prompt=SECRET.format("provider"))
        assert await daemon.run_until_idle() == 3
        yield daemon


async def test_a_faulted_run_writes_documented_events_only_and_no_text_of_a_prompt_or_an_answer_and_no_key(faulted):
    text = faulted.text()
    for line in text.splitlines():
        event = json.loads(line)
        known = EVENTS[event["event"]]
        assert event["level"] == known.level
        assert event.get("todo", "") == known.todo
        fields = {name.strip() for name in known.fields.split(",")}
        assert event.keys() - FACTS <= fields, event
    assert "xyzzy" not in text
    assert "plugh" not in text
    assert "You asked" not in text
    assert KEY not in text
    written = {json.loads(line)["event"] for line in text.splitlines()}
    assert {
        "submit.adopted",
        "submit.lines_refused",
        "provider.paused",
        "provider.resumed",
        "collect.failed",
        "collect.unreadable",
        "poll.failed",
        "settle.rereading",
        "admit.rejected",
    } <= written
    assert "loop.crashed" not in written


def test_every_warning_says_what_to_do():
    assert [name for name, event in EVENTS.items() if event.level != "info" and not event.todo] == []


def test_a_pause_does_not_promise_that_a_variable_set_later_is_seen():
    assert "set it and start the daemon again" in EVENTS["provider.paused"].todo


async def test_each_batchs_life_can_be_followed_by_its_id_alone(faulted):
    for batch in faulted.queue.sql("SELECT * FROM batches WHERE status = 'settled'"):
        life = [event["event"] for event in faulted.events(batch=batch["id"])]
        steps = [re.sub(r".*\.", "", name) for name in life]
        assert life[0] in ("pack.sealed", "submit.split")
        assert {"submitted", "adopted"} & set(steps)
        assert life[-1] == "settle.settled"
        assert {event["key"] for event in faulted.events(batch=batch["id"], event="settle.settled")} <= {batch["key"]}


async def test_a_healthy_run_writes_no_warning_and_an_idle_daemon_no_line_per_poll(make_daemon):
    async with serve(Options(validate_seconds=0.0, latency_seconds=2.0)) as sandbox:
        daemon = make_daemon(sandbox.url, log={"level": "info", "format": "json"})
        daemon.queue.ask_many(2)
        assert await daemon.run_until_idle() == 0
        assert {event["level"] for event in daemon.events()} == {"info"}
        polls = sandbox.ledger.requests["retrieve"]
        told = [event for event in daemon.events() if event["event"].startswith("poll.")]
        assert len(told) <= 4
        assert polls >= 1
