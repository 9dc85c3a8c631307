"""What daemons ask PostgreSQL over and over reads as little of a long queue as of a short one, whichever plan is taken.

The statements are those that the functions send, explained where they ran: at two sizes, with the planner's statistics.
"""

import json
import re

import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql
from store.test_query_plans import CALLS, ENTRY, LARGE, listening
from users import NOW_MS

from orchestrator.lease import _reachable
from orchestrator.stages.collect import DUE as COLLECT_DUE
from orchestrator.stages.poll import DUE as POLL_DUE
from orchestrator.stages.settle import DUE as SETTLE_DUE
from orchestrator.stages.submit import DUE as SUBMIT_DUE
from orchestrator.store.batches import ACTIVE_ROWS, Claim, claim_batches, next_dues_ms
from orchestrator.store.database import Database
from orchestrator.store.queue import (
    Admitted,
    Line,
    admit_prompts,
    delete_orphans,
    list_ready,
    list_ready_lanes,
    read_batched,
    read_unadmitted,
    take_into_batch,
)
from orchestrator.store.replies import find_members, get_members, list_members, record

pytestmark = [pytest.mark.postgresql, pytest.mark.timeout(300)]

SHORT, LONG = 32_000, 128_000
AMONG = {"providers": ["p"], "others": [7]}
DUE = {"submit": SUBMIT_DUE, "poll": POLL_DUE, "collect": COLLECT_DUE, "settle": SETTLE_DUE}


def claimed(where):
    return lambda c, _first: claim_batches(c, _reachable(where), Claim("me", NOW_MS, NOW_MS + 1), **AMONG)


def looked_for(where):
    return lambda c, _first: next_dues_ms(c, [_reachable(where)], now_ms=NOW_MS, **AMONG)


def same(call):
    return lambda c, _first: call(c)


SAME = ("next_wake_ms", "wake_due", "list_unadmitted", "list_lines", "count_members", "with_members", "renew_lease",
        "release_leases", "update_batch", "count_active", "is_idle", "list_expired")  # fmt: skip
HOT = {
    **{name: same(CALLS[name][0]) for name in SAME},
    **{f"claim for {stage}": claimed(where) for stage, where in DUE.items()},
    **{f"next due of {stage}": looked_for(where) for stage, where in DUE.items()},
    "read_unadmitted": lambda c, first: read_unadmitted(c, [*range(first, first + 501)], 1000),
    "delete_orphans": lambda c, first: delete_orphans(c, [*range(first, first + 501)]),
    "admit_prompts": lambda c, first: admit_prompts(c, [Admitted(first, 1, "m", 10, False)] * 2),
    "list_ready_lanes": lambda c, _first: list_ready_lanes(c, 500, NOW_MS),
    "list_ready": lambda c, _first: list_ready(c, 1, 500),
    "take_into_batch": lambda c, first: take_into_batch(c, 1, [Line(first + 1, 10), Line(first + 5, 10)]),
    "read_batched": lambda c, first: read_batched(c, 1, first, first + 500),
    "get_members": lambda c, first: get_members(c, [first, first + 1]),
    "find_members": lambda c, first: find_members(c, [f"q-{first}", f"q-{first + 1}"]),
    "list_members": lambda c, _first: list_members(c, 1, 500),
    "record": lambda c, first: record(c, [replace(ENTRY, member=replace(ENTRY.member, prompt_id=first))], NOW_MS),
}
FILL = """
INSERT INTO lanes (provider, endpoint, completion_window, model) VALUES ('p', '/v1', '24h', 'm');
INSERT INTO prompts (custom_id, prompt) SELECT 'q-' || i, repeat('x', 300) FROM generate_series(1, {size}) AS i;
ALTER TABLE prompt_states DISABLE TRIGGER USER;
UPDATE prompt_states SET lane_id = 1, model = 'm' WHERE prompt_id < {first} OR prompt_id % 4 > 0;
UPDATE prompt_states SET status = 'done', finished_at_ms = {later} + prompt_id WHERE prompt_id < {first};
UPDATE prompt_states SET waiting = 1, due_at_ms = CASE WHEN prompt_id < {first} + 200 THEN 1 ELSE {later} END
    WHERE prompt_id >= {first} AND prompt_id % 4 = 2;
INSERT INTO batch_states (key, lane_id, status, remote_batch_id, next_try_at_ms, created_at_ms)
    SELECT 'orc-' || i, 1, CASE WHEN i > 15 THEN 'settled' ELSE (ARRAY['sealed', 'submitted', 'ended'])[i % 3 + 1] END,
    'r-' || i, i, i FROM generate_series(1, {size} / 8) AS i;
UPDATE prompt_states SET status = 'batched', batch_id = 1
    WHERE prompt_id >= {first} AND prompt_id % 4 = 3 AND prompt_id < {first} + 800;
INSERT INTO replies (prompt_id, seq, batch_id, attempt, received_at_ms, response)
    SELECT i, 1, 16 + i % ({size} / 8 - 16), 1, i, repeat('x', 300) FROM generate_series(1, {first} - 1) AS i;
ALTER TABLE prompt_states ENABLE TRIGGER USER;
"""
"""What has ended comes first, as in a queue that has lived; of the last quarter equal parts are new, ready, waiting."""


