"""Rounds at desks of other software: boards, postings, answers, and who the people there are.

Revision 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("rounds", sa.Column("desk", sa.Text(), nullable=True))
    op.create_table(
        "desk_boards",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("desk", sa.Text(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("part", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("read_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("put_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("collected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_desk_boards_round_id_rounds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_desk_boards")),
        sa.UniqueConstraint("round_id", "desk", "part", name=op.f("uq_desk_boards_round_id_desk_part")),
    )
    op.create_table(
        "desk_postings",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("board_id", sa.UUID(), nullable=False),
        sa.Column("candidate_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("batch", sa.UUID(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state in ('sending', 'up', 'answered', 'down')", name=op.f("ck_desk_postings_state")),
        sa.ForeignKeyConstraint(["board_id"], ["desk_boards.id"], name=op.f("fk_desk_postings_board_id_desk_boards")),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidates.id"], name=op.f("fk_desk_postings_candidate_id_candidates")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_desk_postings")),
    )
    op.create_index(op.f("ix_desk_postings_candidate_id"), "desk_postings", ["candidate_id"])
    op.create_index("ix_desk_postings_board_id_state", "desk_postings", ["board_id", "state"])
    op.create_index(
        "uq_desk_postings_live", "desk_postings", ["candidate_id"], unique=True,
        postgresql_where=sa.text("state in ('sending', 'up')"),
    )
    op.create_table(
        "desk_answers",
        sa.Column("posting_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("said", JSONB, nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision_id", sa.BigInteger(), nullable=True),
        sa.Column("refused", sa.Text(), nullable=True),
        sa.Column("gone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["posting_id"], ["desk_postings.id"], name=op.f("fk_desk_answers_posting_id_desk_postings")),
        sa.ForeignKeyConstraint(["decision_id"], ["decisions.id"], name=op.f("fk_desk_answers_decision_id_decisions")),
        sa.PrimaryKeyConstraint("posting_id", "number", name=op.f("pk_desk_answers")),
    )
    op.create_table(
        "desk_people",
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("reviewer_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["reviewer_id"], ["reviewers.id"], name=op.f("fk_desk_people_reviewer_id_reviewers")),
        sa.PrimaryKeyConstraint("email", name=op.f("pk_desk_people")),
    )


def downgrade() -> None:
    for table in ("desk_people", "desk_answers", "desk_postings", "desk_boards"):
        op.drop_table(table)
    op.drop_column("rounds", "desk")
