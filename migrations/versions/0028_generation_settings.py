"""What candidates were generated with, and the decisions in a snapshot.

Revision 0028
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.create_table(
        "generation_settings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("settings", JSONB(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generation_settings")),
    )
    # Null for candidates of earlier versions: their settings are unknown.
    op.add_column("candidates", sa.Column("settings_id", sa.Uuid()))
    op.create_foreign_key(
        op.f("fk_candidates_settings_id_generation_settings"),
        "candidates",
        "generation_settings",
        ["settings_id"],
        ["id"],
    )
    op.add_column("snapshots", sa.Column("decisions", JSONB()))


def downgrade() -> None:
    op.drop_column("snapshots", "decisions")
    op.drop_constraint(
        op.f("fk_candidates_settings_id_generation_settings"), "candidates", type_="foreignkey"
    )
    op.drop_column("candidates", "settings_id")
    op.drop_table("generation_settings")
