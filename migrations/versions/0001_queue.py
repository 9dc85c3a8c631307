"""The queue: user rows, their states, batches, replies, and the views people read.

The tables stand here as they were at this revision; `orchestrator/store/tables.py` holds them as they are now.
"""

from __future__ import annotations

import importlib

from alembic import op
from sqlalchemy import (
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
    text,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

metadata = MetaData(
    naming_convention={"ck": "%(table_name)s_%(constraint_name)s", "uq": "%(table_name)s_%(column_0_N_name)s"}
)
Key = BigInteger().with_variant(Integer, "sqlite")

PROMPT_STATUSES = "'queued', 'batched', 'done', 'failed', 'cancelled'"
BATCH_STATUSES = (
    "'packing', 'sealed', 'uploading', 'uploaded', 'creating', 'submitted', 'replacing', 'ended', 'settled', "
    "'discarded'"
)
READY = "status = 'queued' AND waiting = 0 AND lane_id IS NOT NULL"
UNADMITTED = "status = 'queued' AND lane_id IS NULL"
WAITING = "status = 'queued' AND waiting = 1"
BATCHED = "status = 'batched'"
ACTIVE = "status NOT IN ('settled', 'discarded')"

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
        Text,
        nullable=False,
        unique=True,
        server_default=text(CUSTOM_ID_DEFAULT),
        sqlite_on_conflict_not_null="REPLACE",
    ),
    Column("model", Text),
    Column("endpoint", Text, server_default=text("'/v1/chat/completions'")),
    Column("completion_window", Text),
    Column("provider", Text),
    Column("priority", Integer, nullable=False, server_default=text("0"), sqlite_on_conflict_not_null="REPLACE"),
    Column("not_before", Text),
    Column("tag", Text),
    Column("created_at", Text, nullable=False, server_default=text(NOW_TEXT), sqlite_on_conflict_not_null="REPLACE"),
    Column("metadata", Text),
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
    Column("lane_id", Integer),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("due_at_ms", BigInteger, nullable=False),
    Column("waiting", Integer, nullable=False, server_default=text("0")),
    Column("line_bytes", Integer, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("returns", Integer, nullable=False, server_default=text("0")),
    Column("forgiven", Integer, nullable=False, server_default=text("0")),
    Column("replies", Integer, nullable=False, server_default=text("0")),
    Column("cancelling", Integer, nullable=False, server_default=text("0")),
    Column("batch_id", Integer),
    Column("model", Text),
    Column("finished_at_ms", BigInteger),
    CheckConstraint(f"status IN ({PROMPT_STATUSES})", name="status_is_known"),
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

batch_states = Table(
    "batch_states",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),
    Column("lane_id", Integer, nullable=False),
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
    Column("remote_batch_id", Text, unique=True),
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
    CheckConstraint(f"status IN ({BATCH_STATUSES})", name="status_is_known"),
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

replies = Table(
    "replies",
    metadata,
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("prompt_id", Integer),
    Column("seq", Integer),
    Column("batch_id", Integer),
    Column("attempt", Integer),
    Column("fault", Text),
    Column("status_code", Integer),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("finish_reason", Text),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("model", Text),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("answer", Text),
    Column("response", Text),
    Column("raw", LargeBinary),
    UniqueConstraint("prompt_id", "seq"),
)

Index("replies_of_batch", replies.c.batch_id, replies.c.fault)

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
    Column("max_lines", Integer),
    CheckConstraint("paused_by IN ('call', 'line')", name="paused_by_is_known"),
)

NOW_MS = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
LEGAL_MOVES = (
    "queued>batched queued>failed batched>queued batched>failed batched>done queued>done failed>done cancelled>done "
    "queued>cancelled batched>cancelled failed>queued cancelled>queued"
)
SENT_COLUMNS = "id, custom_id, prompt, system, body, model, endpoint, completion_window, provider"
DUE_MS = f"coalesce(CAST((julianday(NEW.not_before) - 2440587.5) * 86400000 AS INTEGER), {NOW_MS})"
RAW_BYTES = " + ".join(f"coalesce(length(CAST(NEW.{column} AS BLOB)), 0)" for column in ("prompt", "system", "body"))

