"""/metrics: every figure is documented and there, agrees with the database, and has few labels."""

import asyncio
import re
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig import FLOW

from orchestrator import measures
from orchestrator.errors import StoreUnavailable
from orchestrator.measures import listening, measure, measure_once_committed
from orchestrator.store.levels import Underway, read_levels
from orchestrator.telemetry import EVENTS
from orchestrator.web.catalogue import BUCKETS, METRICS
from orchestrator.web.counters import Counters
from orchestrator.web.metrics import age_seconds, is_past_window

WEB = {"listen": "127.0.0.1:0"}
OF_THE_PROCESS = re.compile(r"process_[a-z_]+")


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr("orchestrator.web.metrics.REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.remembered.SHARE", 0.0)


class Scrape:
    def __init__(self, text):
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name, **labels):
        """The value of one sample, None when it is not there."""
        found = [sample.value for sample in self.samples if sample.name == name and sample.labels == labels]
        assert len(found) < 2
        return found[0] if found else None

    def names(self):
        """As they are written in the catalogue."""
        return {f"{name}_total" if family.type == "counter" else name for name, family in self.families.items()}


async def scrape(page):
    status, headers, body = await page.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    return Scrape(body)


@pytest.fixture
async def worked(start, serving):
    """A page, and a queue on which everything happened: answers, resends, failures, a pause, a broken download."""
    rig = await start(web=WEB, retry={"base_seconds": 1, "max_attempts": 2})
    page = await serving(rig)
    rig.ask_many(3)
    rig.ask("once", model="sandbox-fail-once")
    rig.ask("always", model="sandbox-fail-always")
    rig.ask("wrong", model=None)
    rig.ask("later", not_before="2999-01-01 00:00:00")
    for _ in range(40):
        await rig.turn()
        rig.clock.advance(30)
    return page


async def test_every_metric_is_documented_and_every_documented_one_is_served(worked):
    await worked.vitals.watched("pack", partial(FLOW[1], worked.rig.context), 0)()  # the rig has no loops
    names = {name for name in (await scrape(worked)).names() if not OF_THE_PROCESS.fullmatch(name)}
    assert names == set(METRICS)


async def test_levels_agree_with_the_database(worked):
    rig, told = worked.rig, await scrape(worked)
    counts = rig.count()
    assert told("orchestrator_prompts", status="queued") == counts["queued"] == 1
    assert told("orchestrator_prompts", status="batched") == counts["batched"]
    ended = counts["done"] + counts["failed"] + counts["cancelled"]
    assert told("orchestrator_prompts", status="ended") == ended == 6
    assert told("orchestrator_prompts_waiting") == 1
    assert told("orchestrator_queue_age_seconds") == 0
    assert told("orchestrator_database_up") == 1
    assert told("orchestrator_database_file_bytes", file="main") == rig.path.stat().st_size


async def test_outcomes_faults_attempts_and_tokens_agree_with_the_replies(worked):
    rig, told = worked.rig, await scrape(worked)
    for status in ("done", "failed"):
        assert told("orchestrator_outcomes_total", status=status) == rig.count()[status] > 0
    resent = rig.value("SELECT count(*) FROM replies") - rig.count()["done"] - rig.count()["failed"]
    assert told("orchestrator_outcomes_total", status="queued") == resent > 0
    assert told("orchestrator_outcomes_total", status="cancelled") == 0
    for fault in ("invalid", "server", "throttled"):
        found = rig.value("SELECT count(*) FROM replies WHERE fault = ?", fault)
        assert told("orchestrator_faults_total", fault=fault) == found
    assert told("orchestrator_faults_total", fault="invalid") == 1
    assert told("orchestrator_attempts_total") == rig.value("SELECT sum(attempts) FROM prompt_states")
    for kind in ("prompt", "completion"):
        assert told("orchestrator_tokens_total", kind=kind) == rig.value(f"SELECT sum({kind}_tokens) FROM replies") > 0


async def test_lines_and_bytes_agree_with_the_batches(worked):
    rig, told = worked.rig, await scrape(worked)
    lines, nbytes = rig.sql("SELECT sum(lines), sum(nbytes) FROM batch_states")[0]
    assert told("orchestrator_sealed_lines_total") == lines
    assert told("orchestrator_sealed_bytes_total") == nbytes
    assert told("orchestrator_uploaded_bytes_total") == nbytes
    assert told("orchestrator_downloaded_bytes_total") > 0
    assert told("orchestrator_events_total", event="settle.settled", level="info") == len(rig.batches())


