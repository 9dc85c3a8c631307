import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from compiled import share
from postgres import Databases, Server
from rig import Clock, Rig, open_rig
from users import forget_sessions

from orchestrator.memory import collect_seldom, leave_alone
from orchestrator.store.database import Database
from orchestrator.store.schema import migrate

share()

KINDS = ["sqlite", "postgresql"]
PROVIDERS_WAYS = {
    "account", "bytes_on_the_wire", "clear", "clocks", "downloads", "fault_table", "folding", "openai_profile", "poll",
    "replacing", "submit_lost_replies", "submit_refusals",
}  # fmt: skip
"""Tests of what a provider may say, which is no matter of the database: SQLite's alone but for `make stages`."""
_SERVERS: list[Server] = []
"""The one server of this run; with xdist its controller keeps it, and the workers know where it is."""


def pytest_collection_finish():
    """Thousands of tests are no garbage."""
    collect_seldom()
    leave_alone()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["postgres"] = str(_server().folder)


def pytest_unconfigure(config):
    forget_sessions()
    while _SERVERS:
        _SERVERS.pop().close()


def _server():
    if not _SERVERS:
        _SERVERS.append(Server())
    return _SERVERS[0]


@pytest.fixture(scope="session")
def postgres(request):
    """A PostgreSQL server of this run's own. Fails where none can be started: nothing is skipped."""
    given = getattr(request.config, "workerinput", {}).get("postgres")
    if given is None:
        yield _server()
        return
    databases = Databases(given)
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(postgres):
    with postgres.lent() as url:
        yield url


def pytest_generate_tests(metafunc):
    """Whoever asks for a `kind` of database runs on each, or on the one it is marked as a matter of."""
    own = any("kind" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "kind" in metafunc.fixturenames and not own:
        alone = [kind for kind in KINDS if metafunc.definition.get_closest_marker(kind)]
        if _is_of_providers_ways(metafunc.definition.path) and not os.environ.get("STAGES_ON_BOTH"):
            alone = ["sqlite"]
        metafunc.parametrize("kind", alone or KINDS)


def _is_of_providers_ways(path):
    return path.parent.name == "stages" and path.stem.removeprefix("test_") in PROVIDERS_WAYS


@pytest.fixture
def queue_url(kind, request):
    """The address of an empty queue."""
    wanted = {"sqlite": "queue_file", "postgresql": "postgres_url"}[kind]
    found = request.getfixturevalue(wanted)
    return found if kind == "postgresql" else f"sqlite:///{found}"


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
def queue_place(queue_file):
    """Where a rig finds its queue: the path of a file, or an address."""
    return queue_file


@pytest.fixture
async def start(queue_place, monkeypatch):
    """Open a rig: a queue, a sandbox and the stages between them, on one clock."""
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    opened = []

    async def started(**settings) -> Rig:
        manager = open_rig(queue_place, Clock(), **settings)
        rig = await manager.__aenter__()
        opened.append(manager)
        return rig

    yield started
    for manager in opened:
        await manager.__aexit__(None, None, None)


@pytest.fixture
async def rig(start):
    return await start()
