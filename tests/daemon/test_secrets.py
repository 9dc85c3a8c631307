"""An API key stands nowhere but in the calls, and nobody but their owner reads the files of a queue."""

import asyncio
import json
import os
import stat
import sys

import pytest
from daemon_process import KEY
from proxy import proxied

from orchestrator.api.client import Client
from orchestrator.config import load
from orchestrator.context import Context
from orchestrator.store.database import Database

COMMANDS = (
    ("config",), ("config", "--json"), ("batches",), ("batches", "--json"), ("batches", "1"), ("status",),
    ("status", "--json"), ("failures",), ("failures", "--json"), ("results", "--format", "jsonl"), ("check",),
)  # fmt: skip
ROUTES = (("POST", "/files$"), ("POST", "/batches$"), ("GET", "/batches/[^/]+$"), ("GET", "/content$"))


async def run_against_an_echo(daemon, proxy):
    """Each route first answers with the key that it was sent; the last poll of all does so for ever."""
    left = dict.fromkeys(ROUTES, 1)

    def spoiling(route):
        def change(status, headers, body):
            if not left[route]:
                return status, headers, body
            left[route] -= 1
            return (
                500,
                {"Content-Type": "application/json"},
                json.dumps({"error": {"message": f"Bearer {KEY}?"}}).encode(),
            )

        return change

    for route in ROUTES:
        proxy.rewrite(*route, spoiling(route))
    daemon.queue.ask_many(3)
    assert await daemon.run_until_idle() == 0
    assert not any(left.values())


async def said_by(daemon, words):
    command = [sys.executable, "-m", "orchestrator", "-c", str(daemon.config), *words]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "DOUBLEWORD_API_KEY": KEY},
    )  # fmt: skip
    return (await process.communicate())[0].decode()


@pytest.mark.parametrize(("log_format", "commands"), [("json", COMMANDS), ("console", ())])
async def test_a_provider_that_repeats_the_key_gets_it_into_no_file_and_no_output(
    make_daemon, sandbox, log_format, commands
):
    """What commands print does not hang on how the log is written."""
    async with proxied(sandbox.url) as proxy:
        daemon = make_daemon(proxy.url, log={"format": log_format})
        await run_against_an_echo(daemon, proxy)
        said = [await said_by(daemon, words) for words in commands]
    assert "Bearer [key]?" in daemon.text()  # it was told, and hidden
    assert [text for text in said if KEY in text] == []
    assert [file.name for file in daemon.folder.iterdir() if KEY.encode() in file.read_bytes()] == []


def test_nothing_that_holds_settings_shows_a_key_when_it_is_printed(monkeypatch, tmp_path):
    monkeypatch.setenv("DOUBLEWORD_API_KEY", KEY)
    loaded = load(None, dict(os.environ))
    provider = loaded.config.providers["doubleword"]
    assert provider.api_key() == KEY
    client = Client(provider)
    context = Context(loaded.config, Database(f"sqlite:///{tmp_path / 'q.db'}"), {"doubleword": client}, "me")
    for held in (loaded, loaded.config, provider, client, vars(client), context):
        assert KEY not in repr(held)
        assert KEY not in str(held)


async def test_every_file_beside_a_new_queue_is_its_owners_alone_whatever_the_umask(make_daemon, sandbox):
    daemon = make_daemon(sandbox.url, migrated=False)
    await daemon.start(before=lambda: os.umask(0))
    await daemon.told("daemon.started")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in daemon.folder.glob("queue.db*")}
    assert modes.keys() >= {"queue.db", "queue.db-wal", "queue.db-shm", "queue.db.lock"}
    assert set(modes.values()) == {0o600}