@pytest.fixture(scope="module")
def queues(postgres):
    """The addresses of a short and a long queue, each with the first prompt that has not ended."""
    with postgres.lent() as short, postgres.lent() as long:
        for url, size in ((short, SHORT), (long, LONG)):
            with psycopg.connect(url, autocommit=True) as owner:
                owner.execute(FILL.format(size=size, first=size * 3 // 4, later=NOW_MS + 1))
                owner.execute("VACUUM ANALYZE")
        yield (short, SHORT * 3 // 4), (long, LONG * 3 // 4)


class Undone(Exception):
    pass


async def sent(url, first, call):
    """The statements of a call whose transaction is rolled back."""

    async def work(connection):
        await call(connection, first)
        raise Undone

    database = Database(url)
    try:
        with listening(database) as heard, pytest.raises(Undone):
            await database.write(work)
    finally:
        await database.close()
    return [(statement, values) for statement, values in heard if statement.split()[0] in EXPLAINED]


EXPLAINED = {"SELECT", "UPDATE", "DELETE", "WITH"}


def explained(url, statement, values, plans):
    """Its plan as it ran, undone again. A plan may be for these values or, for a statement used often, for any."""
    numbers = iter(range(1, 1 + len(values)))
    prepared = re.sub("%s|%%", lambda mark: f"${next(numbers)}" if mark[0] == "%s" else "%", statement)
    given = sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, values))) if values else sql.SQL("")
    with psycopg.connect(url) as connection:
        connection.execute(f"SET plan_cache_mode = force_{plans}_plan")
        connection.execute(f"PREPARE it AS {prepared}")
        run = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE it{}").format(given)
        found = connection.execute(run).fetchone()[0]
        connection.rollback()
    (plan,) = json.loads(found) if isinstance(found, str) else found
    return plan["Plan"]


def walked_whole(plan):
    """Large tables that are read from end to end."""
    own = [plan["Relation Name"]] if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in LARGE else []
    return own + [name for part in plan.get("Plans", []) for name in walked_whole(part)]


def pages_of(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.mark.parametrize("plans", ["custom", "generic"])
@pytest.mark.parametrize("name", HOT)
async def test_each_statement_reads_as_little_of_a_long_queue(queues, name, plans):
    read = []
    for url, first in queues:
        statements = await sent(url, first, HOT[name])
        assert statements
        found = [explained(url, statement, values, plans) for statement, values in statements]
        read.append(sum(map(pages_of, found)))
    assert not [table for plan in found for table in walked_whole(plan)], found
    assert read[1] <= 2 * read[0] + 20, read


def test_a_walk_over_everything_would_be_seen(queues):
    statement = "SELECT count(*) FROM prompts WHERE tag = %s"
    short, long = (explained(url, statement, ("x",), "custom") for url, _first in queues)
    assert walked_whole(long) == ["prompts"]
    assert pages_of(long) > 2 * pages_of(short) + 20


async def test_the_statements_of_a_claim_are_among_those_that_are_heard(queues):
    (claim, *_rest) = await sent(*queues[0], claimed(POLL_DUE & ACTIVE_ROWS))
    assert "SKIP LOCKED" in claim[0]
