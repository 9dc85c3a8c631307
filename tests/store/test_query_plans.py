"""Whatever the daemon asks over and over walks an index of what is still to do, never the whole queue.

The statements are those that the functions send: each call is listened to, then explained.
"""

import contextlib
import inspect
import re
import sqlite3

import pytest
from sqlalchemy import event

from orchestrator.core.model import BatchStatus, Fault, PromptStatus
from orchestrator.core.outcomes import Outcome
from orchestrator.stages.collect import DUE as COLLECT_DUE
from orchestrator.stages.poll import DUE as POLL_DUE
from orchestrator.stages.settle import DUE as SETTLE_DUE
from orchestrator.stages.submit import DUE as SUBMIT_DUE
from orchestrator.store import queue, replies
from orchestrator.store.batches import (
    Claim,
    claim_batches,
    count_active,
    get_batch,
    next_dues_ms,
    release_all_leases,
    release_leases,
    renew_lease,
    statuses,
    update_batch,
)
from orchestrator.store.endings import BEFORE_ALL_ENDS, Earlier, list_earlier, list_ids, list_replied
from orchestrator.store.failures import list_failure_groups
from orchestrator.store.overview import count_by_tag, count_prompts
from orchestrator.store.queue import (
    Admitted,
    Line,
    admit_again,
    admit_prompts,
    cancel_lines,
    delete_batched_orphans,
    delete_orphans,
    delete_replies_of,
    list_batched_of_models,
    list_lines,
    list_next_lines,
    list_oversized,
    list_ready,
    list_ready_lanes,
    list_unadmitted,
    measure_batch,
    model_of,
    models_in,
    move_lines,
    next_wake_ms,
    read_batched,
    read_unadmitted,
    return_lines,
    take_into_batch,
    wake_due,
)
from orchestrator.store.recent import count_ended, count_faults, count_in_batches, group_faults
from orchestrator.store.replies import (
    Entry,
    Member,
    count_members,
    find_members,
    get_members,
    get_members_of,
    keep_unreadable,
    list_members,
    once_in_batch,
    record,
    refused_though_others_were_answered,
    with_members,
)
from orchestrator.store.reports import count_by_status, count_queued, is_idle, list_busy_providers, take_pulse
from orchestrator.store.retention import (
    list_expired,
    list_forgotten,
    named_by_open_batches,
    next_with_files,
    prune_batches,
    prune_lines,
    prune_prompts,
)

pytestmark = pytest.mark.sqlite

NOW_MS = 1_800_000_000_000
LARGE = ("prompts", "prompt_states", "replies", "batch_states")
STEP = re.compile(
    r"^(SCAN|SEARCH) (?:TABLE )?(\w+)(?: AS \w+)?(?: USING (?:COVERING )?(INDEX \w+|INTEGER PRIMARY KEY))?"
)
UNADMITTED, READY, WAITING, BATCHED, ACTIVE = (
    "INDEX prompt_states_unadmitted",
    "INDEX prompt_states_ready",
    "INDEX prompt_states_waiting",
    "INDEX prompt_states_batched",
    "INDEX batch_states_active",
)
ENDED, CLOSED, WITH_FILES, OF_BATCH, REPLIES = (
    "INDEX prompt_states_ended",
    "INDEX batch_states_closed",
    "INDEX batch_states_with_files",
    "INDEX replies_of_batch",
    "INDEX sqlite_autoindex_replies_1",
)
FAULTS = "INDEX replies_with_fault"
KEY = "INTEGER PRIMARY KEY"
MEMBER = Member(1, PromptStatus.BATCHED, 1, 0, 0, 0, 0)
ENTRY = Entry(MEMBER, Outcome(Fault.SERVER), 1, PromptStatus.QUEUED, 1, 0, NOW_MS)


def batch_of(connection):
    return get_batch(connection, 1)


async def renewed(connection):
    await renew_lease(connection, await batch_of(connection), NOW_MS)


async def released(connection):
    await release_leases(connection, [await batch_of(connection)])


async def updated(connection):
    await update_batch(connection, await batch_of(connection), tries=1)


def claimed(where):
    return lambda c: claim_batches(c, where, Claim("me", 2 * NOW_MS, 2 * NOW_MS))


def list_failures(connection):
    return list_failure_groups(connection, None)


def first_that_ended(connection):
    return list_earlier(connection, Earlier((NOW_MS, "done", 1 << 62), 1 << 62), BEFORE_ALL_ENDS, 1000)


