"""Presets with changed numbers, and imported checkpoints, which no snapshot made.

Revision 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.alter_column("checkpoints", "snapshot_id", nullable=True)
    for table in ("checkpoints", "training_runs"):
        op.add_column(table, sa.Column("changes", JSONB, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.execute("delete from checkpoints where snapshot_id is null")
    for table in ("checkpoints", "training_runs"):
        op.drop_column(table, "changes")
    op.alter_column("checkpoints", "snapshot_id", nullable=False)
