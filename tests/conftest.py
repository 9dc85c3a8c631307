import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from rig import Clock, Rig, open_rig

from orchestrator.store.database import Database
from orchestrator.store.schema import migrate


@pytest.fixture(scope="session")
def empty_queue(tmp_path_factory):
    """A migrated SQLite file without rows, made once."""
    path = tmp_path_factory.mktemp("queue") / "empty.db"

    async def make():
        database = Database(f"sqlite:///{path}")
        await migrate(database)
        await database.close()

    asyncio.run(make())
    return path


@pytest.fixture
def quick_folder(tmp_path):
    """A folder in memory where the system has one: what a disk does at each commit is no matter of these tests."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def queue_file(empty_queue, quick_folder):
    path = quick_folder / "queue.db"
    shutil.copyfile(empty_queue, path)
    return path


@pytest.fixture
async def start(queue_file, monkeypatch):
    """Open a rig: a queue, a sandbox and the stages between them, on one clock."""
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    opened = []

    async def started(**settings) -> Rig:
        manager = open_rig(queue_file, Clock(), **settings)
        rig = await manager.__aenter__()
        opened.append(manager)
        return rig

    yield started
    for manager in opened:
        await manager.__aexit__(None, None, None)


@pytest.fixture
async def rig(start):
    return await start()
