"""Runs of training and captions can be cancelled.

Revision 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0010"

TABLES = ("training_runs", "caption_runs")


def upgrade() -> None:
    _allow("'requested', 'running', 'finished', 'failed', 'cancelled'")


def downgrade() -> None:
    for table in TABLES:
        op.execute(sa.text(f"update {table} set state = 'failed' where state = 'cancelled'"))
    _allow("'requested', 'running', 'finished', 'failed'")


def _allow(states: str) -> None:
    for table in TABLES:
        op.drop_constraint(op.f(f"ck_{table}_state"), table)
        op.create_check_constraint(op.f(f"ck_{table}_state"), table, f"state in ({states})")
