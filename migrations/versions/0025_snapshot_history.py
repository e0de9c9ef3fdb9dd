"""A snapshot's query, parent, review statistics and notes.

Revision 0025
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("query", JSONB()))
    op.add_column("snapshots", sa.Column("parent_id", sa.String(64)))
    op.add_column("snapshots", sa.Column("review", JSONB()))
    op.create_foreign_key(
        op.f("fk_snapshots_parent_id_snapshots"), "snapshots", "snapshots", ["parent_id"], ["id"]
    )
    op.create_table(
        "snapshot_notes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("snapshot_id", sa.String(64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["snapshots.id"],
            name=op.f("fk_snapshot_notes_snapshot_id_snapshots"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot_notes")),
    )
    op.create_index(
        op.f("ix_snapshot_notes_snapshot_id"), "snapshot_notes", ["snapshot_id"]
    )


def downgrade() -> None:
    op.drop_table("snapshot_notes")
    op.drop_constraint(op.f("fk_snapshots_parent_id_snapshots"), "snapshots", type_="foreignkey")
    for column in ("review", "parent_id", "query"):
        op.drop_column("snapshots", column)
