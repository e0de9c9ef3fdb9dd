"""Identities of reviewers at an identity provider, and the sign-out URLs of sessions.

Revision 0026
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.create_table(
        "reviewer_identities",
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("reviewer_id", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_reviewer_identities")),
        sa.ForeignKeyConstraint(
            ["reviewer_id"], ["reviewers.id"], name=op.f("fk_reviewer_identities_reviewer_id_reviewers")
        ),
    )
    op.add_column("sessions", sa.Column("sign_out_url", sa.Text))


def downgrade() -> None:
    op.drop_column("sessions", "sign_out_url")
    op.drop_table("reviewer_identities")
