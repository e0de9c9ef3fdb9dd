"""Loops of planned rounds; a rule reviewer for any round.

Revision 0027
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0027"
down_revision = "0026"

SHA = sa.String(64)
PURPOSES = "'generate', 'screen', 'fit', 'review', 'train', 'caption'"


def upgrade() -> None:
    op.add_column(
        "rounds",
        sa.Column("rule_reviewer", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.add_column("rounds", sa.Column("gpu_seconds", sa.Float, nullable=False, server_default="0"))
    op.create_table(
        "loops",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("lease_id", sa.Uuid(), nullable=False, unique=True),
        sa.Column("name", sa.Text, unique=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False, server_default="1"),
        sa.Column("plan", JSONB, nullable=False),
        sa.Column("reason", sa.Text),
        _refers("snapshot_id", "snapshots.id"),
        sa.Column("training_seconds", sa.Float, nullable=False, server_default="0"),
        sa.Column("checked_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        _now(),
        sa.CheckConstraint(
            "state in ('running', 'paused', 'failed', 'finished', 'cancelled')",
            name=op.f("ck_loops_state"),
        ),
        sa.CheckConstraint(
            "step in ('freeze', 'train', 'promote', 'open', 'review', 'finish')",
            name=op.f("ck_loops_step"),
        ),
    )
    op.create_table(
        "loop_turns",
        _refers("loop_id", "loops.id", sa.Integer, primary_key=True),
        sa.Column("turn", sa.Integer, primary_key=True, autoincrement=False),
        _refers("snapshot_id", "snapshots.id"),
        _refers("run_id", "training_runs.id", sa.Uuid()),
        _refers("checkpoint_id", "checkpoints.id"),
        sa.Column("gate", JSONB),
        sa.Column("promoted", sa.Boolean),
        _refers("round_id", "rounds.id", sa.Integer, unique=True),
        _now(),
    )
    _allow(f"{PURPOSES}, 'loop'")


def downgrade() -> None:
    op.execute(sa.text("delete from leases where purpose = 'loop'"))
    _allow(PURPOSES)
    op.drop_table("loop_turns")
    op.drop_table("loops")
    op.drop_column("rounds", "gpu_seconds")
    op.drop_column("rounds", "rule_reviewer")


def _refers(name: str, target: str, kind: Any = SHA, **options: bool) -> sa.Column:
    return sa.Column(name, kind, sa.ForeignKey(target), **options)


def _now() -> sa.Column:
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    )


def _allow(purposes: str) -> None:
    op.drop_constraint(op.f("ck_leases_purpose"), "leases")
    op.create_check_constraint(
        op.f("ck_leases_purpose"), "leases", f"purpose in ({purposes})"
    )
