"""What retention deleted: kept aside, so that at the end the promises can be checked on all that ever was."""

import contextlib
from collections import Counter
from functools import partial

DAY_SECONDS = 120.0
"""How long a day of `retention.finished_days` is in here."""


def bring_back(world):
    """Undo every deletion but the users' own, once nobody works on the queue any more."""
    with contextlib.closing(world.disk.open()) as connection:
        world.disk.disarm(connection)
        for name in [name for name, asked in world.asked.items() if asked.deleted]:
            theirs = "(SELECT id FROM pruned_prompts WHERE custom_id = ?)"
            connection.execute(f"DELETE FROM pruned_prompt_states WHERE prompt_id IN {theirs}", (name,))
            connection.execute("DELETE FROM pruned_prompts WHERE custom_id = ?", (name,))
        ours = "prompt_id IN (SELECT id FROM pruned_prompts)"
        insert = partial(_insert, connection, world.disk.given_ids)
        insert("batch_states")
        insert("prompts")
        insert("prompt_states", ours)
        insert("replies", f"prompt_id IS NULL OR {ours}", without="id")


def _insert(connection, given_ids, table, condition="true", without=None):
    """`without` is a column that may have been given anew since."""
    columns = [column[0] for column in connection.execute(f"SELECT * FROM {table} LIMIT 0").description]
    names = ", ".join(name for name in columns if name != without)
    kept = f"SELECT {names} FROM pruned_{table} WHERE {condition}"
    connection.execute(f"INSERT INTO {table} ({names}) {given_ids} {kept}")


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