async def refused_again(connection):
    earlier = Entry(MEMBER, Outcome(Fault.ACCOUNT), 1, PromptStatus.QUEUED, 0, 0)
    await record(connection, [earlier], NOW_MS)
    await refused_though_others_were_answered(connection, "p", [1, 2])


CALLS = {
    "list_ids": (lambda c: list_ids(c, 5, 9), {KEY}),
    "list_replied": (lambda c: list_replied(c, 5, 9), {KEY}),
    "list_earlier": (first_that_ended, {ENDED, REPLIES}),
    "next_wake_ms": (next_wake_ms, {WAITING}),
    "wake_due": (lambda c: wake_due(c, NOW_MS), {WAITING, KEY}),
    "list_unadmitted": (list_unadmitted, {UNADMITTED}),
    "read_unadmitted": (lambda c: read_unadmitted(c, [1, 2], 1000), {KEY}),
    "list_oversized": (lambda c: list_oversized(c, [1, 2], 1000), {KEY}),
    "delete_orphans": (lambda c: delete_orphans(c, [1, 2]), {KEY}),
    "delete_replies_of": (lambda c: delete_replies_of(c, [1, 2]), {REPLIES}),
    "admit_prompts": (lambda c: admit_prompts(c, [Admitted(1, 1, "m", 10, False)] * 2), {KEY}),
    "list_ready_lanes": (lambda c: list_ready_lanes(c, 50_000, NOW_MS), {READY}),
    "list_ready": (lambda c: list_ready(c, 1, 2000), {READY}),
    "take_into_batch": (lambda c: take_into_batch(c, 1, [Line(1, 10), Line(2, 10)]), {KEY}),
    "admit_again": (lambda c: admit_again(c, 1), {READY, KEY}),
    "list_lines": (lambda c: list_lines(c, 1), {BATCHED}),
    "list_next_lines": (lambda c: list_next_lines(c, 1, 0), {BATCHED}),
    "measure_batch": (lambda c: measure_batch(c, 1), {BATCHED}),
    "read_batched": (lambda c: read_batched(c, 1, 0, 999), {BATCHED, KEY}),
    "list_batched_of_models": (lambda c: list_batched_of_models(c, 1, ["m", "n"]), {BATCHED}),
    "models_in": (lambda c: models_in(c, 1), {BATCHED}),
    "model_of": (lambda c: model_of(c, 1), {KEY}),
    "move_lines": (lambda c: move_lines(c, 1, 1, 2), {BATCHED}),
    "return_lines": (lambda c: return_lines(c, 1), {BATCHED}),
    "cancel_lines": (lambda c: cancel_lines(c, 1, NOW_MS), {BATCHED}),
    "delete_batched_orphans": (lambda c: delete_batched_orphans(c, 1), {BATCHED, KEY}),
    "find_members": (lambda c: find_members(c, ["a", "b"]), {"INDEX sqlite_autoindex_prompts_1", KEY}),
    "get_members": (lambda c: get_members(c, [1, 2]), {KEY}),
    "get_members_of": (lambda c: get_members_of(c, 1, [1, 2]), {KEY}),
    "list_members": (lambda c: list_members(c, 1, 1000), {BATCHED}),
    "count_members": (lambda c: count_members(c, 1), {BATCHED}),
    "with_members": (lambda c: with_members(c, [1, 2]), {KEY, BATCHED}),
    "once_in_batch": (lambda c: once_in_batch(c, 1, [1, 2]), {REPLIES, KEY}),
    "record": (lambda c: record(c, [ENTRY], NOW_MS), {KEY}),
    "refused_though_others_were_answered": (refused_again, {KEY, REPLIES}),
    "keep_unreadable": (lambda c: keep_unreadable(c, 1, [Outcome(Fault.UNREADABLE, raw=b"x")], NOW_MS), set()),
    "claim_batches": (claimed(statuses(BatchStatus.PACKING)), {ACTIVE, KEY}),
    "claim of nothing": (claimed(statuses(BatchStatus.SEALED)), {ACTIVE}),
    "claim for submit": (claimed(SUBMIT_DUE), {ACTIVE}),
    "claim for poll": (claimed(POLL_DUE), {ACTIVE}),
    "claim for collect": (claimed(COLLECT_DUE), {ACTIVE}),
    "claim for settle": (claimed(SETTLE_DUE), {ACTIVE}),
    "next_dues_ms": (lambda c: next_dues_ms(c, [POLL_DUE]), {ACTIVE}),
    "renew_lease": (renewed, {KEY}),
    "release_leases": (released, {KEY}),
    "update_batch": (updated, {KEY}),
    "release_all_leases": (release_all_leases, {ACTIVE}),
    "count_active": (count_active, {ACTIVE}),
    "take_pulse": (lambda c: take_pulse(c, NOW_MS, NOW_MS), {UNADMITTED, READY, WAITING, BATCHED, ACTIVE, ENDED}),
    "count_queued": (count_queued, {UNADMITTED, READY, WAITING}),
    "count_in_batches": (count_in_batches, {BATCHED}),
    "count_ended": (lambda c: count_ended(c, PromptStatus.DONE, NOW_MS - 60_000, 1000, NOW_MS), {ENDED}),
    "count_faults": (lambda c: count_faults(c, NOW_MS - 1000), {FAULTS}),
    "group_faults": (lambda c: group_faults(c, NOW_MS - 1000, 10, with_content=False), {FAULTS, KEY}),
    "is_idle": (is_idle, {UNADMITTED, READY, WAITING, BATCHED, ACTIVE}),
    "list_busy_providers": (list_busy_providers, {ACTIVE}),
    "list_expired": (lambda c: list_expired(c, NOW_MS), {ENDED, REPLIES, KEY}),
    "prune_prompts": (lambda c: prune_prompts(c, [5, 6], 1 << 60), {REPLIES, KEY}),
    "list_forgotten": (lambda c: list_forgotten(c, NOW_MS, with_files=True), {CLOSED, OF_BATCH}),
    "prune_lines": (lambda c: prune_lines(c, [1, 2]), {OF_BATCH}),
    "prune_batches": (lambda c: prune_batches(c, [1, 2]), {KEY}),
    "next_with_files": (lambda c: next_with_files(c, ["p"], NOW_MS, NOW_MS), {WITH_FILES}),
    "named_by_open_batches": (lambda c: named_by_open_batches(c, ["f"]), {ACTIVE}),
}