TRIGGERS = (
    # Replies of that number can only be those of a row that `INSERT OR REPLACE` took away without its delete trigger.
    f"""
    CREATE TRIGGER prompts_get_a_state AFTER INSERT ON prompts BEGIN
        DELETE FROM replies WHERE prompt_id = NEW.id;
        INSERT INTO prompt_states (prompt_id, priority, due_at_ms, line_bytes)
        VALUES (NEW.id, NEW.priority, {DUE_MS}, {RAW_BYTES});
    END
    """,
    """
    CREATE TRIGGER prompts_in_a_batch_stay BEFORE DELETE ON prompts
    WHEN (SELECT status FROM prompt_states WHERE prompt_id = OLD.id) = 'batched' BEGIN
        SELECT RAISE(ABORT, 'this prompt is in a batch and may be paid for: delete it when it has ended');
    END
    """,
    """
    CREATE TRIGGER prompts_take_their_state_along AFTER DELETE ON prompts BEGIN
        DELETE FROM replies WHERE prompt_id = OLD.id;
        DELETE FROM prompt_states WHERE prompt_id = OLD.id;
    END
    """,
    f"""
    CREATE TRIGGER prompts_in_a_batch_stand BEFORE UPDATE OF {SENT_COLUMNS} ON prompts
    WHEN (SELECT status FROM prompt_states WHERE prompt_id = OLD.id) IN ('batched', 'done') OR NEW.id <> OLD.id BEGIN
        SELECT RAISE(ABORT, 'this prompt was sent as it stands: insert a new one instead');
    END
    """,
    f"""
    CREATE TRIGGER prompts_are_admitted_anew AFTER UPDATE OF {SENT_COLUMNS}, priority, not_before ON prompts BEGIN
        UPDATE prompt_states SET priority = NEW.priority WHERE prompt_id = NEW.id;
        UPDATE prompt_states SET lane_id = NULL, waiting = 0, due_at_ms = {DUE_MS}, line_bytes = {RAW_BYTES}
        WHERE prompt_id = NEW.id AND status NOT IN ('batched', 'done');
    END
    """,
    # One call of instr(): a list to search would be built anew for each row.
    f"""
    CREATE TRIGGER prompt_states_move_legally BEFORE UPDATE OF status ON prompt_states
    WHEN NEW.status <> OLD.status
        AND instr(' {LEGAL_MOVES} ', ' ' || OLD.status || '>' || NEW.status || ' ') = 0 BEGIN
        SELECT RAISE(ABORT, 'no such move: set queued to cancelled, or failed and cancelled to queued');
    END
    """,
    f"""
    CREATE TRIGGER prompt_states_follow_their_user AFTER UPDATE OF status ON prompt_states
    WHEN OLD.status <> 'batched' AND NEW.status <> OLD.status AND NEW.status IN ('queued', 'cancelled') BEGIN
        UPDATE prompt_states SET lane_id = NULL, waiting = 0, forgiven = attempts, returns = 0, cancelling = 0,
            due_at_ms = max({NOW_MS}, coalesce((
                SELECT CAST((julianday(not_before) - 2440587.5) * 86400000 AS INTEGER) FROM prompts
                WHERE id = NEW.prompt_id
            ), 0)),
            finished_at_ms = CASE status WHEN 'cancelled' THEN {NOW_MS} END
        WHERE prompt_id = NEW.prompt_id;
    END
    """,
)


def utc(column: str) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f', {column} / 1000.0, 'unixepoch')"


VIEWS = (
    f"""
    CREATE VIEW results AS
    SELECT p.id, p.custom_id, p.tag, s.status, r.answer, r.response, r.finish_reason, r.status_code, r.fault,
        r.error_code, r.error_message, s.attempts, coalesce(r.model, s.model, p.model) AS model, r.prompt_tokens,
        r.completion_tokens, coalesce(s.batch_id, r.batch_id) AS batch_id, p.created_at,
        {utc("s.finished_at_ms")} AS finished_at, p.metadata
    FROM prompts p
    JOIN prompt_states s ON s.prompt_id = p.id
    LEFT JOIN replies r ON r.prompt_id = s.prompt_id AND r.seq = s.replies
    """,
    f"""
    CREATE VIEW batches AS
    SELECT b.id, b.key, l.provider, l.endpoint, nullif(l.model, '') AS model, l.completion_window, b.status,
        b.remote_status, b.remote_batch_id, b.input_file_id, b.output_file_id, b.error_file_id, b.lines,
        b.nbytes AS bytes, b.remote_total, b.remote_completed, b.remote_failed,
        b.lines_done + b.lines_failed + b.lines_resent AS lines_received, b.lines_done, b.lines_failed, b.lines_resent,
        b.duplicates, b.unreadable, {utc("b.created_at_ms")} AS created_at, {utc("b.uploaded_at_ms")} AS uploaded_at,
        {utc("b.submitted_at_ms")} AS submitted_at, {utc("b.polled_at_ms")} AS polled_at,
        {utc("b.ended_at_ms")} AS ended_at, {utc("b.settled_at_ms")} AS settled_at,
        CASE WHEN b.status = 'submitted' THEN {utc("b.next_try_at_ms")} END AS next_poll_at,
        b.last_error, {utc("b.last_error_at_ms")} AS last_error_at
    FROM batch_states b JOIN lanes l ON l.id = b.lane_id
    """,
    f"""
    CREATE VIEW attempts AS
    SELECT r.id, r.prompt_id, p.custom_id, r.seq, r.attempt, r.batch_id, r.fault, r.status_code, r.error_code,
        r.error_message, {utc("r.received_at_ms")} AS received_at, r.raw
    FROM replies r LEFT JOIN prompts p ON p.id = r.prompt_id
    """,
    """
    CREATE VIEW progress AS
    SELECT p.tag, s.status, count(*) AS prompts, sum(r.prompt_tokens) AS prompt_tokens,
        sum(r.completion_tokens) AS completion_tokens
    FROM prompts p
    JOIN prompt_states s ON s.prompt_id = p.id
    LEFT JOIN replies r ON r.prompt_id = s.prompt_id AND r.seq = s.replies
    GROUP BY p.tag, s.status
    """,
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        importlib.import_module("orchestrator.migrations.postgresql_queue").make(op.get_bind(), LEGAL_MOVES)
        return
    metadata.create_all(op.get_bind())
    for statement in (*TRIGGERS, *VIEWS):
        op.execute(statement)
