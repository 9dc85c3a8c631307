"""The daemon as a process: signals, exit codes, one per file, and whatever the machine does to it."""

import asyncio
import contextlib
import resource
import signal
import socket
import sqlite3
import time

import pytest
from daemon_process import until
from proxy import proxied

from orchestrator.sandbox import Options, serve

AT_ONCE_SECONDS = 5.0
"""The grace of an end, and the rest of an idle stage, are longer."""


async def test_until_idle_ends_with_0_when_all_is_done(daemon, sandbox):
    daemon.queue.ask_many(5)
    assert await daemon.run_until_idle() == 0
    assert daemon.queue.count("done") == 5
    assert daemon.events("daemon.idle", done=5, failed=0)
    assert daemon.events()[-1]["event"] == "daemon.stopped"


async def test_until_idle_ends_with_3_when_some_failed(daemon):
    daemon.queue.ask("bad", model="m+sandbox-bad-request")
    daemon.queue.ask("good")
    assert await daemon.run_until_idle() == 3
    assert daemon.queue.count("done") == 1


async def test_a_failed_prompt_that_was_replaced_is_no_failure_any_more(daemon):
    daemon.queue.ask("f", model="m+sandbox-bad-request")
    assert await daemon.run_until_idle() == 3
    daemon.queue.sql("INSERT OR REPLACE INTO prompts (custom_id, model, prompt) VALUES ('f', 'm', 'Another question?')")
    assert await daemon.run_until_idle() == 0


async def test_until_idle_ends_at_once_on_an_empty_queue(daemon, sandbox):
    assert await daemon.run_until_idle() == 0
    assert sandbox.ledger.requests == {}


async def test_a_database_that_does_not_exist_is_made_readable_by_its_owner_only(make_daemon, sandbox):
    daemon = make_daemon(sandbox.url, migrated=False)
    assert await daemon.run_until_idle() == 0
    assert daemon.queue.path.stat().st_mode & 0o777 == 0o600
    assert daemon.events("daemon.migrated")
    daemon.queue.ask("one")
    assert await daemon.run_until_idle() == 0
    assert not daemon.events("daemon.migrated")


async def test_a_database_from_the_future_is_refused(daemon):
    daemon.queue.sql("UPDATE alembic_version SET version_num = '9999'")
    assert await daemon.run_until_idle() == 2
    assert "9999" in daemon.text()
    assert "Traceback" not in daemon.text()


async def test_a_second_daemon_on_the_same_file_is_refused_and_the_first_goes_on(daemon, make_daemon, sandbox):
    second = make_daemon(sandbox.url, "second")
    second.config.write_text(daemon.config.read_text())
    await daemon.started()
    await second.start()
    assert await second.ended() == 2
    assert second.text().count("\n") == 1
    assert str(daemon.queue.path) in second.text()
    daemon.queue.ask("one")
    await until(lambda: daemon.queue.count("done") == 1)


async def test_after_a_kill_the_next_daemon_is_not_refused(daemon):
    await daemon.started()
    await daemon.kill()
    assert await daemon.run_until_idle() == 0


async def test_a_missing_key_is_one_line_and_exit_2(make_daemon, sandbox):
    tables = {"providers.doubleword": {"api_key_env": "NO_SUCH_VARIABLE"}}
    daemon = make_daemon(sandbox.url, **tables)
    await daemon.start()
    assert await daemon.ended() == 2
    assert daemon.text().count("\n") == 1
    assert "NO_SUCH_VARIABLE" in daemon.text()


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_daemon_stops_at_once_on_a_signal_with_exit_0(daemon, number):
    await daemon.started()
    daemon.signal(number)
    assert await daemon.ended(AT_ONCE_SECONDS) == 0
    assert daemon.events("daemon.stopping", signal=number.name)
    assert daemon.events()[-1]["event"] == "daemon.stopped"


async def test_a_signal_lets_the_work_in_hand_finish(through_proxy, sandbox):
    proxy, daemon = through_proxy
    held = proxy.hold("POST", "/batches$", "after")
    daemon.queue.ask_many(3)
    await daemon.started()
    await held.reached.wait()
    daemon.signal()
    await daemon.told("daemon.stopping")
    assert daemon.is_running
    held.open.set()
    assert await daemon.ended() == 0
    (batch,) = daemon.queue.sql("SELECT * FROM batches")
    assert (batch["status"], batch["remote_batch_id"]) == ("submitted", sandbox.ledger.batches[0].id)


async def test_a_second_signal_stops_at_once_and_nothing_is_lost(through_proxy, sandbox):
    proxy, daemon = through_proxy
    held = proxy.hold("POST", "/batches$", "after")
    daemon.queue.ask_many(3)
    await daemon.started()
    await held.reached.wait()
    daemon.signal()
    await daemon.told("daemon.stopping")
    daemon.signal()
    await daemon.ended(AT_ONCE_SECONDS)
    assert "Traceback" not in daemon.text()
    held.drop()
    assert daemon.queue.value("SELECT status FROM batches") == "creating"
    assert await daemon.run_until_idle() == 0
    assert sandbox.ledger.creates == 1
    assert {row["attempts"] for row in daemon.queue.sql("SELECT attempts FROM results")} == {1}


