"""The tables. `prompts` belongs to the user, all others to the daemon; views and triggers stand in the migrations.

Times that users write or read are text (SQLite) or timestamps; times the daemon computes with are Unix milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.core.model import BatchStatus, PromptStatus
from orchestrator.core.states import BATCH_ENDS

if TYPE_CHECKING:
    from collections.abc import Iterable

metadata = MetaData(
    naming_convention={"ck": "%(table_name)s_%(constraint_name)s", "uq": "%(table_name)s_%(column_0_N_name)s"}
)

Key = BigInteger().with_variant(Integer, "sqlite")
"""SQLite's own integers are as wide."""
Name = Text().with_variant(Text(collation="C"), "postgresql")
"""Compared by its bytes, as in SQLite."""
Instant = Text().with_variant(TIMESTAMP(timezone=True), "postgresql")
Json = Text().with_variant(JSONB(), "postgresql")


def quoted(words: Iterable[str]) -> str:
    """SQL list of string literals: `'a', 'b'`. The words are our own."""
    return ", ".join(f"'{word}'" for word in words)


READY = "status = 'queued' AND waiting = 0 AND lane_id IS NOT NULL"
UNADMITTED = "status = 'queued' AND lane_id IS NULL"
WAITING = "status = 'queued' AND waiting = 1"
BATCHED = "status = 'batched'"
ENDED = "finished_at_ms IS NOT NULL"
ACTIVE = f"status NOT IN ({quoted(BATCH_ENDS)})"
CLOSED = f"status IN ({quoted(BATCH_ENDS)})"
WITH_FILES = f"{CLOSED} AND files_deleted_at_ms IS NULL"

CUSTOM_ID_DEFAULT = (
    "(printf('p-%011x-', CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)) || lower(hex(randomblob(8))))"
)
NOW_TEXT = "(strftime('%Y-%m-%d %H:%M:%f', 'now'))"

prompts = Table(
    "prompts",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column(
        "custom_id",
        Name,
        nullable=False,
        unique=True,
        server_default=text(CUSTOM_ID_DEFAULT),
        sqlite_on_conflict_not_null="REPLACE",
    ),
    Column("model", Text),
    Column("endpoint", Text, server_default=text("'/v1/chat/completions'")),
    Column("completion_window", Text),
    Column("provider", Text),
    Column("priority", Key, nullable=False, server_default=text("0"), sqlite_on_conflict_not_null="REPLACE"),
    Column("not_before", Instant),
    Column("tag", Name),
    Column("created_at", Instant, nullable=False, server_default=text(NOW_TEXT), sqlite_on_conflict_not_null="REPLACE"),
    Column("metadata", Json),
    # The large columns stand last, so that reading the others does not walk their overflow pages.
    Column("system", Text),
    Column("prompt", Text),
    Column("body", Text),
    CheckConstraint("prompt IS NOT NULL OR body IS NOT NULL", name="needs_prompt_or_body"),
    CheckConstraint(
        "length(CAST(custom_id AS BLOB)) BETWEEN 1 AND 64"
        " AND length(custom_id) = length(CAST(custom_id AS BLOB)) AND custom_id NOT GLOB '*[^ -~]*'",
        name="custom_id_is_1_to_64_printable_ascii",
    ),
    sqlite_autoincrement=True,
    sqlite_strict=True,
)

