"""Leases and claims, decisions, gold and aggregation."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from curation.db.tables.columns import created_at, metadata, one_of
from curation.domain import Verdict

# Who works on a candidate, a run or a loop, and until when.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("subject", UUID, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("holder", sa.Text, nullable=False, index=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, index=True),
    # For review, the browser page that uses the lease; null if it is not known.
    sa.Column("page", UUID),
    sa.CheckConstraint(
        "purpose in ('generate', 'screen', 'fit', 'review', 'train', 'caption', 'loop', "
        "'draw_comparisons', 'compare')",
        name="purpose",
    ),
)

# Every candidate that a reviewer ever had a lease on; a reviewer may decide only these, also after
# the lease expired.
claims = sa.Table(
    "claims",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), primary_key=True),
    # True until the reviewer's verdict or skip.
    sa.Column("unfinished", sa.Boolean, nullable=False, server_default=sa.true()),
    created_at(),
)

sa.Index(
    "ix_claims_unfinished",
    claims.c.reviewer_id,
    claims.c.candidate_id,
    postgresql_where=claims.c.unfinished,
)

# Verdicts, skips and undos of reviewers; append-only.
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), nullable=False, index=True),
    # Round and slice of the candidate, which a trigger sets. No foreign key: its lock on the round
    # would deadlock with the closing of the round, which locks the candidates after the round.
    sa.Column("round_id", sa.Integer, nullable=False),
    sa.Column("candidate_slice", sa.Text, nullable=False),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reasons", ARRAY(sa.Text), nullable=False, server_default="{}"),
    # For a pair, the layer that each reason concerns.
    sa.Column("layers", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("comment", sa.Text, nullable=False, server_default=""),
    sa.Column("dwell_ms", sa.Integer),
    sa.Column("channel", sa.Text, nullable=False),
    # Idempotency key of the client: a repeated submission is one decision.
    sa.Column("key", UUID, nullable=False, unique=True),
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("propensity", sa.REAL),
    sa.Column("undoes", sa.ForeignKey("decisions.id"), unique=True),
    # An adjudicator's decision, which overrules the other verdicts.
    sa.Column("final", sa.Boolean, nullable=False, server_default=sa.false()),
    created_at(),
    one_of("verdict", Verdict),
    sa.CheckConstraint("(verdict = 'undo') = (undoes is not null)", name="undoes"),
    sa.CheckConstraint("dwell_ms >= 0", name="dwell"),
    sa.CheckConstraint("cardinality(layers) in (0, cardinality(reasons))", name="layers"),
)

sa.Index("ix_decisions_reviewer_id_id", decisions.c.reviewer_id, decisions.c.id.desc())

sa.Index("ix_decisions_round_id_id", decisions.c.round_id, decisions.c.id)

sa.Index(
    "ix_decisions_round_id_reviewer_id_id",
    decisions.c.round_id,
    decisions.c.reviewer_id,
    decisions.c.id,
    postgresql_include=["dwell_ms", "channel"],
)

# Candidates with a known verdict that are shown among the candidates of a round. They belong to a
# round of their own, so that no statistics of another round count them.
gold = sa.Table(
    "gold",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    # The round among whose candidates it is shown.
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False, index=True),
    sa.Column("sample_id", UUID, nullable=False),
    sa.Column("defect", sa.Text),  # curation.screening.defects; null for a clean copy
    sa.Column("severity", sa.REAL, nullable=False),
    created_at(),
    sa.CheckConstraint("severity between 0 and 1", name="severity"),
    sa.CheckConstraint("(defect is null) = (severity = 0)", name="clean"),
)

# Results of Dawid-Skene aggregation.
aggregations = sa.Table(
    "aggregations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False),
    sa.Column("acceptable_share", sa.Double, nullable=False),
    # Reviewer -> probabilities to accept a sound candidate and to reject a defective candidate.
    sa.Column("skills", JSONB, nullable=False),
    sa.Column("votes", sa.Integer, nullable=False),
    created_at(),
)

sa.Index("ix_aggregations_round_id_id", aggregations.c.round_id, aggregations.c.id.desc())
