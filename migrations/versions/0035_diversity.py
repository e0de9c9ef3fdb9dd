"""Embeddings of seeds, and what the guard of diversity did in a turn of a loop.

Revision 0035
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0035"
down_revision = "0033"


def upgrade() -> None:
    op.create_table(
        "sample_embeddings",
        sa.Column("sample_id", sa.Uuid(), primary_key=True),
        sa.Column("kind", sa.Text(), primary_key=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["samples.id"], name=op.f("fk_sample_embeddings_sample_id_samples")
        ),
        sa.PrimaryKeyConstraint("sample_id", "kind", name=op.f("pk_sample_embeddings")),
        sa.CheckConstraint("kind in ('single', 'pair')", name=op.f("ck_sample_embeddings_kind")),
    )
    op.add_column("loop_turns", sa.Column("guard", JSONB()))


def downgrade() -> None:
    op.drop_column("loop_turns", "guard")
    op.drop_table("sample_embeddings")
