"""Write the fixture of the newest revision: a database as `kill -9` leaves it with batches at every step of their way.

    .venv/bin/python tests/upgrades/make_fixture.py

The stages of the daemon work against the sandbox; some of their calls are held halfway. What another connection then
sees is what has been committed, which is all that a kill leaves. A fixture that exists is never written again: it shows
what a program of its time left behind.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
sys.path.insert(0, str(HERE.parent))

from remembered import remembered  # noqa: E402
from rig import Clock, admit, open_rig, pack, poll, submit  # noqa: E402
from sqlalchemy.exc import IntegrityError  # noqa: E402

from orchestrator.store.cancel import cancel  # noqa: E402
from orchestrator.store.database import Database  # noqa: E402
from orchestrator.store.schema import migrate, newest_revision  # noqa: E402

STUCK_SECONDS, SLOW_SECONDS, RETRY_SECONDS = 1800, 300.0, 1200


async def make(path):
    """The files of a fixture, as text: the database, and the calls that the provider had accepted."""
    database = Database(f"sqlite:///{path}")
    await migrate(database)
    await database.close()
    settings = {"sandbox": {"slow_seconds": SLOW_SECONDS}, "retry": {"base_seconds": RETRY_SECONDS}}
    async with open_rig(path, Clock(), through_proxy=True, **settings) as rig:
        await ended_ones(rig)
        held = await sent_ones(rig) + await unsent_ones(rig)
        waiting_ones(rig)
        written = {".sql": dump(path), ".remote.jsonl": remembered(rig)}
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
    return written


async def ended_ones(rig):
    """Batches that are settled or discarded; prompts that ended each way."""
    rig.ask("done")
    rig.ask("done-after-failure", model="m+sandbox-fail-once")
    rig.ask("done-with-body", model=None, body='{"model": "m", "messages": [{"role": "user", "content": "é 1.50"}]}')
    rig.ask("failed-bad-request", model="m+sandbox-bad-request", tag="some tag", metadata='{"a": [1, 2]}')
    rig.ask("failed-invalid", body="no JSON")
    rig.ask("cancelled-while-queued")
    rig.sql("UPDATE prompt_states SET status = 'cancelled' WHERE prompt_id = (SELECT max(id) FROM prompts)")
    await rig.until_idle()
    rig.ask("cancelled-in-a-sealed-batch")
    await rig.sealed()
    await cancelled(rig, "cancelled-in-a-sealed-batch")
    await rig.run(submit)


async def sent_ones(rig):
    """A batch that never starts and is being replaced, one read in part, one that has ended and is not read."""
    rig.faults.add("stuck-validating", times=1)
    ask_two(rig, "replacing")
    await rig.submitted()
    await rig.later(poll, seconds=STUCK_SECONDS + 1)
    held = [await hold(rig, "DELETE", "/batches/", "before")]
    ask_two(rig, "half-read")
    rig.ask("done-later", model="m+sandbox-fail-once")
    for name in ("done-slow", "done-although-cancelled"):
        rig.ask(name, body='{"metadata": {"sandbox": "slow"}}', prompt="Slow?")
    await rig.collected()
    await cancelled(rig, "done-although-cancelled")
    ask_two(rig, "ended")
    await rig.ended()
    return held


async def unsent_ones(rig):
    """Calls under way when the kill comes, heard by the provider or not; batches that wait before such a call."""
    held = []
    for name, path, when in (
        ("upload-unheard", "/files$", "before"),
        ("upload-heard", "/files$", "after"),
        ("creation-unheard", "/batches$", "before"),
        ("creation-heard", "/batches$", "after"),
    ):
        ask_two(rig, name)
        await rig.sealed()
        held.append(await hold(rig, "POST", path, when))
    rig.faults.add("status-429:route=create", times=1)
    ask_two(rig, "uploaded")
    await rig.submitted()
    ask_two(rig, "sealed")
    await rig.sealed()
    await leave_packing(rig)
    return held


async def hold(rig, method, path, when):
    """Start one tick of submit and stop it in this call."""
    gate = rig.proxy.hold(method, path, when)
    task = asyncio.create_task(submit(rig.context))
    async with asyncio.timeout(30):
        await gate.reached.wait()
    return task


async def leave_packing(rig):
    """The commit that would seal the batch does not come about any more."""
    rig.sql("CREATE TRIGGER never BEFORE UPDATE OF status ON batch_states BEGIN SELECT RAISE(ABORT, 'killed'); END")
    ask_two(rig, "packing")
    await rig.run(admit)
    with contextlib.suppress(IntegrityError):
        await pack(rig.context)
    rig.sql("DROP TRIGGER never")


def waiting_ones(rig):
    """Prompts that nobody has looked at yet."""
    ask_two(rig, "new")
    rig.ask("done-when-due", not_before="2099-01-01 00:00:00")
    rig.ask("failed-without-messages", body='{"temperature": 0}', prompt=None, model="m")


def ask_two(rig, name):
    for number in (1, 2):
        rig.ask(f"done-{name}-{number}")


async def cancelled(rig, custom_id):
    prompt_id = rig.state(custom_id)["prompt_id"]
    await rig.context.database.write(lambda connection: cancel(connection, [prompt_id], rig.context.now_ms()))


def dump(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump()) + "\n"


def main():
    revision = newest_revision()
    if (FIXTURES / f"{revision}.sql").exists():
        sys.exit(f"revision {revision} has its fixture: it is never written again")
    os.environ["DOUBLEWORD_API_KEY"] = "any"
    with tempfile.TemporaryDirectory() as folder:
        written = asyncio.run(make(Path(folder) / "queue.db"))
    FIXTURES.mkdir(exist_ok=True)
    for suffix, text in written.items():
        (FIXTURES / f"{revision}{suffix}").write_text(text)


if __name__ == "__main__":
    main()
