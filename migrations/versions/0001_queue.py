"""The queue: user rows, their states, batches, replies, and the views people read."""

from __future__ import annotations

from alembic import op

from orchestrator.store.tables import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW_MS = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
LEGAL_MOVES = (
    "('queued', 'batched'), ('queued', 'failed'), ('batched', 'queued'), ('batched', 'failed'), ('batched', 'done'), "
    "('queued', 'done'), ('failed', 'done'), ('cancelled', 'done'), ('queued', 'cancelled'), ('failed', 'queued'), "
    "('cancelled', 'queued')"
)
SENT_COLUMNS = "id, custom_id, prompt, system, body, model, endpoint, completion_window, provider"
DUE_MS = f"coalesce(CAST((julianday(NEW.not_before) - 2440587.5) * 86400000 AS INTEGER), {NOW_MS})"
RAW_BYTES = " + ".join(f"coalesce(length(CAST(NEW.{column} AS BLOB)), 0)" for column in ("prompt", "system", "body"))

TRIGGERS = (
    f"""
    CREATE TRIGGER prompts_get_a_state AFTER INSERT ON prompts BEGIN
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
    CREATE TRIGGER prompts_are_admitted_anew AFTER UPDATE ON prompts BEGIN
        UPDATE prompt_states SET lane_id = NULL, priority = NEW.priority, waiting = 0, due_at_ms = {DUE_MS},
            line_bytes = {RAW_BYTES}
        WHERE prompt_id = NEW.id AND status = 'queued';
    END
    """,
    f"""
    CREATE TRIGGER prompt_states_move_legally BEFORE UPDATE OF status ON prompt_states
    WHEN NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (VALUES {LEGAL_MOVES}) BEGIN
        SELECT RAISE(ABORT, 'no such move: set queued to cancelled, or failed and cancelled to queued');
    END
    """,
    f"""
    CREATE TRIGGER prompt_states_start_anew AFTER UPDATE OF status ON prompt_states
    WHEN NEW.status = 'queued' AND OLD.status IN ('failed', 'cancelled') BEGIN
        UPDATE prompt_states SET lane_id = NULL, waiting = 0, due_at_ms = {NOW_MS}, forgiven = attempts, returns = 0,
            finished_at_ms = NULL
        WHERE prompt_id = NEW.prompt_id;
    END
    """,
    f"""
    CREATE TRIGGER prompt_states_note_their_cancelling AFTER UPDATE OF status ON prompt_states
    WHEN NEW.status = 'cancelled' AND OLD.status <> 'cancelled' BEGIN
        UPDATE prompt_states SET finished_at_ms = {NOW_MS} WHERE prompt_id = NEW.prompt_id;
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
    metadata.create_all(op.get_bind())
    for statement in (*TRIGGERS, *VIEWS):
        op.execute(statement)
