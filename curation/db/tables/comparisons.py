"""Blind comparisons of two checkpoints: their items, what each side drew, and the votes."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import UUID

from curation.comparison_values import (
    ComparisonSide,
    ComparisonState,
    ComparisonVerdict,
    DrawingMethod,
    DrawingState,
)
from curation.db.tables.columns import created_at, metadata, one_of
from curation.domain import Kind, LayerRole

comparisons = sa.Table(
    "comparisons",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("a_checkpoint_id", sa.ForeignKey("checkpoints.id"), nullable=False, index=True),
    sa.Column("a_method", sa.Text, nullable=False),
    sa.Column("b_checkpoint_id", sa.ForeignKey("checkpoints.id"), nullable=False, index=True),
    sa.Column("b_method", sa.Text, nullable=False),
    # The segmentation model of a matted side; null for the built-in one.
    sa.Column("segmenter", sa.Text),
    sa.Column("items", sa.Integer, nullable=False),
    # Number of reviewers who vote on each item.
    sa.Column("votes", sa.SmallInteger, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    # Secret from which the side on the left is derived, by item and reviewer.
    sa.Column("side_key", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("closed_at", sa.DateTime(timezone=True)),
    created_at(),
    one_of("kind", Kind),
    one_of("a_method", DrawingMethod),
    one_of("b_method", DrawingMethod),
    one_of("state", ComparisonState),
    sa.CheckConstraint(
        "(a_checkpoint_id, a_method) is distinct from (b_checkpoint_id, b_method)", name="sides"
    ),
    sa.CheckConstraint("items > 0 and votes > 0", name="counts"),
    sa.CheckConstraint("length(side_key) = 32", name="side_key"),
    sa.CheckConstraint("(state = 'closed') = (closed_at is not null)", name="closed"),
)

# One prompt and seed that both sides draw.
comparison_items = sa.Table(
    "comparison_items",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("comparison_id", sa.ForeignKey("comparisons.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("prompt_id", sa.ForeignKey("prompts.id"), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    # Whether both sides are drawn and votes are missing.
    sa.Column("waiting", sa.Boolean, nullable=False, server_default=sa.false()),
    # Number of votes that are not undone.
    sa.Column("voted", sa.SmallInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("comparison_id", "position"),
    sa.CheckConstraint("voted >= 0", name="voted"),
)

# The rows that reviewers claim next: the time of a claim does not grow with the finished ones.
sa.Index(
    "ix_comparison_items_waiting",
    comparison_items.c.comparison_id,
    comparison_items.c.position,
    postgresql_where=comparison_items.c.waiting,
)

# What one side draws for an item: the unit of work of workers.
comparison_drawings = sa.Table(
    "comparison_drawings",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("comparison_id", sa.ForeignKey("comparisons.id"), nullable=False),
    sa.Column("item_id", sa.ForeignKey("comparison_items.id"), nullable=False),
    sa.Column("side", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
    # Why it failed.
    sa.Column("note", sa.Text),
    sa.UniqueConstraint("item_id", "side"),
    one_of("side", ComparisonSide),
    one_of("state", DrawingState),
)

sa.Index(
    "ix_comparison_drawings_requested",
    comparison_drawings.c.comparison_id,
    comparison_drawings.c.side,
    comparison_drawings.c.attempts,
    comparison_drawings.c.id,
    postgresql_where=comparison_drawings.c.state == "requested",
)

sa.Index(
    "ix_comparison_drawings_comparison_id_state",
    comparison_drawings.c.comparison_id,
    comparison_drawings.c.state,
)

comparison_layers = sa.Table(
    "comparison_layers",
    metadata,
    sa.Column("drawing_id", sa.ForeignKey("comparison_drawings.id"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), nullable=False, index=True),
    one_of("role", LayerRole),
)

# Votes and undos of reviewers; append-only.
comparison_votes = sa.Table(
    "comparison_votes",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("comparison_id", sa.ForeignKey("comparisons.id"), nullable=False, index=True),
    sa.Column("item_id", sa.ForeignKey("comparison_items.id"), nullable=False),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    # The side that the reviewer saw on the left.
    sa.Column("left_side", sa.Text, nullable=False),
    sa.Column("dwell_ms", sa.Integer),
    # Idempotency key of the client: a repeated submission is one vote.
    sa.Column("key", UUID, nullable=False, unique=True),
    sa.Column("undoes", sa.ForeignKey("comparison_votes.id"), unique=True),
    created_at(),
    one_of("verdict", ComparisonVerdict),
    one_of("left_side", ComparisonSide),
    sa.CheckConstraint("(verdict = 'undo') = (undoes is not null)", name="undoes"),
    sa.CheckConstraint("dwell_ms >= 0", name="dwell"),
)

sa.Index(
    "ix_comparison_votes_item_id_reviewer_id",
    comparison_votes.c.item_id,
    comparison_votes.c.reviewer_id,
)

sa.Index(
    "ix_comparison_votes_reviewer_id_id",
    comparison_votes.c.reviewer_id,
    comparison_votes.c.id.desc(),
)
