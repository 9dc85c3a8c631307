"""A prompt's state tells since when it is sent as it stands; a row's id stands and brings no state of another row."""

from __future__ import annotations

import importlib

from alembic import op
from sqlalchemy import Column, Integer, text

revision = "0008"
down_revision = "0007"

SENT_COLUMNS = ("custom_id", "prompt", "system", "body", "model", "endpoint")
"""What an answer answers: not the provider and its window, whoever else was asked the same."""
NOW_MS = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
DUE_MS = f"coalesce(CAST((julianday(NEW.not_before) - 2440587.5) * 86400000 AS INTEGER), {NOW_MS})"
RAW_BYTES = " + ".join(f"coalesce(length(CAST(NEW.{column} AS BLOB)), 0)" for column in ("prompt", "system", "body"))

TRIGGERS = (
    # What is there of that number can only be of a row that `INSERT OR REPLACE` took away without its delete trigger.
    f"""
    CREATE TRIGGER prompts_get_a_state AFTER INSERT ON prompts BEGIN
        DELETE FROM replies WHERE prompt_id = NEW.id;
        DELETE FROM prompt_states WHERE prompt_id = NEW.id;
        INSERT INTO prompt_states (prompt_id, priority, due_at_ms, line_bytes)
        VALUES (NEW.id, NEW.priority, {DUE_MS}, {RAW_BYTES});
    END
    """,
    # A trigger of the column `id` does not see `SET rowid`.
    """
    CREATE TRIGGER prompts_keep_their_ids BEFORE UPDATE ON prompts WHEN NEW.id <> OLD.id BEGIN
        SELECT RAISE(ABORT, 'this prompt was sent as it stands: insert a new one instead');
    END
    """,
    f"""
    CREATE TRIGGER prompts_are_sent_anew AFTER UPDATE OF {", ".join(SENT_COLUMNS)} ON prompts
    WHEN {" OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in SENT_COLUMNS)} BEGIN
        UPDATE prompt_states SET sent_from_seq = replies WHERE prompt_id = NEW.id;
    END
    """,
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("LOCK TABLE prompts IN SHARE ROW EXCLUSIVE MODE")  # first, as an INSERT under way has done
    op.add_column("prompt_states", Column("sent_from_seq", Integer, nullable=False, server_default=text("0")))
    if op.get_bind().dialect.name == "postgresql":
        _upgrade_postgresql()
        return
    op.execute("DROP TRIGGER prompts_get_a_state")
    for trigger in TRIGGERS:
        op.execute(trigger)


def _upgrade_postgresql() -> None:
    queue = importlib.import_module("orchestrator.migrations.postgresql_queue")
    sets = "UPDATE prompt_states SET sent_from_seq = replies WHERE prompt_id = NEW.id; RETURN NULL;"
    changed = " OR ".join(f"NEW.{column} IS DISTINCT FROM OLD.{column}" for column in SENT_COLUMNS)
    op.execute(queue.OWN_SCHEMA)
    op.execute(queue.function("prompts_are_sent_anew", sets))
    op.execute(
        f"""
        CREATE TRIGGER prompts_are_sent_anew AFTER UPDATE OF {", ".join(SENT_COLUMNS)} ON prompts
        FOR EACH ROW WHEN ({changed}) EXECUTE FUNCTION prompts_are_sent_anew()
        """
    )