async def test_the_grace_is_the_longest_that_a_stop_takes(make_daemon, sandbox):
    async with proxied(sandbox.url) as proxy:
        daemon = make_daemon(proxy.url, shutdown={"grace_seconds": 0.3})
        held = proxy.hold("POST", "/files$", "before")
        daemon.queue.ask_many(3)
        await daemon.started()
        await held.reached.wait()
        daemon.signal()
        async with asyncio.timeout(10):
            assert await daemon.ended() == 0
        held.drop()
        assert await daemon.run_until_idle() == 0
    assert sandbox.ledger.uploads == 1
    assert daemon.queue.count("done") == 3


# ---------------------------------------------------------------- the world outside


async def test_a_provider_that_is_not_there_is_waited_for(make_daemon):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon = make_daemon(f"http://127.0.0.1:{port}/v1")
    daemon.queue.ask_many(3)
    await daemon.start("--until-idle")
    delayed = await daemon.told("submit.delayed")
    assert "cannot reach" in delayed["reason"]
    async with serve(Options(port=port, validate_seconds=0.0, latency_seconds=0.2)) as sandbox:
        assert await daemon.ended() == 0
        assert sandbox.ledger.creates == 1
    assert {row["attempts"] for row in daemon.queue.sql("SELECT attempts FROM results")} == {1}


async def test_until_idle_that_is_stopped_before_does_not_say_that_all_has_ended(make_daemon):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        daemon = make_daemon(f"http://127.0.0.1:{free.getsockname()[1]}/v1")
        daemon.queue.ask_many(3)
        await daemon.start("--until-idle")
        await daemon.told("submit.delayed")
        daemon.process.send_signal(signal.SIGTERM)
        assert await daemon.ended() == 1
    assert not daemon.events("daemon.idle")
    assert daemon.events("daemon.stopped")


async def test_a_provider_that_goes_away_in_the_middle_is_waited_for(make_daemon, sandbox):
    async with proxied(sandbox.url) as proxy:
        daemon = make_daemon(proxy.url)
        proxy.rewrites.append(("GET", "/batches/", lambda *_: (502, {}, b"<html>down</html>")))
        daemon.queue.ask_many(3)
        await daemon.start("--until-idle")
        await until(lambda: len(daemon.events("poll.failed")) >= 3)
        proxy.rewrites.clear()
        assert await daemon.ended() == 0
    assert sandbox.ledger.creates == 1


async def test_a_disk_that_takes_no_more_is_told_and_work_goes_on_when_there_is_room(make_daemon):
    async with serve(Options(validate_seconds=0.0, latency_seconds=0.2, answer_bytes=20_000)) as sandbox:
        daemon = make_daemon(sandbox.url)
        daemon.queue.ask_many(60)
        limit = 600_000

        def cramped():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        await daemon.start("--until-idle", before=cramped)
        failed = await daemon.told("loop.failed")
        assert str(daemon.queue.path) in failed["reason"]
        assert daemon.is_running
        assert daemon.queue.count("done") < 60
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert await daemon.ended() == 0
        assert daemon.queue.count("done") == 60
        assert set(sandbox.ledger.executions.values()) == {1}


async def test_a_lock_of_another_process_delays_and_nothing_more(daemon, sandbox):
    await daemon.started()
    connection = sqlite3.connect(daemon.queue.path, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO prompts (custom_id, model, prompt) VALUES ('one', 'm', 'x')")
        await until(lambda: daemon.events("daemon.heartbeat"))
        connection.execute("COMMIT")
    await until(lambda: daemon.queue.count("done") == 1)
    assert not daemon.events("loop.failed")
    assert not daemon.events("loop.crashed")


async def test_rows_of_a_plain_client_are_answered_while_the_daemon_runs_and_their_inserts_never_wait(daemon):
    daemon.queue.ask_many(3000, prefix="load")
    await daemon.started()
    waits = []
    for number in range(100):
        began = time.perf_counter()
        await asyncio.to_thread(daemon.queue.ask, f"live-{number}")
        waits.append(time.perf_counter() - began)
    await until(lambda: daemon.queue.count("done") == 3100)
    assert max(waits) < 1


async def test_a_busy_and_an_idle_daemon_tell_the_queues_counts(daemon):
    daemon.queue.ask("later", not_before="2199-01-01")
    await daemon.started()
    heartbeat = await daemon.told("daemon.heartbeat", queued=1)
    assert (heartbeat["batched"], heartbeat["active_batches"]) == (0, 0)


@pytest.mark.parametrize("what", ["removed", "replaced"])
async def test_a_file_that_is_taken_away_while_it_is_in_use_is_told_and_nothing_more_is_sent(daemon, sandbox, what):
    await daemon.started()
    path = daemon.queue.path
    kept = path.with_name("kept.db")
    path.rename(kept)
    if what == "replaced":
        path.write_bytes(b"")
    failed = await daemon.told("loop.failed")
    assert "was removed or replaced" in failed["reason"]
    path.unlink(missing_ok=True)
    kept.rename(path)
    daemon.queue.ask_many(3)
    await until(lambda: daemon.queue.count("done") == 3, daemon.text)