@contextlib.contextmanager
def listening(database):
    """The statements sent meanwhile, each with the values of one execution."""
    heard = []

    def hear(_connection, _cursor, statement, parameters, _context, many):
        heard.append((statement, parameters[0] if many else parameters))

    engine = database._writer.sync_engine
    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(engine, "before_cursor_execute", hear)


def plan_of(path, statement, values):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def walked(path, statement, values):
    """How the large tables are walked: (table, index), the index None for a walk over everything."""
    steps = [STEP.match(line) for line in plan_of(path, statement, values)]
    return [(found[2], found[3]) for found in steps if found and found[2] in LARGE]


@pytest.fixture
async def filled(user, daemon):
    """One batch with two prompts in it, and something in every other state."""
    prompt_ids = user.insert_many(6)
    await daemon.admit(*prompt_ids[:4])
    await daemon.batch(*prompt_ids[:2])
    user.put(prompt_ids[5], "failed")
    return daemon


@pytest.mark.parametrize("name", CALLS)
async def test_each_statement_walks_its_index(filled, queue_file, name):
    call, indexes = CALLS[name]
    with listening(filled.database) as heard:
        await filled.write(call)
    statements = [(sql, values) for sql, values in heard if not sql.startswith("BEGIN")]
    assert statements
    steps = [step for sql, values in statements for step in walked(queue_file, sql, values)]
    assert {index for _table, index in steps} == indexes, steps


@pytest.mark.parametrize("call", [count_by_status, count_prompts, count_by_tag, list_failures, first_that_ended])
async def test_what_walks_the_whole_queue_sorts_no_more_than_a_window(filled, queue_file, call):
    """SQLite would sort all of it in memory: 50 MB for a million prompts."""
    with listening(filled.database) as heard:
        await filled.write(call)
    sorts = [sql for sql, values in heard if any("TEMP B-TREE" in line for line in plan_of(queue_file, sql, values))]
    assert all("LIMIT" in sql or "<=" in sql for sql in sorts)
    assert bool(sorts) == (call in (count_by_tag, list_failures))


@pytest.mark.parametrize("module", [queue, replies], ids=["queue", "replies"])
def test_every_statement_of_the_data_path_is_explained(module):
    asked = {name for name, found in vars(module).items() if inspect.iscoroutinefunction(found)}
    asked = {name for name in asked if getattr(module, name).__module__ == module.__name__}
    assert asked
    assert not asked - CALLS.keys()


def test_a_walk_over_everything_would_be_seen(queue_file):
    assert walked(queue_file, "SELECT * FROM prompts WHERE tag = ?", ("x",)) == [("prompts", None)]
    assert walked(queue_file, "SELECT * FROM prompt_states WHERE status = ?", ("queued",)) == [("prompt_states", None)]
