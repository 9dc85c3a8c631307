"""What `status --json` says beyond the counts: the flow, what ended of late, faults by reason, what needs somebody."""

import time

import msgspec
import pytest

from orchestrator.config.profiles import BUILT_IN
from orchestrator.errors import ConfigError

pytestmark = pytest.mark.usefixtures("daemon")

MINUTE_MS, HOUR_MS = 60_000, 3_600_000


@pytest.fixture
def now_ms():
    return int(time.time() * 1000)


@pytest.fixture
def told(command):
    return lambda: command("status", "--json").json


@pytest.fixture
def batch(queue, now_ms):
    """Adds a batch with so many prompts in it, of a lane of its own."""

    def batch(name, status="submitted", prompts=2, hours_ago=1.0, window="24h", provider="doubleword", **columns):
        queue.sql(
            "INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES (?, '/v1/x', ?, ?)",
            provider, window, name,
        )  # fmt: skip
        row = {
            "key": name, "lane_id": queue.sql("SELECT max(id) AS id FROM lanes")[0]["id"], "status": status,
            "lines": prompts, "created_at_ms": int(now_ms - hours_ago * HOUR_MS), **columns,
        }  # fmt: skip
        if status not in ("sealed", "creating", "discarded"):
            row |= {"remote_batch_id": name, "submitted_at_ms": row["created_at_ms"]}
        queue.sql(f"INSERT INTO batch_states ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())
        (made,) = queue.sql("SELECT max(id) AS id FROM batch_states")
        for number in range(prompts):
            queue.add(f"{name}-{number}")
            queue.sql(
                "UPDATE prompt_states SET status = 'batched', batch_id = ?"
                " WHERE prompt_id = (SELECT max(id) FROM prompts)", made["id"],
            )  # fmt: skip
        return made["id"]

    return batch


def test_the_flow_tells_where_every_prompt_is(queue, batch, told, now_ms):
    for number in range(6):
        queue.add(f"q-{number}")
    batch("sent", prompts=3)
    batch("ended", "ended", prompts=1)
    batch("unsent", "creating", prompts=2)
    queue.sql("UPDATE prompt_states SET lane_id = 1 WHERE prompt_id IN (2, 3)")
    queue.sql("UPDATE prompt_states SET lane_id = 1, waiting = 1 WHERE prompt_id = 3")
    queue.end("q-3")
    queue.end("q-4", "failed")
    queue.sql("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = 6")
    flow = told()["flow"]
    del flow["last_hour"]
    assert flow == {
        "new": 1, "ready": 1, "waiting": 1, "packed": 2, "running": 4, "done": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    assert sum(flow.values()) == sum(told()["prompts"].values())


def test_the_flow_tells_what_went_along_each_arrow_in_the_last_hour(queue, batch, told, now_ms):
    batch("old", hours_ago=1.1, prompts=4)
    batch("new", hours_ago=0.9, prompts=3)
    batch("unsent", "sealed", hours_ago=0.1, prompts=2)
    batch("dissolved", "discarded", hours_ago=0.1, prompts=0, lines=9)
    for custom_id, status, minutes in (("old-0", "done", 5), ("old-1", "done", 70), ("old-2", "failed", 50)):
        row = "prompt_id = (SELECT id FROM prompts WHERE custom_id = ?)"
        queue.sql(f"UPDATE prompt_states SET status = ?, batch_id = NULL WHERE {row}", status, custom_id)
        queue.sql(f"UPDATE prompt_states SET finished_at_ms = ? WHERE {row}", now_ms - minutes * MINUTE_MS, custom_id)
    queue.sql(
        "INSERT INTO replies (prompt_id, seq, fault, received_at_ms) VALUES (3, 1, 'server', ?)",
        now_ms - 50 * MINUTE_MS,
    )
    for minutes in (1, 59, 61):
        queue.sql(
            "INSERT INTO replies (prompt_id, seq, fault, received_at_ms) VALUES (4, ?, 'throttled', ?)",
            minutes, now_ms - minutes * MINUTE_MS,
        )  # fmt: skip
    assert told()["flow"]["last_hour"] == {"packed": 5, "submitted": 3, "done": 1, "failed": 1, "resent": 2}


def test_throughput_counts_what_ended_in_each_step_of_the_last_hours(queue, told, now_ms):
    ends = [("done", 1), ("done", 9), ("failed", 9), ("done", 11), ("done", 12 * 60 - 1), ("done", 12 * 60 + 1)]
    for number, (status, minutes) in enumerate(ends):
        queue.add(f"q-{number}")
        queue.end(f"q-{number}", status)
        queue.sql(
            "UPDATE prompt_states SET finished_at_ms = ? WHERE prompt_id = ?", now_ms - minutes * MINUTE_MS, number + 1
        )
    throughput = told()["throughput"]
    assert throughput["step_seconds"] == 600
    assert len(throughput["done"]) == len(throughput["failed"]) == 72
    assert (throughput["done"][-2:], throughput["failed"][-2:]) == ([1, 2], [0, 1])
    assert throughput["done"][0] == 1
    assert sum(throughput["done"]) == 4


def test_faults_are_grouped_by_reason_with_the_newest_as_example(queue, told, now_ms):
    reasons = [
        ("server", 503, "overloaded"),
        ("server", 500, None),
        ("server", 503, "overloaded"),
        ("throttled", 429, "x"),
    ]
    for number, (fault, code, name) in enumerate(reasons):
        queue.add(f"q-{number}")
        queue.end(
            f"q-{number}", "failed", fault=fault, status_code=code, error_code=name, error_message=f"busy {number}",
            received_at_ms=now_ms - 1000 + number,
        )  # fmt: skip
    queue.add("old")
    queue.end("old", "failed", fault="server", received_at_ms=now_ms - 25 * HOUR_MS)
    faults = told()["faults"]
    assert [(each["attempts"], each["fault"], each["status_code"], each["error_code"]) for each in faults] == [
        (2, "server", 503, "overloaded"),
        (1, "throttled", 429, "x"),
        (1, "server", 500, None),
    ]
    assert (faults[0]["custom_id"], faults[0]["message"], faults[0]["content"]) == ("q-2", "busy 2", None)


def test_of_very_many_faults_the_newest_are_counted_and_it_says_since_when(queue, told, now_ms):
    queue.add("q-1")
    queue.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10500)"
        " INSERT INTO replies (prompt_id, seq, fault, received_at_ms) SELECT 1, i, 'server', ? - i * 1000 FROM n",
        now_ms,
    )
    status = told()
    assert status["faults"][0]["attempts"] == 10_000
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((now_ms - 10_000 * 1000) // 1000))
    assert status["faults_since"] == since


def test_no_text_of_a_prompt_is_told_unless_it_is_asked_for(queue, command, told, now_ms, monkeypatch):
    queue.add("q-1", prompt="a secret " * 100)
    queue.end("q-1", "failed", fault="server", received_at_ms=now_ms)
    queue.sql("INSERT INTO prompts (custom_id, body) VALUES ('q-2', CAST(x'7bff' AS TEXT))")
    queue.end("q-2", "failed", fault="invalid", received_at_ms=now_ms)
    assert "secret" not in command("status", "--json").out
    monkeypatch.setenv("ORCHESTRATOR_WEB__SHOW_CONTENT", "true")
    contents = {each["custom_id"]: each["content"] for each in told()["faults"]}
    assert contents == {"q-1": ("a secret " * 100)[:200], "q-2": "{\ufffd"}


def test_the_last_steps_of_batches_are_told_newest_first(batch, told, now_ms):
    batch("first", "settled", hours_ago=3, prompts=0, lines=5, lines_done=4, lines_failed=1, settled_at_ms=now_ms)
    batch("second", "creating", hours_ago=2, prompts=0, lines=7)
    batch("third", "discarded", hours_ago=1, prompts=0)
    assert [(each["batch_id"], each["event"], each["text"]) for each in told()["events"]] == [
        (1, "settled", "4 done, 1 failed, 0 sent again"),
        (2, "packed", "7 prompts for doubleword"),
        (1, "submitted", "5 prompts, accepted by doubleword"),
        (1, "packed", "5 prompts for doubleword"),
    ]


def test_a_batch_tells_its_window_in_seconds_and_when_it_ends(batch, told, now_ms):
    batch("by the clock", window="1h", hours_ago=0.5)
    batch("by the provider", remote_expires_at_ms=1_900_000_000_000)
    batch("of a word", window="fast")
    batch("unsent", "creating")
    told_of = {each["key"]: (each["window_seconds"], each["expires_at"]) for each in told()["batches"]}
    by_clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((now_ms + HOUR_MS // 2) // 1000))
    assert told_of == {
        "by the clock": (3600, by_clock),
        "by the provider": (86_400, "2030-03-17T17:46:40Z"),
        "of a word": (None, None),
        "unsent": (86_400, None),
    }


def test_nothing_needs_anybody_while_all_is_well(batch, told):
    batch("running", hours_ago=3)
    assert told()["attention"] == []


def test_what_needs_somebody_is_told_with_what_to_do_the_worst_first(queue, batch, told, now_ms):
    batch("late", hours_ago=26)
    batch("unlucky", "creating", prompts=1, tries=3, last_error="no reply")
    batch("lucky", "creating", prompts=1, tries=2, last_error="no reply")
    batch("abandoned", provider="gone", prompts=1)
    queue.add("q-1")
    queue.end("q-1", "failed")
    queue.sql("UPDATE prompt_states SET finished_at_ms = ? WHERE status = 'failed'", now_ms - HOUR_MS)
    queue.sql(
        "INSERT INTO provider_states (name, pauses, pause_reason, paused_by) VALUES ('openai', 1, '401: no', 'call')"
    )
    needs = told()["attention"]
    assert [(each["level"], each["what"]) for each in needs] == [
        ("error", "openai is paused, nothing is sent there: 401: no"),
        ("error", "batches wait for provider gone, which left the settings"),
        ("warning", "batch 1 at doubleword is past its window by 2h 0m"),
        ("warning", "batch 2 at doubleword: 3 tries in a row failed, the last with no reply"),
        ("warning", "1 prompts failed in the last 12 hours"),
    ]
    assert all(each["todo"] for each in needs)


OUTAGE = "GET /batches/{0}: 503 no reply for {0} (503)"


@pytest.fixture
def outage(batch):
    """A hundred batches that fail in the same way, each with its own name in the error; two whose window is over."""
    for number in range(100):
        name, more = f"b-{number}", {"hours_ago": 25 + number} if number < 2 else {}
        batch(name, prompts=0, tries=6, last_error=OUTAGE.format(name), **more)
    return batch


def test_of_an_outage_one_thing_is_told_however_many_batches_it_meets(outage, told, command):
    assert [each["what"] for each in told()["attention"]] == [
        "2 batches at doubleword are past their windows, the longest by 2h 0m",
        "100 batches at doubleword: 6 tries in a row failed, the last with GET /batches/…: 503 no reply for … (503)",
    ]
    assert len(command("status").out.splitlines()) < 50


def test_what_fails_elsewhere_or_otherwise_is_told_apart_the_most_first(batch, told):
    batch("a", prompts=0, tries=3, last_error="GET /files/f-1/content: 500 oh", output_file_id="f-1")
    batch("b", prompts=0, tries=9, last_error="POST /batches: 503 b-1 for orc-2", key="orc-2")
    batch("c", "ended", prompts=0, tries=4, last_error="GET /files/f-2/content: 500 oh", output_file_id="f-2")
    batch("d", prompts=0, tries=3, last_error="GET /files/f-3/content: 500 oh", provider="openai", output_file_id="f-3")
    assert [each["what"] for each in told()["attention"]] == [
        "2 batches at doubleword: up to 4 tries in a row failed, the last with GET /files/…/content: 500 oh",
        "batch 2 at doubleword: 9 tries in a row failed, the last with POST /batches: 503 b-1 for …",
        "batch 4 at openai: 3 tries in a row failed, the last with GET /files/…/content: 500 oh",
    ]


NETWORK = "if it lasts, check the network and the provider's status page"
ACCOUNT = (
    "check the API key and the account at the provider; it goes on by itself, but a new key in a variable needs the "
    "daemon to be started again"
)
OTHERS = "it may be another key's or account's, or was deleted: see docs/operations.md"
BASE_URL = "the provider's base_url may be wrong: compare it with its documentation"
REMEDIES = {
    "GET /batches/{}: 503 busy": NETWORK,
    "GET /batches/{}: cannot reach http://x/v1: refused": NETWORK,
    "GET /files/{}/content: 404 no such file": NETWORK,
    "POST /batches: 404 Cannot find file {}": NETWORK,
    "GET /batches/{}: 404, and yet it is listed": NETWORK,
    "GET /batches/{}: 404 no such batch": OTHERS,
    "POST /batches/{}/cancel: 404": OTHERS,
    "POST /files: 404 Not Found": BASE_URL,
    "POST /files: 405 Method Not Allowed": BASE_URL,
    "GET /batches/{}: 307 redirects to http://elsewhere/: correct base_url": BASE_URL,
    "GET /batches/{}: 401 Unauthorized": ACCOUNT,
    "POST /files: 403 Forbidden": ACCOUNT,
}


@pytest.mark.parametrize(("error", "todo"), REMEDIES.items())
def test_what_to_do_about_a_batch_depends_on_how_its_calls_fail(batch, told, error, todo):
    batch("b", prompts=0, tries=3, last_error=error.format("b"))
    assert [each["todo"] for each in told()["attention"]] == [todo]


FROM_FILE = "it goes on by itself once the key is in the file"
KEYS = {
    None: "set it and start the daemon again: one that runs does not see it",
    "no-such-file": FROM_FILE,
    "empty": FROM_FILE,
    "torn": FROM_FILE,
}


@pytest.mark.parametrize(("path", "todo"), KEYS.items())
def test_what_to_do_about_a_key_that_is_missing_depends_on_where_it_is_looked_for(
    queue, batch, told, write, path, todo
):
    write("empty", "\n")
    write("torn", "a\nb")
    provider = msgspec.structs.replace(BUILT_IN["openai"], api_key_file=path)
    with pytest.raises(ConfigError) as missing:
        provider.api_key({})
    batch("b", prompts=0, tries=3, last_error=str(missing.value))
    queue.sql(
        "INSERT INTO provider_states (name, pauses, pause_reason, paused_by) VALUES ('openai', 1, ?, 'call')",
        str(missing.value),
    )
    status = told()
    assert [each["todo"] for each in status["attention"]] == [todo, todo]
    assert status["pauses"][0]["remedy"] == todo


def test_an_account_that_is_refused_for_any_reason_is_what_to_see_to(queue, told):
    queue.sql("INSERT INTO provider_states (name, pauses, pause_reason) VALUES ('openai', 1, 'POST /files: 429 quota')")
    assert told()["attention"][0]["todo"] == ACCOUNT


def test_a_restored_queue_tells_that_it_looks_for_what_was_sent_since_its_backup(queue, command, told):
    assert told()["restored"] is None
    queue.sql("UPDATE queue_state SET backed_up_at_ms = 1700000000000, looks = 4, look_at_ms = 1700000060000")
    status = told()
    assert status["restored"] == {
        "backed_up_at": "2023-11-14T22:13:20Z",
        "looks": 4,
        "looks_needed": 12,
        "next_look_at": "2023-11-14T22:14:20Z",
    }
    (need,) = status["attention"]
    assert need["what"].startswith("restored from the backup of 2023-11-14T22:13:20Z: nothing is sent until")
    assert "4 of 12 looks" in need["what"]
    assert "restored from the backup of 2023-11-14T22:13:20Z" in command("status").out
    queue.sql("UPDATE queue_state SET looks = 0, look_at_ms = 0")
    assert told()["restored"]["next_look_at"] is None
