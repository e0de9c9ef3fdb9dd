"""Acceptance models, automatic decisions and top-N acceptance."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from curation.db.tables.columns import SHA, created_at, metadata, one_of
from curation.domain import Kind

# Acceptance models: their weights, metrics, and the decisions that they were fitted to.
acceptance_models = sa.Table(
    "acceptance_models",
    metadata,
    sa.Column("id", SHA, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("embedder", sa.Text, nullable=False),
    # The kind of reviewer whose decisions it was fitted to.
    sa.Column("label_source", sa.Text, nullable=False),
    sa.Column("last_decision", sa.BigInteger, nullable=False),
    sa.Column("parameters", JSONB, nullable=False),
    sa.Column("metrics", JSONB, nullable=False),
    created_at(),
    one_of("kind", Kind),
    sa.CheckConstraint("label_source in ('person', 'rule_reviewer')", name="label_source"),
)

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("acceptance_model_id", sa.ForeignKey("acceptance_models.id"), nullable=False),
    sa.Column("probability", sa.REAL, nullable=False),  # predicted probability of an accept
    sa.Column("cluster", sa.SmallInteger, nullable=False),
)

# Every test of whether the auto-reviewer may decide. All are recorded, since each of these interim
# looks spends a part of the allowed error probability.
gates = sa.Table(
    "gates",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False, index=True),
    sa.Column("acceptance_model_id", sa.ForeignKey("acceptance_models.id"), nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("interim_look", sa.Integer, nullable=False),
    sa.Column("threshold", sa.REAL),  # null if the test failed
    sa.Column("metrics", JSONB, nullable=False),
    sa.Column("closed_at", sa.DateTime(timezone=True)),
    created_at(),
    sa.UniqueConstraint("round_id", "verdict", "interim_look"),
    sa.CheckConstraint("verdict in ('accept', 'reject')", name="verdict"),
)

# Runs of top-N acceptance, with their audits and members.
top_n_runs = sa.Table(
    "top_n_runs",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False, index=True),
    sa.Column("acceptance_model_id", sa.ForeignKey("acceptance_models.id"), nullable=False),
    sa.Column("keep", sa.Integer, nullable=False),
    sa.Column("audit", sa.Integer, nullable=False),
    sa.Column("min_share", sa.REAL, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("metrics", JSONB, nullable=False, server_default="{}"),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    created_at(),
    sa.CheckConstraint("outcome in ('accepted', 'refused')", name="outcome"),
)

top_n_members = sa.Table(
    "top_n_members",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("top_n_run_id", sa.ForeignKey("top_n_runs.id"), primary_key=True, index=True),
    sa.Column("audited", sa.Boolean, nullable=False),
)
