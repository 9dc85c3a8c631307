"""What retention deleted: kept aside, so that at the end the promises can be checked on all that ever was."""

import contextlib
from collections import Counter

DAY_SECONDS = 600.0
"""How long a day of `retention.finished_days` is in here."""
TABLES = ("prompts", "prompt_states", "replies", "batch_states")
NOW_MS = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
KEEPING = "".join(
    f"""
    CREATE TABLE pruned_{table} AS SELECT *, 0 AS pruned_at_ms FROM {table} WHERE 0;
    CREATE TRIGGER keep_{table} BEFORE DELETE ON {table} BEGIN
        INSERT INTO pruned_{table} SELECT *, {NOW_MS} FROM {table} WHERE rowid = OLD.rowid;
    END;
    """
    for table in TABLES
)


def bring_back(world):
    """Undo every deletion but the users' own, once nobody works on the queue any more."""
    with contextlib.closing(world.disk.open(world.path)) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        for name in [name for name, asked in world.asked.items() if asked.deleted]:
            theirs = "(SELECT id FROM pruned_prompts WHERE custom_id = ?)"
            connection.execute(f"DELETE FROM pruned_prompt_states WHERE prompt_id IN {theirs}", (name,))
            connection.execute("DELETE FROM pruned_prompts WHERE custom_id = ?", (name,))
        ours = "prompt_id IN (SELECT id FROM pruned_prompts)"
        _insert(connection, "batch_states")
        _insert(connection, "prompts")
        _insert(connection, "prompt_states", ours)
        _insert(connection, "replies", f"prompt_id IS NULL OR {ours}", without="id")


def _insert(connection, table, condition="1", without=None):
    """`without` is a column that may have been given anew since."""
    columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
    names = ", ".join(name for name in columns if name != without)
    connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM pruned_{table} WHERE {condition}")


def only_what_ended_long_ago_is_pruned(world):
    days = world.config.retention.finished_days
    gone = world.rows(
        "SELECT p.custom_id, s.status, s.finished_at_ms, s.pruned_at_ms"
        " FROM pruned_prompt_states s LEFT JOIN pruned_prompts p ON p.id = s.prompt_id"
    )
    for row in gone:
        too_young = (row["finished_at_ms"] or 0) > row["pruned_at_ms"] - days * DAY_SECONDS * 1000
        ended = row["status"] in ("done", "failed", "cancelled")
        if row["custom_id"] is not None and (not days or too_young or not ended):
            yield row["custom_id"], f"it was pruned: {row}"
    # Of a row that was replaced only its state is left: pruned and counted if it had ended, else dropped at admission.
    ends = Counter(row["status"] for row in gone if row["status"] in ("done", "failed", "cancelled"))
    counted = dict(world.sql("SELECT status, prompts FROM pruned_counts WHERE prompts > 0"))
    if counted != ends:
        yield None, f"pruned are {dict(ends)}, counted {counted}"
    for row in world.rows("SELECT id, status, files_deleted_at_ms FROM pruned_batch_states"):
        files_left = world.config.retention.remote_files == "delete" and row["files_deleted_at_ms"] is None
        if files_left or row["status"] not in ("settled", "discarded"):
            yield None, f"batch {row['id']} was pruned: {row}"
    world.deeds.counts["prompts pruned"] += len(gone)
