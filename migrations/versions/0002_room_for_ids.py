"""A row's id leaves room for those after it: behind the largest one there is, SQLite gives no more ("disk is full")."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

LARGEST_ID = 1 << 62


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        return  # ids are given by the table
    op.execute(
        f"""
        CREATE TRIGGER prompts_leave_room_for_ids BEFORE INSERT ON prompts WHEN NEW.id > {LARGEST_ID} BEGIN
            SELECT RAISE(ABORT, 'this id leaves no room for later ones: leave it out, and one is given');
        END
        """
    )
