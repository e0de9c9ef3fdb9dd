"""Annotations known by author and creation time, projects by creation time, and jobs that are asked for once.

Revision 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0008"

STATES = "'sending', 'up', 'answered', 'down'"


def upgrade() -> None:
    op.add_column("desk_boards", sa.Column("made_at", sa.DateTime(timezone=True)))
    op.add_column("desk_boards", sa.Column("mark", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("desk_boards", sa.Column("reread", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("desk_boards", sa.Column("trouble", sa.Text()))
    op.add_column("desk_postings", sa.Column("score", sa.REAL()))
    op.add_column("desk_postings", sa.Column("reserved_until", sa.DateTime(timezone=True)))
    op.add_column("desk_postings", sa.Column("refused", sa.Text()))
    _check_states(f"{STATES}, 'refused'")
    op.drop_constraint(op.f("pk_desk_answers"), "desk_answers")
    op.add_column("desk_answers", sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False))
    op.create_primary_key(op.f("pk_desk_answers"), "desk_answers", ["id"])
    op.add_column("desk_answers", sa.Column("task", sa.BigInteger()))
    op.add_column("desk_answers", sa.Column("author", sa.Text()))
    op.execute("update desk_answers set author = person")
    op.alter_column("desk_answers", "author", nullable=False)
    op.add_column("desk_answers", sa.Column("made_at", sa.DateTime(timezone=True)))
    op.add_column("desk_answers", sa.Column("forgotten", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("desk_answers", sa.Column("shown", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_unique_constraint(
        op.f("uq_desk_answers_posting_id_number_author_made_at"),
        "desk_answers",
        ["posting_id", "number", "author", "made_at"],
    )
    pending = sa.text("decision_id is null and refused is null and not gone")
    op.create_index("ix_desk_answers_pending", "desk_answers", ["posting_id"], postgresql_where=pending)
    # A round with several verdicts whose tasks are there already stays there; new ones have to be switched there.
    op.execute("""
        update rounds r set desk = 'label-studio' where r.desk is null and (r.consensus ->> 'overlap')::int > 1
            and exists (select from desk_boards b where b.round_id = r.id and b.number is not null)""")
    op.create_table(
        "pending_jobs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", "args", name=op.f("pk_pending_jobs")),
    )


def downgrade() -> None:
    op.drop_table("pending_jobs")
    op.drop_constraint(op.f("uq_desk_answers_posting_id_number_author_made_at"), "desk_answers")
    # Older versions know one answer by each number: the latest.
    op.execute("""
        delete from desk_answers a using desk_answers o
        where o.posting_id = a.posting_id and o.number = a.number and o.id > a.id""")
    op.drop_index("ix_desk_answers_pending", "desk_answers")
    op.drop_constraint(op.f("pk_desk_answers"), "desk_answers")
    for name in ("id", "task", "author", "made_at", "forgotten", "shown"):
        op.drop_column("desk_answers", name)
    op.create_primary_key(op.f("pk_desk_answers"), "desk_answers", ["posting_id", "number"])
    op.execute("update desk_postings set state = 'down' where state = 'refused'")
    _check_states(STATES)
    for name in ("score", "reserved_until", "refused"):
        op.drop_column("desk_postings", name)
    for name in ("made_at", "mark", "reread", "trouble"):
        op.drop_column("desk_boards", name)


def _check_states(states: str) -> None:
    op.drop_constraint(op.f("ck_desk_postings_state"), "desk_postings")
    op.create_check_constraint(op.f("ck_desk_postings_state"), "desk_postings", f"state in ({states})")