lanes = Table(
    "lanes",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("provider", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("packed_at_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("held_until_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("holds", Integer, nullable=False, server_default=text("0")),
    Column("max_bytes", BigInteger),
    UniqueConstraint("provider", "endpoint", "completion_window", "model"),
)

prompt_states = Table(
    "prompt_states",
    metadata,
    Column("prompt_id", Key, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False, server_default=text("'queued'")),
    Column("lane_id", Key),
    Column("priority", Key, nullable=False, server_default=text("0")),
    Column("due_at_ms", BigInteger, nullable=False),
    Column("waiting", Integer, nullable=False, server_default=text("0")),
    Column("line_bytes", Integer, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("returns", Integer, nullable=False, server_default=text("0")),
    Column("forgiven", Integer, nullable=False, server_default=text("0")),
    Column("replies", Integer, nullable=False, server_default=text("0")),
    Column("cancelling", Integer, nullable=False, server_default=text("0")),
    Column("batch_id", Key),
    Column("model", Text),
    Column("finished_at_ms", BigInteger),
    # How many replies there were when what is sent changed last: only later ones, and their batches, are of this text.
    Column("sent_from_seq", Integer, nullable=False, server_default=text("0")),
    CheckConstraint(f"status IN ({quoted(PromptStatus)})", name="status_is_known"),
    CheckConstraint("(status = 'batched') = (batch_id IS NOT NULL)", name="batched_has_batch"),
)
Index(
    "prompt_states_unadmitted",
    prompt_states.c.prompt_id,
    sqlite_where=text(UNADMITTED),
    postgresql_where=text(UNADMITTED),
)
Index(
    "prompt_states_ready",
    prompt_states.c.lane_id,
    prompt_states.c.priority.desc(),
    prompt_states.c.prompt_id,
    prompt_states.c.line_bytes,
    prompt_states.c.due_at_ms,
    sqlite_where=text(READY),
    postgresql_where=text(READY),
)
Index("prompt_states_waiting", prompt_states.c.due_at_ms, sqlite_where=text(WAITING), postgresql_where=text(WAITING))
Index(
    "prompt_states_batched",
    prompt_states.c.batch_id,
    prompt_states.c.prompt_id,
    prompt_states.c.line_bytes,
    sqlite_where=text(BATCHED),
    postgresql_where=text(BATCHED),
)
Index(
    "prompt_states_ended",
    prompt_states.c.finished_at_ms,
    prompt_states.c.status,
    sqlite_where=text(ENDED),
    postgresql_where=text(ENDED),
)

batch_states = Table(
    "batch_states",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),
    Column("lane_id", Key, nullable=False),
    Column("status", Text, nullable=False),
    Column("lines", Integer, nullable=False, server_default=text("0")),
    Column("nbytes", BigInteger, nullable=False, server_default=text("0")),
    Column("lease_owner", Text),
    Column("lease_until_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("fence", Integer, nullable=False, server_default=text("0")),
    Column("next_try_at_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("empty_looks", Integer, nullable=False, server_default=text("0")),
    Column("input_file_id", Text),
    Column("remote_batch_id", Text),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("remote_status", Text),
    Column("remote_total", BigInteger),
    Column("remote_completed", BigInteger),
    Column("remote_failed", BigInteger),
    Column("remote_errors", Text),
    Column("remote_expires_at_ms", BigInteger),
    Column("abandoned_remote_ids", Text, nullable=False, server_default=text("''")),
    Column("output_cursor", Integer, nullable=False, server_default=text("0")),
    Column("error_cursor", Integer, nullable=False, server_default=text("0")),
    Column("output_first", Text),
    Column("error_first", Text),
    Column("cancel_requested", Boolean(create_constraint=False), nullable=False, server_default=text("0")),
    Column("collect_due", Boolean(create_constraint=False), nullable=False, server_default=text("0")),
    Column("reread", Boolean(create_constraint=False), nullable=False, server_default=text("0")),
    Column("reread_news", Integer, nullable=False, server_default=text("0")),
    Column("rereads", Integer, nullable=False, server_default=text("0")),
    Column("lines_done", Integer, nullable=False, server_default=text("0")),
    Column("lines_failed", Integer, nullable=False, server_default=text("0")),
    Column("lines_resent", Integer, nullable=False, server_default=text("0")),
    Column("duplicates", Integer, nullable=False, server_default=text("0")),
    Column("unreadable", Integer, nullable=False, server_default=text("0")),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("uploaded_at_ms", BigInteger),
    Column("submitted_at_ms", BigInteger),
    Column("polled_at_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
    Column("settled_at_ms", BigInteger),
    Column("last_error", Text),
    Column("last_error_at_ms", BigInteger),
    Column("files_deleted_at_ms", BigInteger),
    CheckConstraint(f"status IN ({quoted(BatchStatus)})", name="status_is_known"),
    CheckConstraint("status <> 'submitted' OR remote_batch_id IS NOT NULL", name="submitted_has_remote_batch"),
    sqlite_autoincrement=True,
)
Index(
    "batch_states_active",
    batch_states.c.status,
    batch_states.c.next_try_at_ms,
    sqlite_where=text(ACTIVE),
    postgresql_where=text(ACTIVE),
)
Index("batch_states_closed", batch_states.c.created_at_ms, sqlite_where=text(CLOSED), postgresql_where=text(CLOSED))
Index(
    "batch_states_with_files",
    batch_states.c.created_at_ms,
    sqlite_where=text(WITH_FILES),
    postgresql_where=text(WITH_FILES),
)
Index("batch_states_remote", batch_states.c.remote_batch_id)

replies = Table(
    "replies",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("prompt_id", Key),
    Column("seq", Integer),
    Column("batch_id", Key),
    Column("attempt", Integer),
    Column("fault", Text),
    Column("status_code", Key),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("finish_reason", Text),
    Column("prompt_tokens", Key),
    Column("completion_tokens", Key),
    Column("model", Text),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("answer", Text),
    Column("response", Text),
    Column("raw", LargeBinary),
    UniqueConstraint("prompt_id", "seq"),
)

Index("replies_of_batch", replies.c.batch_id, replies.c.fault)
Index(
    "replies_with_fault",
    replies.c.received_at_ms,
    sqlite_where=text("fault IS NOT NULL"),
    postgresql_where=text("fault IS NOT NULL"),
)

provider_states = Table(
    "provider_states",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused_at_ms", BigInteger),
    Column("resume_at_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("pauses", Integer, nullable=False, server_default=text("0")),
    Column("pause_reason", Text),
    Column("paused_by", Text),
    Column("max_file_bytes", BigInteger),
    Column("max_lines", Key),
    CheckConstraint("paused_by IN ('call', 'line')", name="paused_by_is_known"),
)

# One row: `name` stands in the key of every batch of this queue; `backed_up_at_ms` is set in a backup alone. `home` is
# the PostgreSQL database whose daemons work on it; `moved_to` where it went, `copied_from` what it is copied from yet.
queue_state = Table(
    "queue_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("backed_up_at_ms", BigInteger),
    Column("looks", Integer, nullable=False, server_default=text("0")),
    Column("look_at_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("home", Text),
    Column("moved_to", Text),
    Column("copied_from", Text),
    CheckConstraint("id = 1", name="there_is_one"),
)

chores = Table(
    "chores",
    metadata,
    Column("name", Text, primary_key=True),
    Column("lease_owner", Text, nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False),
)

# How many prompts were deleted for their age, by the status they had, and the tokens of their last replies.
pruned_counts = Table(
    "pruned_counts",
    metadata,
    Column("status", Text, primary_key=True),
    Column("prompts", BigInteger, nullable=False, server_default=text("0")),
    Column("prompt_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("completion_tokens", BigInteger, nullable=False, server_default=text("0")),
)

LAST_REPLY = and_(replies.c.prompt_id == prompt_states.c.prompt_id, replies.c.seq == prompt_states.c.replies)
"""Joins a prompt's state with what was said of it last, where there is anything."""
