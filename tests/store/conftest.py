import contextlib
import sqlite3

import pytest

from orchestrator.core.model import Lane
from orchestrator.store.batches import get_batch, insert_batch
from orchestrator.store.database import Database
from orchestrator.store.lanes import find_or_make_lane
from orchestrator.store.queue import Admitted, Line, admit_prompts, take_into_batch

NOW_MS = 1_800_000_000_000
LANE = Lane("p", "/v1/chat/completions", "24h")


class User:
    """Any SQL client: a connection of its own that knows nothing of this package."""

    def __init__(self, path):
        self.connection = sqlite3.connect(path, timeout=5, isolation_level=None)
        self.connection.row_factory = sqlite3.Row

    def run(self, statement, *values):
        return self.connection.execute(statement, values).rowcount

    def rows(self, statement, *values):
        return [dict(row) for row in self.connection.execute(statement, values)]

    def values(self, statement, *values):
        return [row[0] for row in self.connection.execute(statement, values)]

    def value(self, statement, *values):
        (found,) = self.values(statement, *values)
        return found

    def insert(self, **columns):
        """One prompt; its id."""
        row = {"prompt": "hi"} | columns
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        return self.connection.execute(f"INSERT INTO prompts ({names}) VALUES ({marks})", [*row.values()]).lastrowid

    def insert_many(self, count, **columns):
        return [self.insert(**columns) for _ in range(count)]

    def state(self, prompt_id):
        (row,) = self.rows("SELECT * FROM prompt_states WHERE prompt_id = ?", prompt_id)
        return row

    def put(self, prompt_id, status):
        """Bring a prompt to a status on a path that the daemon may take."""
        steps = {
            "queued": [],
            "batched": ["status = 'batched', batch_id = 7"],
            "done": ["status = 'batched', batch_id = 7", "status = 'done', batch_id = NULL"],
            "failed": ["status = 'failed'"],
            "cancelled": ["status = 'cancelled'"],
        }
        for step in steps[status]:
            self.run(f"UPDATE prompt_states SET {step} WHERE prompt_id = ?", prompt_id)


class Daemon:
    """Short names for what stages do through the store."""

    def __init__(self, database):
        self.database = database
        self.read = database.read
        self.write = database.write

    async def admit(self, *prompt_ids, lane=LANE, nbytes=10, waiting=False):
        """Admit these prompts to a lane; the lane's id."""

        async def work(connection):
            lane_id = await find_or_make_lane(connection, lane)
            await admit_prompts(connection, [Admitted(one, lane_id, "m", nbytes, waiting) for one in prompt_ids])
            return lane_id

        return await self.write(work)

    async def batch(self, *prompt_ids, key="orc-1", lane=LANE, owner="me", lease_until_ms=NOW_MS + 1000):
        """A batch in `packing` that holds these admitted prompts."""

        async def work(connection):
            lane_id = await find_or_make_lane(connection, lane)
            batch_id = await insert_batch(connection, key, lane_id, owner, NOW_MS, lease_until_ms)
            taken = await take_into_batch(connection, batch_id, [Line(prompt_id, 10) for prompt_id in prompt_ids])
            assert taken == len(prompt_ids)
            return await get_batch(connection, batch_id)

        return await self.write(work)


@pytest.fixture
def user(queue_file):
    user = User(queue_file)
    with contextlib.closing(user.connection):
        yield user


@pytest.fixture
async def database(queue_file):
    database = Database(f"sqlite:///{queue_file}")
    yield database
    await database.close()


@pytest.fixture
def daemon(database):
    return Daemon(database)
