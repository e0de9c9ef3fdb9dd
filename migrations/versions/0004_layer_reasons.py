"""Reasons that concern one layer of a pair.

Revision 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("decisions", sa.Column("layers", ARRAY(sa.Text()), nullable=False, server_default="{}"))
    op.create_check_constraint(
        op.f("ck_decisions_layers"), "decisions", "cardinality(layers) in (0, cardinality(reasons))"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_decisions_layers"), "decisions")
    op.drop_column("decisions", "layers")
