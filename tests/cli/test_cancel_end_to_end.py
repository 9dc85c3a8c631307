"""`cancel` as a process of its own, beside the daemon and the sandbox."""

import asyncio
import json
import os
import shutil
import sys

import pytest
from daemon_process import Daemon, until
from rig import admit, pack, submit

from orchestrator.sandbox import Options, serve


async def cancel(queue_path, *words):
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator", "cancel", *words, "--json", stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "ORCHESTRATOR_DATABASE__URL": f"sqlite:///{queue_path}"},
    )  # fmt: skip
    out, _ = await running.communicate()
    assert running.returncode == 0
    return json.loads(out)


@pytest.fixture
async def daemon(tmp_path, queue_file):
    """A running daemon, and a sandbox that takes a minute for a batch, one line after the other."""
    async with serve(Options(seed=7, validate_seconds=0, latency_seconds=60, abort_seconds=0.2, order="input")) as box:
        folder = tmp_path / "daemon"
        folder.mkdir()
        shutil.move(queue_file, folder / "queue.db")
        daemon = Daemon(folder, box.url)
        daemon.sandbox = box
        yield daemon
        if daemon.is_running:
            await daemon.kill()


async def test_a_whole_batch_is_cancelled_at_the_provider_what_was_answered_is_kept_and_nothing_is_resent(daemon):
    daemon.queue.ask_many(120)
    await daemon.started()
    await until(lambda: daemon.queue.count("done") >= 2, "the first answers")
    told = await cancel(daemon.queue.path, "--all")
    assert (told["cancelled"], told["batches"], told["not_recalled"]) == (0, [1], 0)
    assert 0 < told["being_cancelled"] <= 118
    await daemon.told("settle.settled")
    ledger, done = daemon.sandbox.ledger, daemon.queue.count("done")
    assert done == len(ledger.successes)
    assert daemon.queue.count("cancelled") == 120 - done > 0
    assert set(ledger.executions.values()) == {1}
    assert (ledger.creates, ledger.requests["cancel"]) == (1, 1)


async def test_prompts_that_share_a_batch_are_not_recalled_and_not_resent_when_they_fail(rig):
    rig.ask("fails", model="m+sandbox-fail-always")
    rig.ask("answers")
    rig.ask("stays", model="m+sandbox-fail-once")
    await rig.submitted()
    told = await cancel(rig.path, "--custom-id", "fails", "--custom-id", "answers")
    assert told == {"cancelled": 0, "being_cancelled": 0, "batches": [], "not_recalled": 2, "unknown": []}
    await rig.until_idle()
    assert rig.statuses() == {"fails": "cancelled", "answers": "done", "stays": "done"}
    assert rig.ledger.executions == {"fails": 1, "answers": 1, "stays": 2}
    assert "cancel" not in rig.ledger.requests


async def test_prompts_of_a_sealed_batch_end_at_once_and_are_never_sent(rig):
    rig.ask_many(3)
    await rig.sealed()
    assert (await cancel(rig.path, "--custom-id", "q-2"))["cancelled"] == 1
    assert rig.statuses()["q-2"] == "cancelled"
    await rig.until_idle()
    assert rig.statuses() == {"q-1": "done", "q-2": "cancelled", "q-3": "done"}
    assert rig.ledger.executions == {"q-1": 1, "q-3": 1}


async def test_a_sealed_batch_of_which_nothing_is_left_is_never_uploaded(rig):
    rig.ask_many(2)
    await rig.sealed()
    assert (await cancel(rig.path, "--all"))["cancelled"] == 2
    await rig.until_idle()
    assert (rig.ledger.uploads, rig.ledger.creates) == (0, 0)
    assert rig.batch()["status"] == "discarded"


async def test_a_batch_cancelled_between_upload_and_create_is_never_created(rig):
    rig.ask_many(2)
    rig.faults.add("status-429:route=create")
    await rig.run(admit, pack, submit)
    assert (rig.batch()["status"], rig.ledger.uploads) == ("uploaded", 1)
    assert (await cancel(rig.path, "--all"))["being_cancelled"] == 2
    rig.faults.clear()
    await rig.until_idle()
    assert set(rig.statuses().values()) == {"cancelled"}
    assert (rig.ledger.creates, rig.ledger.executions) == (0, {})


async def test_a_prompt_cancelled_in_a_batch_that_goes_back_into_the_queue_is_never_sent(rig):
    rig.ask_many(3)
    rig.faults.add("status-429:route=create")
    await rig.run(admit, pack, submit)
    assert (await cancel(rig.path, "--custom-id", "q-2"))["not_recalled"] == 1
    rig.faults.clear()
    rig.faults.add("status-404:route=create", times=5, text="Input file not found")
    await rig.until_idle()
    assert rig.statuses() == {"q-1": "done", "q-2": "cancelled", "q-3": "done"}
    assert rig.ledger.executions == {"q-1": 1, "q-3": 1}
