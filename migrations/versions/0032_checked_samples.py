"""When the objects of a sample were found whole in the store.

Revision 0032
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    # Null for existing samples: the next snapshot checks them.
    op.add_column("samples", sa.Column("checked_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_samples_unchecked", "samples", ["id"], postgresql_where=sa.text("checked_at IS NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_samples_unchecked", "samples")
    op.drop_column("samples", "checked_at")
