"""The view `batches` tells when a batch's files were deleted at the provider."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from alembic import op

if TYPE_CHECKING:
    from collections.abc import Callable

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        utc = importlib.import_module("orchestrator.migrations.postgresql_queue").utc
        op.execute(f"CREATE OR REPLACE {_view(utc)}")  # whoever may read it still may
        return
    op.execute("DROP VIEW batches")
    op.execute(f"CREATE {_view(_utc)}")


def _utc(column: str) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f', {column} / 1000.0, 'unixepoch')"


def _view(utc: Callable[[str], str]) -> str:
    return f"""
    VIEW batches AS
    SELECT b.id, b.key, l.provider, l.endpoint, nullif(l.model, '') AS model, l.completion_window, b.status,
        b.remote_status, b.remote_batch_id, b.input_file_id, b.output_file_id, b.error_file_id, b.lines,
        b.nbytes AS bytes, b.remote_total, b.remote_completed, b.remote_failed,
        b.lines_done + b.lines_failed + b.lines_resent AS lines_received, b.lines_done, b.lines_failed, b.lines_resent,
        b.duplicates, b.unreadable, {utc("b.created_at_ms")} AS created_at, {utc("b.uploaded_at_ms")} AS uploaded_at,
        {utc("b.submitted_at_ms")} AS submitted_at, {utc("b.polled_at_ms")} AS polled_at,
        {utc("b.ended_at_ms")} AS ended_at, {utc("b.settled_at_ms")} AS settled_at,
        CASE WHEN b.status = 'submitted' THEN {utc("b.next_try_at_ms")} END AS next_poll_at,
        b.last_error, {utc("b.last_error_at_ms")} AS last_error_at, {utc("b.files_deleted_at_ms")} AS files_deleted_at
    FROM batch_states b JOIN lanes l ON l.id = b.lane_id
    """
