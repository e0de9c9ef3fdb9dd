"""The index of a reviewer's decisions in a round has the review times, so that rows are not read.

Revision 0030
"""

from alembic import op

revision = "0030"
down_revision = "0029"

NAME = "ix_decisions_round_id_reviewer_id_id"
COLUMNS = ["round_id", "reviewer_id", "id"]


def upgrade() -> None:
    op.drop_index(NAME, "decisions")
    op.create_index(NAME, "decisions", COLUMNS, postgresql_include=["dwell_ms", "channel"])


def downgrade() -> None:
    op.drop_index(NAME, "decisions")
    op.create_index(NAME, "decisions", COLUMNS)
