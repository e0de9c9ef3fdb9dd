"""Selection: embeddings, acceptance heads and their scores, slices, what the machine decides, the scale step.

Revision 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

MACHINES = [(one, said) for one in ("screened", "unshown") for said in ("accepted", "rejected")]
TAKEN_BACK = [(said, "unshown") for said in ("accepted", "rejected")]


def upgrade() -> None:
    moves = sa.table("candidate_moves", sa.column("source"), sa.column("target"))
    op.bulk_insert(moves, [{"source": one, "target": other} for one, other in MACHINES + TAKEN_BACK])
    op.drop_constraint(op.f("ck_reviewers_kind"), "reviewers")
    op.create_check_constraint(op.f("ck_reviewers_kind"), "reviewers", "kind in ('person', 'oracle', 'machine')")
    op.execute("update reviewers set kind = 'machine' where name = 'machine' and kind = 'oracle'")  # a downgrade's
    op.add_column("candidates", sa.Column("slice", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_candidates_slice"), "candidates", "slice in ('random', 'likely', 'uncertain', 'audit', 'paper')"
    )
    op.create_table(
        "embeddings",
        sa.Column("candidate_id", sa.UUID(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name=op.f("fk_embeddings_candidate_id_candidates")),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_embeddings")),
    )
    op.create_table(
        "heads",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("embedder", sa.Text(), nullable=False),
        sa.Column("teacher", sa.Text(), nullable=False),
        sa.Column("last_decision", sa.BigInteger(), nullable=False),
        sa.Column("numbers", JSONB, nullable=False),
        sa.Column("figures", JSONB, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind in ('single', 'pair')", name=op.f("ck_heads_kind")),
        sa.CheckConstraint("teacher in ('person', 'oracle')", name=op.f("ck_heads_teacher")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_heads")),
    )
    op.create_table(
        "scores",
        sa.Column("candidate_id", sa.UUID(), nullable=False),
        sa.Column("head_id", sa.String(64), nullable=False),
        sa.Column("chance", sa.REAL(), nullable=False),
        sa.Column("cluster", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name=op.f("fk_scores_candidate_id_candidates")),
        sa.ForeignKeyConstraint(["head_id"], ["heads.id"], name=op.f("fk_scores_head_id_heads")),
        sa.PrimaryKeyConstraint("candidate_id", name=op.f("pk_scores")),
    )
    op.create_table(
        "gates",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("head_id", sa.String(64), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("threshold", sa.REAL(), nullable=True),
        sa.Column("figures", JSONB, nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("verdict in ('accept', 'reject')", name=op.f("ck_gates_verdict")),
        sa.ForeignKeyConstraint(["head_id"], ["heads.id"], name=op.f("fk_gates_head_id_heads")),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_gates_round_id_rounds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gates")),
        sa.UniqueConstraint("round_id", "verdict", "look", name=op.f("uq_gates_round_id_verdict_look")),
    )
    op.create_index(op.f("ix_gates_round_id"), "gates", ["round_id"])
    op.create_table(
        "scalings",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("head_id", sa.String(64), nullable=False),
        sa.Column("keep", sa.Integer(), nullable=False),
        sa.Column("audit", sa.Integer(), nullable=False),
        sa.Column("least", sa.REAL(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("figures", JSONB, server_default="{}", nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("outcome in ('accepted', 'refused')", name=op.f("ck_scalings_outcome")),
        sa.ForeignKeyConstraint(["head_id"], ["heads.id"], name=op.f("fk_scalings_head_id_heads")),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_scalings_round_id_rounds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scalings")),
    )
    op.create_index(op.f("ix_scalings_round_id"), "scalings", ["round_id"])
    op.create_table(
        "scaled",
        sa.Column("candidate_id", sa.UUID(), nullable=False),
        sa.Column("scaling_id", sa.Integer(), nullable=False),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name=op.f("fk_scaled_candidate_id_candidates")),
        sa.ForeignKeyConstraint(["scaling_id"], ["scalings.id"], name=op.f("fk_scaled_scaling_id_scalings")),
        sa.PrimaryKeyConstraint("candidate_id", "scaling_id", name=op.f("pk_scaled")),
    )
    op.create_index(op.f("ix_scaled_scaling_id"), "scaled", ["scaling_id"])


def downgrade() -> None:
    for table in ("scaled", "scalings", "gates", "scores", "heads", "embeddings"):
        op.drop_table(table)
    op.drop_constraint(op.f("ck_candidates_slice"), "candidates")
    op.drop_column("candidates", "slice")
    op.drop_constraint(op.f("ck_reviewers_kind"), "reviewers")
    op.execute("update reviewers set kind = 'oracle' where kind = 'machine'")  # no person, so never counted as one
    op.create_check_constraint(op.f("ck_reviewers_kind"), "reviewers", "kind in ('person', 'oracle')")
    for one, other in MACHINES + TAKEN_BACK:
        op.execute(f"delete from candidate_moves where source = '{one}' and target = '{other}'")
