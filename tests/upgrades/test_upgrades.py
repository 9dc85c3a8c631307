"""A database of each released revision, left in mid-flight, goes on with this program to a complete end, paid once."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from remembered import repeat
from rig import Clock, open_rig

from orchestrator.core.model import BatchStatus, PromptStatus
from orchestrator.daemon import prepare
from orchestrator.store.schema import newest_revision

HERE = Path(__file__).parent
FIXTURES = HERE / "fixtures"
REVISIONS = sorted(path.stem for path in FIXTURES.glob("*.sql"))
MIGRATIONS = HERE.parent.parent / "migrations" / "versions"
SANDBOX = {"slow_seconds": 300.0}


def restored(revision, path):
    """The database of a fixture, in a file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((FIXTURES / f"{revision}.sql").read_text())
    return path


@contextlib.asynccontextmanager
async def revived(revision, folder, **settings):
    """A rig on a fixture, at the moment of the kill, before a provider that knows what it knew then."""
    clock = Clock()
    async with open_rig(restored(revision, folder / "queue.db"), clock, sandbox=SANDBOX, **settings) as rig:
        await repeat((FIXTURES / f"{revision}.remote.jsonl").read_text(), rig.sandbox, clock)
        yield rig


def expected(custom_id):
    """A fixture's prompts are named for their end."""
    return custom_id.partition("-")[0]


def test_every_revision_has_a_fixture():
    migrations = {path.name.partition("_")[0] for path in MIGRATIONS.glob("[0-9]*.py")}
    assert set(REVISIONS) == migrations, "run tests/upgrades/make_fixture.py and commit what it writes"
    assert newest_revision() in REVISIONS


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_fixture_holds_batches_and_prompts_at_every_step(revision, tmp_path):
    with contextlib.closing(sqlite3.connect(restored(revision, tmp_path / "queue.db"))) as connection:
        batches = {status for (status,) in connection.execute("SELECT status FROM batch_states")}
        prompts = {status for (status,) in connection.execute("SELECT status FROM prompt_states")}
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert version == revision
    assert batches == {*BatchStatus}
    assert prompts == {*PromptStatus}


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_database_of_that_revision_goes_on_to_a_complete_end_paid_once(revision, quick_folder, monkeypatch):
    monkeypatch.setenv("DOUBLEWORD_API_KEY", "sk-of-the-test")
    async with revived(revision, quick_folder) as rig:
        before = rig.results()
        await prepare(rig.context)
        assert rig.value("SELECT version_num FROM alembic_version") == newest_revision()
        for custom_id, row in before.items():
            assert tuple(rig.result(custom_id)) == tuple(row)
        await rig.until_idle()
        assert rig.statuses() == {custom_id: expected(custom_id) for custom_id in before}
        done = {custom_id for custom_id, status in rig.statuses().items() if status == "done"}
        assert rig.ledger.successes == dict.fromkeys(done, 1)
        kept = [batch.metadata["orchestrator_key"] for batch in rig.ledger.batches if not batch.deleted]
        assert len(kept) == len(set(kept))
