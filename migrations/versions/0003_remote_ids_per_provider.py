"""Two providers may give their batches the same id: it is no longer unique. SQLite rebuilds a table for that."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

UNIQUE = "CONSTRAINT batch_states_remote_batch_id UNIQUE (remote_batch_id)"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE batch_states DROP CONSTRAINT batch_states_remote_batch_id")
        op.execute("CREATE INDEX batch_states_remote ON batch_states (remote_batch_id)")
        return
    table, active, view = (_definition(name) for name in ("batch_states", "batch_states_active", "batches"))
    head, _, tail = table.partition(UNIQUE)
    rebuilt = head.rstrip().rstrip(",").replace("batch_states", "rebuilt_states", 1) + tail
    for statement in (
        "DROP VIEW batches",
        rebuilt,
        "INSERT INTO rebuilt_states SELECT * FROM batch_states",
        # An id is never given twice, not even that of a batch which is no longer there.
        "DELETE FROM sqlite_sequence WHERE name = 'rebuilt_states'",
        "INSERT INTO sqlite_sequence SELECT 'rebuilt_states', seq FROM sqlite_sequence WHERE name = 'batch_states'",
        "DROP TABLE batch_states",
        "ALTER TABLE rebuilt_states RENAME TO batch_states",
        active,
        "CREATE INDEX batch_states_remote ON batch_states (remote_batch_id)",
        view,
    ):
        op.execute(statement)


def _definition(name: str) -> str:
    found = op.get_bind().exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (name,))
    return str(found.scalar_one())
