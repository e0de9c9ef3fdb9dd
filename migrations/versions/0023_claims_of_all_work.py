"""Leases for screening and fitting, priorities of rounds, retries, and fresh candidates before retried ones.

Revision 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


MOVES = [{"source": "failed", "target": target} for target in ("requested", "generated")]


def upgrade() -> None:
    moves = sa.table("candidate_moves", sa.column("source"), sa.column("target"))
    op.bulk_insert(moves, MOVES)
    _purposes("'generate', 'screen', 'fit', 'review', 'train', 'caption'")
    op.add_column("rounds", sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="0"))
    _index_requested(["round_id", "attempts", "id"])
    # The attempts of a step that has ended no longer count.
    op.execute("update candidates set attempts = 0 where state = 'generated' and attempts > 0")


def downgrade() -> None:
    op.execute("delete from candidate_moves where source = 'failed'")
    op.execute("delete from leases where purpose in ('screen', 'fit')")
    _purposes("'generate', 'review', 'train', 'caption'")
    op.drop_column("rounds", "priority")
    _index_requested(["round_id", "id"])


def _purposes(words: str) -> None:
    op.drop_constraint(op.f("ck_leases_purpose"), "leases")
    op.create_check_constraint(op.f("ck_leases_purpose"), "leases", f"purpose in ({words})")


def _index_requested(columns: list[str]) -> None:
    op.drop_index("ix_candidates_requested", table_name="candidates")
    requested = sa.text("state = 'requested'")
    op.create_index("ix_candidates_requested", "candidates", columns, postgresql_where=requested)
