"""Where snapshots were packed, and what takedowns did to packs.

Revision 0033
"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"

KINDS = ("sample", "candidate", "snapshot", "checkpoint", "run", "object", "reviewer")


def upgrade() -> None:
    op.create_table(
        "packs",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
    )
    _allow_kinds((*KINDS, "pack", "unreached_pack"))


def downgrade() -> None:
    op.execute("delete from takedown_items where kind in ('pack', 'unreached_pack')")
    _allow_kinds(KINDS)
    op.drop_table("packs")


def _allow_kinds(kinds: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    name = op.f("ck_takedown_items_kind")
    op.drop_constraint(name, "takedown_items", type_="check")
    op.create_check_constraint(name, "takedown_items", f"kind in ({listed})")
