"""What ended or went wrong of late is found by its time, so that nobody walks the whole queue to draw a status page."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("DROP INDEX prompt_states_ended")
    op.execute(
        "CREATE INDEX prompt_states_ended ON prompt_states (finished_at_ms, status) WHERE finished_at_ms IS NOT NULL"
    )
    op.execute("CREATE INDEX replies_with_fault ON replies (received_at_ms) WHERE fault IS NOT NULL")
