"""Training runs are paused, ordered by priority and tried again; their states, metrics and logs.

Revision 0024
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0024"
down_revision = "0023"

COLUMNS = {"priority": "0", "attempts": "0", "outages": "0", "machines": "1"}
RUNS = ("training_runs", "caption_runs")


def upgrade() -> None:
    for name, default in COLUMNS.items():
        column = sa.Column(name, sa.Integer, nullable=False, server_default=default)
        op.add_column("training_runs", column)
    op.add_column("training_runs", sa.Column("retry_at", sa.DateTime(timezone=True)))
    _allow("'requested', 'running', 'paused', 'finished', 'failed', 'cancelled'")
    op.create_table(
        "run_states",
        _run(primary_key=True),
        sa.Column("stage", sa.Text, primary_key=True),
        sa.Column("images", sa.BigInteger, primary_key=True),
        sa.Column("files", JSONB, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        _now(),
    )
    op.create_table(
        "run_metrics",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        _run(nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("points", JSONB, nullable=False),
        _now(),
    )
    op.create_index("ix_run_metrics_run_id_stage", "run_metrics", ["run_id", "stage", "id"])
    op.create_table(
        "run_logs",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        _run(nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        _now(),
    )
    op.create_index("ix_run_logs_run_id", "run_logs", ["run_id", "id"])


def downgrade() -> None:
    for table in ("run_logs", "run_metrics", "run_states"):
        op.drop_table(table)
    op.execute(sa.text("update training_runs set state = 'failed' where state = 'paused'"))
    _allow("'requested', 'running', 'finished', 'failed', 'cancelled'")
    for name in ("retry_at", *COLUMNS):
        op.drop_column("training_runs", name)


def _run(**options: bool) -> sa.Column:
    return sa.Column("run_id", sa.Uuid(), sa.ForeignKey("training_runs.id"), **options)


def _now() -> sa.Column:
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    )


def _allow(states: str) -> None:
    for table in RUNS:
        op.drop_constraint(op.f(f"ck_{table}_state"), table)
        op.create_check_constraint(op.f(f"ck_{table}_state"), table, f"state in ({states})")
