"""The daemon on PostgreSQL: beside others, through restarts of the server, woken by NOTIFY."""

import asyncio

import pytest
from daemon_process import Daemon, Queue, until

SOON_SECONDS = 10.0


@pytest.fixture
async def make(quick_folder, sandbox):
    """Daemons on the queue at an address; killed at the end, whatever happens."""
    made = []

    def daemon(url, **tables):
        folder = quick_folder / f"daemon-{len(made)}"
        folder.mkdir()
        made.append(Daemon(folder, sandbox.url, url, **tables))
        return made[-1]

    yield daemon
    for daemon in made:
        if daemon.is_running:
            await daemon.kill()


async def test_an_empty_database_is_migrated_and_its_prompts_are_answered(postgres, make, sandbox):
    with postgres.lent("template0") as url:
        daemon = make(url)
        assert await daemon.run_until_idle() == 0
        daemon.queue.ask_many(30)
        assert await daemon.run_until_idle() == 0
        assert daemon.queue.count("done") == 30
        assert set(sandbox.ledger.successes.values()) == {1}
        assert "orchestrator@" in daemon.events("daemon.started")[0]["database"]


async def test_two_daemons_share_a_queue_and_a_new_row_wakes_them(postgres_url, make, sandbox):
    slow = {"log": {"heartbeat_seconds": 600}}
    one, other = make(postgres_url, **slow), make(postgres_url, **slow)
    await asyncio.gather(one.started(), other.started())
    queue = one.queue
    for number in range(5):
        queue.ask(f"q-{number}")
        await until(lambda done=number: queue.count("done") > done, seconds=SOON_SECONDS)
    for daemon in (one, other):
        daemon.signal()
        assert await daemon.ended() == 0
    assert set(sandbox.ledger.successes.values()) == {1}


async def test_queues_in_schemas_of_one_database_keep_to_themselves(postgres, make, sandbox):
    """Named by `search_path`; whoever inserts may name the schema instead."""
    with postgres.lent("template0") as url:
        user = Queue(url)
        daemons = []
        for schema in ("mine", "yours"):
            user.sql(f"CREATE SCHEMA {schema}")
            daemons.append(make(f"{url}&options=-csearch_path%3D{schema}"))
        await asyncio.gather(*(daemon.started() for daemon in daemons))
        user.sql("INSERT INTO mine.prompts (custom_id, model, prompt) VALUES ('one', 'm', 'Mine?')")
        daemons[1].queue.ask_many(3)
        await until(lambda: [daemon.queue.count("done") for daemon in daemons] == [1, 3], seconds=SOON_SECONDS)
        assert user.value("SELECT count(*) FROM mine.results WHERE status = 'done' AND custom_id = 'one'") == 1
        assert user.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert set(sandbox.ledger.successes.values()) == {1}


async def test_a_server_that_is_not_there_is_one_line_and_an_exit_code(make):
    daemon = make("postgresql://me:hush@127.0.0.1:1/queue")
    await daemon.start()
    assert await daemon.ended() == 1
    assert daemon.text().count("\n") == 1
    assert "127.0.0.1" in daemon.text()
    assert "hush" not in daemon.text()
