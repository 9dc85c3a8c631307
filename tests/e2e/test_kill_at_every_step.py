"""kill -9 at each step: after a restart everything is as if nothing had happened, and nothing was paid for twice."""

import asyncio

import pytest
from daemon_process import until

# Where the daemon stands when it is killed: the call it waits for, and whether the provider has acted on it.
CALLS = {
    "upload not begun": ("POST", "/files$", "before", 0),
    "half an upload": ("POST", "/files$", "mid-request", 2000),
    "file stored, reply lost": ("POST", "/files$", "after", 0),
    "file known, batch not created": ("POST", "/batches$", "before", 0),
    "batch created, reply lost": ("POST", "/batches$", "after", 0),
    "batch known, not polled": ("GET", "/batches/[^/]+$", "before", 0),
    "nothing read": ("GET", "/content$", "before", 0),
    "some lines read": ("GET", "/content$", "mid-response", 3000),
    "all sent, nothing stored": ("GET", "/content$", "after", 0),
}
# The commit that does not come about any more.
COMMITS = {
    "uploaded": ("status", "NEW.status = 'uploaded'"),
    "submitted": ("status", "NEW.status = 'submitted'"),
    "collected": ("output_cursor", "NEW.output_cursor > 0"),
    "ended": ("status", "NEW.status = 'ended'"),
    "settled": ("status", "NEW.status = 'settled'"),
}
NEVER = {
    "sqlite": [
        """CREATE TRIGGER never BEFORE UPDATE OF {} ON batch_states WHEN {}
        BEGIN SELECT RAISE(ABORT, 'killed here'); END"""
    ],
    "postgresql": [
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'killed here'; END $$",
        "CREATE TRIGGER never BEFORE UPDATE OF {} ON batch_states FOR EACH ROW WHEN ({}) EXECUTE FUNCTION die()",
    ],
}
AGAIN = {"sqlite": "DROP TRIGGER never", "postgresql": "DROP FUNCTION die CASCADE"}
MARKED = ("fail-once", "bad-request", "duplicate", "u2028", "bad-json-once")
PAID_FOR_NOTHING = {"bad-json-once"}
"""Answered, billed and unreadable: the provider counts a success that nobody can use."""


def ask(queue):
    queue.ask_many(30)
    for marker in MARKED:
        queue.ask(marker, model=f"m+sandbox-{marker}")


@pytest.fixture(scope="module")
def undisturbed():
    """The outcome of a run in which nobody was killed, kept for all tests of this module, whatever the database."""
    return {}


async def outcome_of_an_undisturbed_run(undisturbed, rehearse):
    if not undisturbed:
        calm = await rehearse("calm")
        ask(calm.queue)
        assert await calm.daemon.run_until_idle() == 3
        undisturbed.update(outcome=calm.queue.outcome(), executions=calm.sandbox.ledger.executions)
    return undisturbed


def paid_once(run):
    ledger = run.sandbox.ledger
    done = {name for name, found in run.queue.outcome().items() if found[0] == "done"} - PAID_FOR_NOTHING
    assert {name: count for name, count in ledger.successes.items() if name in done} == dict.fromkeys(done, 1)
    assert ledger.creates == run.queue.submitted()


async def same_as_undisturbed(run, undisturbed, rehearse):
    calm = await outcome_of_an_undisturbed_run(undisturbed, rehearse)
    assert run.queue.outcome() == calm["outcome"]
    assert run.sandbox.ledger.executions == calm["executions"]
    paid_once(run)
    for batch in run.queue.sql("SELECT * FROM batches WHERE status = 'settled'"):
        assert batch["lines"] == batch["lines_received"]


@pytest.mark.parametrize("step", CALLS)
async def test_a_kill_while_a_call_is_under_way_changes_nothing(rehearse, undisturbed, step):
    run = await rehearse()
    ask(run.queue)
    gate = run.proxy.hold(*CALLS[step])
    await run.daemon.start("--until-idle")
    async with asyncio.timeout(60):
        await gate.reached.wait()
    await run.kill()
    gate.drop()
    assert await run.daemon.run_until_idle() == 3
    await same_as_undisturbed(run, undisturbed, rehearse)


@pytest.mark.parametrize("commit", COMMITS)
async def test_a_kill_before_a_commit_changes_nothing(rehearse, undisturbed, kind, commit):
    run = await rehearse()
    ask(run.queue)
    for statement in NEVER[kind]:
        run.queue.sql(statement.format(*COMMITS[commit]))
    await run.daemon.start()
    await until(lambda: "killed here" in run.daemon.text(), commit)
    await run.kill()
    run.queue.sql(AGAIN[kind])
    assert await run.daemon.run_until_idle() == 3
    await same_as_undisturbed(run, undisturbed, rehearse)
