"""Where a queue lives, where it went and what it is being copied from: no daemon works on two copies of it."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for name in ("home", "moved_to", "copied_from"):
        op.add_column("queue_state", Column(name, Text))
