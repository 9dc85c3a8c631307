"""kill -9 while old prompts are deleted: each is whole or gone, the books agree, and other writers never wait long."""

import asyncio
import json
import subprocess
import sys
import time
from random import Random, randbytes

import pytest
from daemon_process import until

RETENTION = {"finished_days": 1, "remote_files": "delete", "remote_files_days": 0}
PROMPTS, KILLS, WRITES = 3000, 6, 60
WRITER = """
import json, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
print("ready", flush=True)
sys.stdin.readline()
seconds = []
for number in range(int(sys.argv[2])):
    start = time.perf_counter()
    connection.execute("INSERT INTO prompts (prompt, tag, not_before) VALUES ('x', 'theirs', '2099-01-01')")
    seconds.append(time.perf_counter() - start)
    time.sleep(0.002)
print(json.dumps(seconds))
"""
PARTS = """
    SELECT (SELECT count(*) FROM prompts WHERE tag = 'old'),
        (SELECT count(*) FROM prompt_states WHERE finished_at_ms IS NOT NULL),
        (SELECT count(*) FROM replies), (SELECT sum(prompts) FROM pruned_counts)
"""


def fill(queue, count):
    """Prompts that failed two days ago, each with the answer that its failure left, of 20 KB."""
    ended_ms = int((time.time() - 2 * 86_400) * 1000)
    queue.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO prompts (custom_id, prompt, tag) SELECT 'old-' || i, 'What?', 'old' FROM n",
        count,
    )
    queue.sql(
        "INSERT INTO replies (prompt_id, seq, fault, received_at_ms, response)"
        " SELECT prompt_id, 1, 'invalid', ?, ? FROM prompt_states",
        ended_ms,
        randbytes(10_000).hex(),
    )
    queue.sql("UPDATE prompt_states SET status = 'failed', replies = 1")
    queue.sql("UPDATE prompt_states SET finished_at_ms = ?", ended_ms)


def whole(queue):
    """How many are left, each of them with all its parts."""
    prompts, states, replies, pruned = queue.sql(PARTS)[0]
    assert prompts == states == replies == PROMPTS - pruned
    return prompts


async def test_a_kill_in_mid_pruning_leaves_each_prompt_whole_or_gone(rehearse, kind):
    run = await rehearse(retention=RETENTION)
    dice = Random(4)
    fill(run.queue, PROMPTS)
    left, kills = PROMPTS, 0
    while kills < KILLS:
        await run.daemon.start()
        goal = left - dice.randint(1, 300)
        await until(lambda goal=goal: run.queue.value("SELECT count(*) FROM prompts") <= goal)
        await run.kill()
        kills += 1
        left = whole(run.queue)
        if kind == "sqlite":
            assert run.queue.value("PRAGMA integrity_check") == "ok"
    assert 0 < left <= PROMPTS - KILLS
    await run.daemon.start()
    await until(lambda: whole(run.queue) == 0)
    if kind == "sqlite":
        await until(lambda: run.queue.value("PRAGMA freelist_count") <= run.queue.value("PRAGMA page_count") // 10)
    assert run.queue.value("SELECT prompts FROM pruned_counts WHERE status = 'failed'") == PROMPTS


async def test_a_kill_in_mid_deletion_at_the_provider_is_made_up_for(rehearse):
    run = await rehearse(retention=RETENTION)
    run.queue.ask_many(5)
    assert await run.daemon.run_until_idle() == 0
    gate = run.proxy.hold("DELETE", "/files/", "after")
    await run.daemon.start()
    async with asyncio.timeout(60):
        await gate.reached.wait()
    await run.kill()
    gate.drop()
    assert run.queue.value("SELECT count(*) FROM batch_states WHERE files_deleted_at_ms IS NOT NULL") == 0
    await run.daemon.start()
    await until(lambda: run.queue.value("SELECT count(files_deleted_at_ms) FROM batch_states") == 1)
    assert [file.deleted for file in run.sandbox.ledger.files] == [True]
    assert "clear.kept" not in run.daemon.text()


@pytest.mark.sqlite
async def test_another_process_inserts_while_old_prompts_are_deleted_and_hardly_waits(rehearse):
    run = await rehearse(retention=RETENTION)
    fill(run.queue, 4 * PROMPTS)
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(run.queue.path), str(WRITES), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    await writer.stdout.readline()
    await run.daemon.start()
    await until(lambda: run.queue.value("SELECT sum(prompts) FROM pruned_counts") > 0)
    seconds = sorted(json.loads((await writer.communicate(b"go\n"))[0]))
    left = run.queue.value("SELECT count(*) FROM prompts WHERE tag = 'old'")
    assert left > 0, "all was deleted before the writer was done: fill more"
    assert seconds[WRITES // 2] < 0.05
    assert seconds[-1] < 1
