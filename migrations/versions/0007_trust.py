"""Several verdicts on a candidate, gold among them, and reviewers whom gold has paused.

Revision 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0007"
down_revision = "0006"

WAITING = sa.text("state = 'waiting'")
PRIORITY = sa.literal_column("priority DESC")


def upgrade() -> None:
    op.add_column("reviewers", sa.Column("paused", sa.Text()))
    op.add_column("reviewers", sa.Column("resumed_at", sa.DateTime(timezone=True)))
    for name in ("consensus", "gold"):
        op.add_column("rounds", sa.Column(name, JSONB(), nullable=False, server_default="{}"))
    op.drop_constraint(op.f("ck_rounds_purpose"), "rounds")
    op.create_check_constraint(op.f("ck_rounds_purpose"), "rounds", "purpose in ('drawn', 'seeds', 'gold')")
    op.add_column("candidates", sa.Column("decided", sa.SmallInteger(), nullable=False, server_default="0"))
    op.drop_index("ix_candidates_waiting", table_name="candidates")
    op.create_index(
        "ix_candidates_waiting", "candidates", ["round_id", "decided", PRIORITY, "id"], postgresql_where=WAITING
    )
    op.add_column("decisions", sa.Column("final", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "gold",
        sa.Column("candidate_id", UUID(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("sample_id", UUID(), nullable=False),
        sa.Column("defect", sa.Text()),
        sa.Column("severity", sa.REAL(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("severity between 0 and 1", name=op.f("ck_gold_severity")),
        sa.CheckConstraint("(defect is null) = (severity = 0)", name=op.f("ck_gold_clean")),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name=op.f("fk_gold_candidate_id_candidates")),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_gold_round_id_rounds")),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_gold")),
    )
    op.create_index(op.f("ix_gold_round_id"), "gold", ["round_id"])
    op.create_table(
        "aggregations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("sound", sa.Double(), nullable=False),
        sa.Column("skills", JSONB(), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_aggregations_round_id_rounds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aggregations")),
    )
    op.create_index("ix_aggregations_round_id_id", "aggregations", ["round_id", sa.literal_column("id DESC")])
    op.execute(
        "create trigger append_only before update or delete or truncate on aggregations "
        "for each statement execute function append_only()"
    )


def downgrade() -> None:
    """Older houses know no gold: they would show its planted defects as candidates like others, and keep them."""
    gold = "select c.id from candidates c join rounds r on r.id = c.round_id where r.purpose = 'gold'"
    op.execute(f"delete from leases where subject in ({gold})")
    op.execute(f"update candidates set state = 'withdrawn' where state in ('waiting', 'showing') and id in ({gold})")
    op.execute("update rounds set purpose = 'seeds', state = 'closed', closed_at = now() where purpose = 'gold'")
    op.drop_table("aggregations")
    op.drop_table("gold")
    op.drop_column("decisions", "final")
    op.drop_index("ix_candidates_waiting", table_name="candidates")
    op.create_index("ix_candidates_waiting", "candidates", ["round_id", PRIORITY, "id"], postgresql_where=WAITING)
    op.drop_column("candidates", "decided")
    op.drop_constraint(op.f("ck_rounds_purpose"), "rounds")
    op.create_check_constraint(op.f("ck_rounds_purpose"), "rounds", "purpose in ('drawn', 'seeds')")
    for name in ("gold", "consensus"):
        op.drop_column("rounds", name)
    op.drop_column("reviewers", "resumed_at")
    op.drop_column("reviewers", "paused")
