"""Claims that outlive leases, and the page that uses a lease.

Whoever holds a candidate, or has decided one, has claimed it: their pages go on after the upgrade.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0009"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("leases", sa.Column("page", UUID))
    op.create_table(
        "claims",
        sa.Column("candidate_id", UUID, nullable=False),
        sa.Column("reviewer_id", sa.Integer, nullable=False),
        sa.Column("unfinished", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("candidate_id", "reviewer_id", name=op.f("pk_claims")),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidates.id"], name=op.f("fk_claims_candidate_id_candidates")
        ),
        sa.ForeignKeyConstraint(
            ["reviewer_id"], ["reviewers.id"], name=op.f("fk_claims_reviewer_id_reviewers")
        ),
    )
    op.create_index(
        "ix_claims_unfinished",
        "claims",
        ["reviewer_id", "candidate_id"],
        postgresql_where=sa.text("unfinished"),
    )
    op.execute("""
        insert into claims (reviewer_id, candidate_id, unfinished)
        select v.id, l.subject, true from leases l join reviewers v on l.holder = 'reviewer ' || v.id
        join candidates c on c.id = l.subject where l.purpose = 'review'""")
    op.execute("""
        insert into claims (reviewer_id, candidate_id, unfinished)
        select distinct reviewer_id, candidate_id, false from decisions on conflict do nothing""")


def downgrade() -> None:
    op.drop_table("claims")
    op.drop_column("leases", "page")
