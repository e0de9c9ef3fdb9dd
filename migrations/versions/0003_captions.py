"""Captions that models write, and the runs they write them in.

Revision 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "caption_runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("background", sa.SmallInteger(), nullable=False),
        sa.Column("tokens", sa.SmallInteger(), nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("most", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("progress", JSONB, server_default="{}", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state in ('requested', 'running', 'finished', 'failed')", name=op.f("ck_caption_runs_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_caption_runs")),
    )
    op.create_table(
        "captions",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("sample_id", sa.UUID(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["sample_id"], ["samples.id"], name=op.f("fk_captions_sample_id_samples")),
        sa.ForeignKeyConstraint(["run_id"], ["caption_runs.id"], name=op.f("fk_captions_run_id_caption_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_captions")),
    )
    op.create_index(op.f("ix_captions_sample_id"), "captions", ["sample_id"])
    op.create_index(op.f("ix_captions_run_id"), "captions", ["run_id"])
    op.execute(
        "create trigger append_only before update or delete or truncate on captions "
        "for each statement execute function append_only()"
    )
    op.drop_constraint(op.f("ck_leases_purpose"), "leases")
    op.create_check_constraint(
        op.f("ck_leases_purpose"), "leases", "purpose in ('draw', 'review', 'train', 'caption')"
    )


def downgrade() -> None:
    op.execute("delete from leases where purpose = 'caption'")
    op.drop_constraint(op.f("ck_leases_purpose"), "leases")
    op.create_check_constraint(op.f("ck_leases_purpose"), "leases", "purpose in ('draw', 'review', 'train')")
    op.drop_table("captions")
    op.drop_table("caption_runs")
