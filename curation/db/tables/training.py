"""Checkpoints and training runs, with their saved states, metrics and logs."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

from curation.db.tables.columns import SHA, created_at, metadata, one_of
from curation.domain import RunState

# Weights with their lineage; the last promoted checkpoint generates new rounds.
checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("id", SHA, primary_key=True),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("preset", sa.Text, nullable=False),
    # Null for imported weights. No foreign key: a checkpoint of another installation was trained on
    # a snapshot of that installation.
    sa.Column("snapshot_id", SHA),
    sa.Column("parent_id", SHA),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("files", JSONB, nullable=False),
    sa.Column("evaluation", JSONB, nullable=False),
    # Overrides of the preset's values.
    sa.Column("changes", JSONB, nullable=False, server_default="{}"),
    sa.Column("sample_grid", SHA),
    sa.Column("promoted_at", sa.DateTime(timezone=True), index=True),
    # The takedown of samples that it, or a checkpoint before it, was trained on.
    sa.Column("tainted_by", sa.ForeignKey("takedowns.id")),
    created_at(),
)

training_runs = sa.Table(
    "training_runs",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("preset", sa.Text, nullable=False),
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id"), nullable=False),
    sa.Column("previous_id", sa.ForeignKey("snapshots.id")),
    sa.Column("parent_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("images", sa.Integer, nullable=False),
    sa.Column("changes", JSONB, nullable=False, server_default="{}"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("progress", JSONB, nullable=False, server_default="{}"),
    # The reason why a run ended, or why it went back to "requested".
    sa.Column("error", sa.Text),
    # Requested runs are claimed in the order of their priority, the largest first.
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    # Claims so far; outages of the instance since the last saved state, and when to try again.
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("outages", sa.Integer, nullable=False, server_default="0"),
    sa.Column("retry_at", sa.DateTime(timezone=True)),
    # Machines that train together, by the claiming worker's settings.
    sa.Column("machines", sa.Integer, nullable=False, server_default="1"),
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    created_at(),
    one_of("state", RunState),
    sa.CheckConstraint("(state = 'finished') = (checkpoint_id is not null)", name="finished"),
)

# Saved states of training runs in the object store: the sha256 of each file by its name.
run_states = sa.Table(
    "run_states",
    metadata,
    sa.Column("run_id", sa.ForeignKey("training_runs.id"), primary_key=True),
    sa.Column("stage", sa.Text, primary_key=True),
    sa.Column("images", sa.BigInteger, primary_key=True),
    sa.Column("files", JSONB, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    created_at(),
)

# Metrics of training runs in batches: each point is [images, {name: value}]. A batch replaces the
# points of earlier batches from its first image on, since a resumed run repeats some steps.
run_metrics = sa.Table(
    "run_metrics",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("run_id", sa.ForeignKey("training_runs.id"), nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("points", JSONB, nullable=False),
    created_at(),
    sa.Index("ix_run_metrics_run_id_stage", "run_id", "stage", "id"),
)

# Log lines of training runs in batches.
run_logs = sa.Table(
    "run_logs",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("run_id", sa.ForeignKey("training_runs.id"), nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    created_at(),
    sa.Index("ix_run_logs_run_id", "run_id", "id"),
)
