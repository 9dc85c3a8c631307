"""For deleting by age and restoring backups: the order of ending, files at the provider, the queue's own name."""

from __future__ import annotations

import secrets

from alembic import op
from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, MetaData, Table, Text, text

revision = "0004"
down_revision = "0003"

CLOSED = "status IN ('settled', 'discarded')"
WITH_FILES = f"{CLOSED} AND files_deleted_at_ms IS NULL"
ENDED = "finished_at_ms IS NOT NULL"

metadata = MetaData(naming_convention={"ck": "%(table_name)s_%(constraint_name)s"})
queue_state = Table(
    "queue_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("backed_up_at_ms", BigInteger),
    Column("looks", Integer, nullable=False, server_default=text("0")),
    Column("look_at_ms", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("id = 1", name="there_is_one"),
)
chores = Table(
    "chores",
    metadata,
    Column("name", Text, primary_key=True),
    Column("lease_owner", Text, nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False),
)
pruned_counts = Table(
    "pruned_counts",
    metadata,
    Column("status", Text, primary_key=True),
    Column("prompts", BigInteger, nullable=False, server_default=text("0")),
    Column("prompt_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("completion_tokens", BigInteger, nullable=False, server_default=text("0")),
)

prompt_states = Table("prompt_states", MetaData(), Column("finished_at_ms", BigInteger))
batch_states = Table("batch_states", MetaData(), Column("created_at_ms", BigInteger))
INDEXES = (
    Index(
        "prompt_states_ended", prompt_states.c.finished_at_ms, sqlite_where=text(ENDED), postgresql_where=text(ENDED)
    ),
    Index(
        "batch_states_closed", batch_states.c.created_at_ms, sqlite_where=text(CLOSED), postgresql_where=text(CLOSED)
    ),
    Index(
        "batch_states_with_files",
        batch_states.c.created_at_ms,
        sqlite_where=text(WITH_FILES),
        postgresql_where=text(WITH_FILES),
    ),
)


def upgrade() -> None:
    op.add_column("batch_states", Column("files_deleted_at_ms", BigInteger))
    metadata.create_all(op.get_bind())
    for index in INDEXES:
        index.create(op.get_bind())
    op.bulk_insert(queue_state, [{"id": 1, "name": secrets.token_hex(4)}])
    op.bulk_insert(pruned_counts, [{"status": status} for status in ("done", "failed", "cancelled")])
