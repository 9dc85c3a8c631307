"""The database is made and upgraded by migrations alone, and they make what `store/tables.py` says."""

import asyncio
import contextlib
import sqlite3
import stat
from importlib.resources import files

import pytest
from alembic.script import ScriptDirectory

from orchestrator.errors import SchemaMismatch, StoreUnavailable
from orchestrator.store.database import Database
from orchestrator.store.schema import (
    current_revision,
    make_private_file,
    migrate,
    newest_revision,
    require_current,
    revisions,
)
from orchestrator.store.tables import metadata

pytestmark = pytest.mark.sqlite


@contextlib.asynccontextmanager
async def opened(path):
    database = Database(f"sqlite:///{path}")
    try:
        yield database
    finally:
        await database.close()


def schema(path, *kinds):
    """What the file holds, by name, spelled without regard to white space and quotes around names."""
    marks = ", ".join("?" * len(kinds))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT name, sql FROM sqlite_master WHERE type IN ({marks})", kinds)
        own = {name: sql for name, sql in rows if not name.startswith("sqlite_") and name != "alembic_version"}
    return {name: " ".join(sql.replace('"', "").split()) for name, sql in own.items()}


async def test_migrating_from_empty_makes_what_the_metadata_say(tmp_path):
    async with opened(tmp_path / "migrated.db") as migrated, opened(tmp_path / "created.db") as created:
        await migrate(migrated)
        await created.write(lambda connection: connection.run_sync(metadata.create_all))
    found = schema(tmp_path / "migrated.db", "table", "index")
    assert found == schema(tmp_path / "created.db", "table", "index")
    assert set(metadata.tables) <= set(found)


async def test_migrating_makes_the_views_and_triggers_too(queue_file):
    assert {"results", "batches", "attempts", "progress"} == set(schema(queue_file, "view"))
    assert "prompts_get_a_state" in schema(queue_file, "trigger")


async def test_migrating_tells_where_it_began_and_where_it_ended(tmp_path):
    async with opened(tmp_path / "queue.db") as database:
        assert await current_revision(database) is None
        assert await migrate(database) == (None, newest_revision())
        assert await current_revision(database) == newest_revision()


async def test_migrating_twice_changes_nothing(queue_file, database):
    before = schema(queue_file, "table", "index", "view", "trigger")
    assert await migrate(database) == (newest_revision(), newest_revision())
    assert schema(queue_file, "table", "index", "view", "trigger") == before


async def test_migrators_at_once_do_no_harm(tmp_path):
    for number in range(10):
        path = tmp_path / f"queue-{number}.db"
        async with opened(path) as one, opened(path) as other, opened(path) as third:
            done = await asyncio.gather(migrate(one), migrate(other), migrate(third))
            assert {after for _before, after in done} == {newest_revision()}
        assert "results" in schema(path, "view")


async def test_a_migration_that_breaks_leaves_the_database_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "queue.db"
    async with opened(path) as database:
        await database.write(lambda c: c.exec_driver_sql("CREATE VIEW progress AS SELECT 1"))
        before = schema(path, "table", "index", "view", "trigger")
        with pytest.raises(StoreUnavailable, match="progress"):
            await migrate(database)
        assert schema(path, "table", "index", "view", "trigger") == before
        assert await current_revision(database) is None


async def test_a_database_of_a_newer_version_is_left_alone(user, database):
    user.run("UPDATE alembic_version SET version_num = '9999'")
    for attempt in (migrate, require_current):
        with pytest.raises(SchemaMismatch, match="9999, which this version does not know: install a newer"):
            await attempt(database)


async def test_reading_asks_for_a_migration_where_one_is_due(tmp_path, database):
    await require_current(database)
    async with opened(tmp_path / "missing.db") as missing:
        with pytest.raises(StoreUnavailable, match="does not exist: run `orchestrator migrate` or `run` first"):
            await require_current(missing)
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "empty.db").touch()
    async with opened(tmp_path / "empty.db") as empty:
        with pytest.raises(SchemaMismatch, match=r"revision none, not .*: run `orchestrator migrate`"):
            await require_current(empty)


async def test_a_new_file_has_the_measured_settings(queue_file, database):
    async def ask(connection):
        names = ("page_size", "auto_vacuum", "journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return {name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one() for name in names}

    expected = {"page_size": 8192, "auto_vacuum": 2, "journal_mode": "wal", "synchronous": 2}
    expected |= {"foreign_keys": 1, "busy_timeout": 30_000}
    assert await database.write(ask) == await database.read(ask) == expected


def test_a_new_file_is_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "queue.db"
    make_private_file(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_files_beside_a_private_one_are_private_too(tmp_path):
    path = tmp_path / "queue.db"
    make_private_file(str(path))
    async with opened(path) as database:
        await migrate(database)
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_an_existing_file_keeps_its_mode_and_its_bytes(tmp_path):
    path = tmp_path / "queue.db"
    path.write_bytes(b"data")
    path.chmod(0o640)
    make_private_file(str(path))
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (0o640, b"data")


def test_a_path_that_cannot_be_made_is_named_with_the_setting(tmp_path):
    with pytest.raises(StoreUnavailable, match=r"no/queue\.db: No such file.*database\.url"):
        make_private_file(str(tmp_path / "no" / "queue.db"))


def test_the_files_of_the_migrations_are_named_by_their_revisions_in_order():
    scripts = ScriptDirectory(str(files("orchestrator.migrations"))).walk_revisions()
    assert revisions() == [script.revision for script in reversed(list(scripts))]
