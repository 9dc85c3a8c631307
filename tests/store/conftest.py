import contextlib

import pytest
from users import Daemon, PostgresUser, SqliteUser

from orchestrator.store.database import Database


@pytest.fixture
def user(kind, queue_url):
    user = SqliteUser(queue_url.removeprefix("sqlite:///")) if kind == "sqlite" else PostgresUser(queue_url)
    with contextlib.closing(user.connection):
        yield user


@pytest.fixture
async def database(queue_url):
    database = Database(queue_url)
    yield database
    await database.close()


@pytest.fixture
def daemon(database):
    return Daemon(database)