async def test_calls_are_counted_by_route_never_by_id(worked):
    told = await scrape(worked)
    calls = [sample for sample in told.samples if sample.name == "orchestrator_provider_calls_total"]
    assert {sample.labels["route"] for sample in calls} == {
        "POST /files",
        "POST /batches",
        "GET /batches/{id}",
        "GET /files/{id}/content",
    }
    created = told("orchestrator_provider_calls_total", provider="doubleword", route="POST /batches", status="201")
    ok = told("orchestrator_provider_calls_total", provider="doubleword", route="POST /batches", status="200")
    assert (created or 0) + (ok or 0) == len(worked.rig.batches())
    timed = told("orchestrator_provider_call_duration_seconds_count", provider="doubleword", route="POST /batches")
    assert timed == len(worked.rig.batches())


async def test_no_label_holds_what_users_or_providers_write(worked):
    _, _, body = await worked.get("/metrics")
    rig = worked.rig
    ids = ("key", "remote_batch_id", "input_file_id", "output_file_id")
    written = ["q-1", "sandbox-fail", "always", *(batch[name] for batch in rig.batches() for name in ids)]
    assert [text for text in written if text and text in body] == []


async def test_the_number_of_series_does_not_grow_with_work(start, serving):
    rig = await start(web=WEB)
    page = await serving(rig)

    async def series_after(prompts):
        for number in range(prompts):
            rig.ask(f"{prompts}-{number}", model=f"m-{prompts}-{number}", tag=f"t-{number}")
        for _ in range(10):
            await rig.turn()
            rig.clock.advance(30)
        return len((await scrape(page)).samples)

    await series_after(1)
    assert await series_after(2) == await series_after(20)


# ---------------------------------------------------------------- gauges of batches


async def test_a_batch_under_way_shows_its_state_lines_and_ages(start, serving):
    rig = await start(web=WEB, sandbox={"latency_seconds": 1e6})
    page = await serving(rig)
    rig.ask_many(3)
    await rig.submitted()
    rig.clock.advance(120)
    await rig.run(*FLOW)
    rig.clock.advance(7)
    told = await scrape(page)
    assert told("orchestrator_batches", provider="doubleword", status="submitted") == 1
    assert told("orchestrator_batches", provider="openai", status="submitted") is None
    assert told("orchestrator_batches", provider="doubleword", status="sealed") == 0
    assert told("orchestrator_batch_lines", state="in_batch") == 3
    assert told("orchestrator_batch_lines", state="received") == 0
    assert told("orchestrator_batch_bytes") == rig.batch()["nbytes"]
    assert told("orchestrator_oldest_batch_age_seconds", status="submitted") == pytest.approx(127, abs=1)
    assert told("orchestrator_oldest_poll_age_seconds") == pytest.approx(7, abs=1)
    assert told("orchestrator_batches_past_window", provider="doubleword") == 0
    rig.clock.advance(24 * 3600)
    assert (await scrape(page))("orchestrator_batches_past_window", provider="doubleword") == 1


async def test_a_queue_that_nobody_works_on_grows_old(start, serving):
    rig = await start(web=WEB)
    page = await serving(rig)
    assert (await scrape(page))("orchestrator_queue_age_seconds") == 0
    rig.ask("early")
    rig.clock.advance(1000)
    rig.ask("late")
    aged = (await scrape(page))("orchestrator_queue_age_seconds")
    assert aged == pytest.approx(rig.clock() - rig.value("SELECT min(due_at_ms) FROM prompt_states") / 1000, abs=1)
    assert aged > 1000


async def test_a_paused_provider_is_a_gauge_and_its_pauses_are_counted(start, serving):
    rig = await start(web=WEB, through_proxy=True)
    page = await serving(rig)
    assert (await scrape(page))("orchestrator_provider_pauses_total", provider="doubleword") == 0
    rig.sql("INSERT INTO provider_states (name, pauses) VALUES ('doubleword', 1), ('of-last-year', 1)")
    measure("provider.paused", provider="doubleword")
    told = await scrape(page)
    assert told("orchestrator_provider_paused", provider="doubleword") == 1
    assert told("orchestrator_provider_paused", provider="of-last-year") is None
    assert told("orchestrator_provider_pauses_total", provider="doubleword") == 1


async def test_a_database_that_does_not_answer_leaves_out_the_levels_only(worked, monkeypatch):
    async def busy(_connection):
        raise StoreUnavailable("busy")

    monkeypatch.setattr("orchestrator.web.metrics.read_levels", busy)
    told = await scrape(worked)
    assert told("orchestrator_database_up") == 0
    assert told("orchestrator_prompts", status="queued") is None
    assert told("orchestrator_outcomes_total", status="done") > 0


async def test_a_reader_of_openmetrics_is_given_that(page):
    _, headers, body = await page.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


async def test_metrics_need_the_token(start, serving):
    page = await serving(await start(web=WEB), "a-token-of-this-test")
    assert (await page.get("/metrics"))[0] == 401


async def test_loops_are_timed_and_their_failures_counted(page):
    async def fails():
        raise ValueError("a bug")

    tick = page.vitals.watched("pack", fails, 0)
    with pytest.raises(ValueError, match="a bug"):
        await tick()
    told = await scrape(page)
    assert told("orchestrator_stage_failures_total", stage="pack") == 1
    assert told("orchestrator_stage_duration_seconds_count", stage="pack") == 1


async def test_a_loop_that_is_held_up_shows_as_lag(page):
    def lagged(told):
        return told("orchestrator_loop_lag_seconds_count") - told("orchestrator_loop_lag_seconds_bucket", le="0.05")

    async with asyncio.timeout(30):
        while not lagged(await scrape(page)):
            await asyncio.sleep(0.05)
            hold_up(0.2)


def hold_up(seconds):
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        pass


# ---------------------------------------------------------------- what is counted, and when


@pytest.mark.parametrize("event", EVENTS)
def test_any_event_can_be_heard(event):
    fields = {field.strip(): 1 for field in EVENTS[event].fields.split(",")}
    heard = Counters(["doubleword"])
    heard.hear(event, {**fields, "provider": "doubleword"})
    labels = {"event": event, "level": EVENTS[event].level}
    assert heard.registry.get_sample_value("orchestrator_events_total", labels) == 1


def test_what_is_no_event_and_no_figure_is_passed_over():
    Counters(["doubleword"]).hear("somebody.elses", {})


async def test_what_a_transaction_wrote_is_counted_once_it_is_committed_and_never_when_rolled_back(rig):
    heard = []

    async def writes(_connection):
        measure_once_committed("store.recorded", n=1)
        assert heard == []

    async def fails(_connection):
        measure_once_committed("store.recorded", n=2)
        raise ValueError("a bug")

    with listening(lambda what, facts: heard.append((what, facts.get("n"))) if what == "store.recorded" else None):
        await rig.context.database.write(writes)
        with pytest.raises(ValueError, match="a bug"):
            await rig.context.database.write(fails)
    assert heard == [("store.recorded", 1)]


def test_nobody_is_told_after_he_stopped_listening():
    heard = []
    with listening(lambda what, _facts: heard.append(what)):
        measure("a")
        assert measures.is_listened()
    measure("b")
    measure_once_committed("c")
    assert (heard, measures.is_listened()) == (["a"], False)


# ---------------------------------------------------------------- pure parts


def underway(**changes):
    values = {
        "provider": "p", "completion_window": "24h", "status": "submitted", "lines": 1, "nbytes": 1,
        "lines_received": 0, "created_at_ms": 0, "submitted_at_ms": 0, "polled_at_ms": None,
    }  # fmt: skip
    return Underway(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "now_s", "past"),
    [
        ({}, 24 * 3600, False),
        ({}, 24 * 3600 + 1, True),
        ({"completion_window": "1h"}, 3601, True),
        ({"completion_window": "30m"}, 1801, True),
        ({"completion_window": "7d"}, 7 * 86400, False),
        ({"completion_window": "soon"}, 1e9, False),
        ({"submitted_at_ms": None}, 1e9, False),
        ({"status": "ended"}, 1e9, False),
    ],
)
def test_a_batch_is_past_its_window_when_it_still_runs_after_it(changes, now_s, past):
    assert is_past_window(underway(**changes), int(now_s * 1000)) is past


def test_an_age_is_that_of_the_oldest_and_never_below_zero():
    assert age_seconds([None, 9000, 4000], 10_000) == 6
    assert age_seconds([], 10_000) == 0
    assert age_seconds([None], 10_000) == 0
    assert age_seconds([11_000], 10_000) == 0


def test_names_follow_the_conventions():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"orchestrator_[a-z_]+", name)
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_created")), name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent|counter|gauge)(_|$)", name), name
        assert metric.help.endswith("."), name
    assert {name for name, metric in METRICS.items() if metric.kind == "histogram"} == set(BUCKETS)
    assert all(name.endswith("_seconds") for name in BUCKETS)


async def test_levels_cost_no_walk_over_what_has_ended(rig):
    """Every statement of the levels goes by an index of what is open, or needs the number of rows only."""
    plans = []
    database = rig.context.database

    async def explained(connection):
        class Explaining:
            async def execute(self, statement):
                words = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
                plan = (await connection.exec_driver_sql("EXPLAIN QUERY PLAN " + words)).all()
                plans.append((words, " ".join(row[3] for row in plan)))
                return await connection.execute(statement)

        return await read_levels(Explaining())

    await database.read(explained)
    walks = [words for words, plan in plans if re.search(r"SCAN prompt_states(?! USING)", plan)]
    assert len(walks) <= 1
    assert all("WHERE" not in words for words in walks)
    assert len(plans) == 7


def test_every_metric_of_the_process_is_named_in_the_documents():
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    served = {family.name for family in Counters([]).registry.collect() if family.name.startswith("process_")}
    served = {f"{name}_total" if name == "process_cpu_seconds" else name for name in served}
    assert set(re.findall(r"`(process_[a-z_]+)`", page)) == served
