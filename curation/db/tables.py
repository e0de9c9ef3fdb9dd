"""The database tables, with the constraints and indexes that a million candidates need."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from curation.domain import (
    CandidateState,
    CaptionSource,
    Kind,
    LayerRole,
    Role,
    RoundState,
    RunState,
    Split,
    Verdict,
)

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

SHA = sa.String(64)


def _now() -> sa.Column[datetime]:
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    )


def _one_of(column: str, words: type) -> sa.CheckConstraint:
    # Every StrEnum is iterable.
    listed = ", ".join(f"'{word}'" for word in words)  # type: ignore[attr-defined]
    return sa.CheckConstraint(f"{column} in ({listed})", name=column)


# Prompts and layers, each stored once and identified by content.
prompts = sa.Table(
    "prompts",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("foreground", sa.Text),
    sa.Column("background", sa.Text),
)

layers = sa.Table(
    "layers",
    metadata,
    sa.Column("sha256", SHA, primary_key=True),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("visible", SHA, nullable=False, index=True),
    sa.Column("fingerprint", sa.LargeBinary),  # 280 bytes: curation.images.perceptual_hash
)

# Index for near duplicates (multi-index hashing): two fingerprints that differ in at most d bits
# share at least one of d + 1 bands.
layer_bands = sa.Table(
    "layer_bands",
    metadata,
    sa.Column("band", sa.SmallInteger, primary_key=True),
    sa.Column("value", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), primary_key=True),
)

# People, and the built-in reviewers: the rule reviewer and the auto-reviewer.
reviewers = sa.Table(
    "reviewers",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    # Why missed gold paused them; null while they may decide.
    sa.Column("paused", sa.Text),
    # Gold before this time no longer counts against them.
    sa.Column("resumed_at", sa.DateTime(timezone=True)),
    _now(),
    sa.CheckConstraint("kind in ('person', 'rule_reviewer', 'auto_reviewer')", name="kind"),
    _one_of("role", Role),
)

# Only the hash of a sign-in token is stored, so that a copy of the database gives no access.
sign_in_tokens = sa.Table(
    "sign_in_tokens",
    metadata,
    sa.Column("hash", SHA, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("used_at", sa.DateTime(timezone=True)),
    _now(),
)

# Sessions are checked at every request, so that a sign-out takes effect everywhere. Only the hash
# of a session's token is stored.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", SHA, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False, index=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    # Where the session at the identity provider ends.
    sa.Column("sign_out_url", sa.Text),
    _now(),
)

# Who a person is at an identity provider.
reviewer_identities = sa.Table(
    "reviewer_identities",
    metadata,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    _now(),
)

# API tokens of programs; only the hash of a token is stored.
api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", SHA, nullable=False, unique=True),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("last_used_at", sa.DateTime(timezone=True)),
    sa.Column("revoked_at", sa.DateTime(timezone=True)),
    _now(),
)
sa.Index(
    "uq_api_tokens_active",
    api_tokens.c.name,
    unique=True,
    postgresql_where=api_tokens.c.revoked_at.is_(None),
)

# Frozen sets of samples; the manifests are in the object store.
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", SHA, primary_key=True),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("counts", JSONB, nullable=False),
    # What it was first frozen with (curation.datasets.freeze_query); null before revision 0025.
    sa.Column("query", JSONB(none_as_null=True)),
    # The snapshot that it follows.
    sa.Column("parent_id", sa.ForeignKey("snapshots.id")),
    # Statistics of the decisions on its samples when it was frozen.
    sa.Column("review", JSONB(none_as_null=True)),
    _now(),
)

# Remarks of people on snapshots; append-only.
snapshot_notes = sa.Table(
    "snapshot_notes",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    _now(),
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id"), nullable=False),
    _now(),
)

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
    _now(),
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
    # Machines that train together, as the claiming worker's settings say.
    sa.Column("machines", sa.Integer, nullable=False, server_default="1"),
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    _now(),
    _one_of("state", RunState),
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
    _now(),
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
    _now(),
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
    _now(),
    sa.Index("ix_run_logs_run_id", "run_id", "id"),
)

# Rounds of candidates, and the state machine that a trigger enforces on them.
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    # "generated": generated by a checkpoint; "seeds": imports to review; "gold": see the table
    # gold.
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("quota", sa.Integer, nullable=False),
    sa.Column("policy", JSONB, nullable=False),
    # curation.review.consensus.Consensus and curation.review.gold.GoldTerms.
    sa.Column("consensus", JSONB, nullable=False, server_default="{}"),
    sa.Column("gold", JSONB, nullable=False, server_default="{}"),
    sa.Column("state", sa.Text, nullable=False),
    # Workers generate and screen rounds of a higher priority first.
    sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
    # Whether the rule reviewer decides the waiting candidates.
    sa.Column("rule_reviewer", sa.Boolean, nullable=False, server_default=sa.false()),
    # Time in which workers generated its candidates.
    sa.Column("gpu_seconds", sa.Float, nullable=False, server_default="0"),
    # "pages" or "label-studio"; null for the one that the settings name.
    sa.Column("labeling", sa.Text),
    sa.Column("closed_at", sa.DateTime(timezone=True)),
    _now(),
    _one_of("kind", Kind),
    _one_of("state", RoundState),
    sa.CheckConstraint("purpose in ('generated', 'seeds', 'gold')", name="purpose"),
    sa.CheckConstraint("(purpose = 'generated') = (checkpoint_id is not null)", name="checkpoint"),
    sa.CheckConstraint("quota >= 0", name="quota"),
)

# The allowed changes of a candidate's state: domain.STATE_TRANSITIONS.
candidate_moves = sa.Table(
    "candidate_moves",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),
)

candidates = sa.Table(
    "candidates",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False),
    sa.Column("prompt_id", sa.ForeignKey("prompts.id"), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("priority", sa.REAL, nullable=False, server_default="0"),
    sa.Column("propensity", sa.REAL),
    # Number of verdicts that are not undone, for rounds with several verdicts per candidate.
    sa.Column("decided", sa.SmallInteger, nullable=False, server_default="0"),
    # The part of a mixed policy that selected the candidate (curation.selection.select).
    sa.Column("slice", sa.Text),
    sa.Column("flags", ARRAY(sa.Text), nullable=False, server_default="{}"),
    # Attempts of the present step, generation or screening, that did not end by themselves.
    sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
    # The reviewer whose verdict settled it; a trigger clears it when the state changes.
    sa.Column("settled_by", sa.ForeignKey("reviewers.id")),
    # Why it failed.
    sa.Column("note", sa.Text),
    # License, source and split of an imported file.
    sa.Column("origin", JSONB),
    sa.Column(
        "changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    ),
    _one_of("state", CandidateState),
    sa.UniqueConstraint("round_id", "prompt_id", "seed"),
    sa.CheckConstraint("propensity > 0 and propensity <= 1", name="propensity"),
    sa.CheckConstraint(
        "slice in ('random', 'likely', 'uncertain', 'audit', 'paper')", name="slice"
    ),
)
# Partial indexes on the rows that each job claims next, in the order of its claims, so that the
# time of a claim does not grow with the number of finished rows.
sa.Index(
    "ix_candidates_waiting",
    candidates.c.round_id,
    candidates.c.decided.desc(),
    candidates.c.priority.desc(),
    candidates.c.id,
    postgresql_where=candidates.c.state == "waiting",
)
sa.Index(
    "ix_candidates_requested",
    candidates.c.round_id,
    candidates.c.attempts,
    candidates.c.id,
    postgresql_where=candidates.c.state == "requested",
)
sa.Index(
    "ix_candidates_generated",
    candidates.c.round_id,
    candidates.c.id,
    postgresql_where=candidates.c.state == "generated",
)
sa.Index(
    "ix_candidates_screened",
    candidates.c.round_id,
    candidates.c.id,
    postgresql_where=candidates.c.state == "screened",
)
sa.Index("ix_candidates_round_id_state", candidates.c.round_id, candidates.c.state)

candidate_layers = sa.Table(
    "candidate_layers",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), nullable=False, index=True),
    _one_of("role", LayerRole),
)

# The measured signals of a candidate, and the rule that refused it, if any.
screenings = sa.Table(
    "screenings",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("signals", JSONB, nullable=False),
    sa.Column("refused_by", sa.Text),
    sa.Column("refused_value", sa.Double),
    sa.Column("message", sa.Text),
    _now(),
)

embeddings = sa.Table(
    "embeddings",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),  # Embedder.source
    sa.Column("vector", sa.LargeBinary, nullable=False),
)

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
    _now(),
    _one_of("kind", Kind),
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

# Every test whether the auto-reviewer may decide. All are recorded, since each of these interim
# looks uses a part of the allowed error probability.
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
    _now(),
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
    _now(),
    sa.CheckConstraint("outcome in ('accepted', 'refused')", name="outcome"),
)

top_n_members = sa.Table(
    "top_n_members",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("top_n_run_id", sa.ForeignKey("top_n_runs.id"), primary_key=True, index=True),
    sa.Column("audited", sa.Boolean, nullable=False),
)

# Planned rounds that advance by themselves: curation.loops.plan has the plan, states and steps.
loops = sa.Table(
    "loops",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    # The subject of the lease under which a worker advances it.
    sa.Column("lease_id", UUID, nullable=False, unique=True),
    sa.Column("name", sa.Text, unique=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False, server_default="1"),
    sa.Column("plan", JSONB, nullable=False),
    # Why it is paused or failed.
    sa.Column("reason", sa.Text),
    # The last snapshot of a finished loop.
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id")),
    # Time in which workers trained for it, up to `checked_at`.
    sa.Column("training_seconds", sa.Float, nullable=False, server_default="0"),
    sa.Column("checked_at", sa.DateTime(timezone=True)),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    _now(),
    sa.CheckConstraint(
        "state in ('running', 'paused', 'failed', 'finished', 'cancelled')", name="state"
    ),
    sa.CheckConstraint(
        "step in ('freeze', 'train', 'promote', 'open', 'review', 'finish')", name="step"
    ),
)

# What each turn of a loop has made; a step whose result is there is not repeated.
loop_turns = sa.Table(
    "loop_turns",
    metadata,
    sa.Column("loop_id", sa.ForeignKey("loops.id"), primary_key=True),
    sa.Column("turn", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id")),
    sa.Column("run_id", sa.ForeignKey("training_runs.id")),
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    # Results of the gate's conditions, and whether the checkpoint was promoted.
    sa.Column("gate", JSONB),
    sa.Column("promoted", sa.Boolean),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), unique=True),
    _now(),
)

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
        "purpose in ('generate', 'screen', 'fit', 'review', 'train', 'caption', 'loop')",
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
    _now(),
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
    _now(),
    _one_of("verdict", Verdict),
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
)

# Kept counts (curation.db.counts). Triggers append the changes of a statement to
# round_count_deltas, so that no two transactions wait for one row; the reconcile job adds them to
# round_counts. A count is the sum over both. No foreign keys, as for decisions.
round_counts = sa.Table(
    "round_counts",
    metadata,
    sa.Column("round_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("key", ARRAY(sa.Text), primary_key=True),
    sa.Column("n", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
)

round_count_deltas = sa.Table(
    "round_count_deltas",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("round_id", sa.Integer, nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key", ARRAY(sa.Text), nullable=False),
    sa.Column("n", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
)

# Reports that take longer than a page may, computed by jobs (curation.reporting.kept).
kept_reports = sa.Table(
    "kept_reports",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("subject", sa.Integer, primary_key=True, autoincrement=False),
    # The last decision that it is based on, and the time of its computation.
    sa.Column("marker", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.REAL, nullable=False),
    sa.Column("report", JSONB, nullable=False),
    _now(),
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
    _now(),
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
    _now(),
)
sa.Index("ix_aggregations_round_id_id", aggregations.c.round_id, aggregations.c.id.desc())

# Accepted layers and seeds, which the snapshots consist of.
samples = sa.Table(
    "samples",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("visible", SHA, nullable=False, unique=True),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),  # 0 for seeds
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), unique=True),
    # Its line in future manifests. Captions and imports with --update change it; the table events
    # has the history.
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("caption_source", sa.Text, nullable=False, server_default="given"),
    sa.Column("withdrawn_at", sa.DateTime(timezone=True)),
    _now(),
    _one_of("kind", Kind),
    _one_of("split", Split),
    _one_of("caption_source", CaptionSource),
)

sa.Index("ix_samples_created_at_id", samples.c.created_at.desc(), samples.c.id)

sample_layers = sa.Table(
    "sample_layers",
    metadata,
    sa.Column("sample_id", sa.ForeignKey("samples.id"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), nullable=False, index=True),
    _one_of("role", LayerRole),
)

# Imported folders, and the result for each of their files.
imports = sa.Table(
    "imports",
    metadata,
    sa.Column("id", UUID, primary_key=True),  # derived from the folder's absolute path
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    _now(),
)

import_files = sa.Table(
    "import_files",
    metadata,
    sa.Column("import_id", sa.ForeignKey("imports.id"), primary_key=True),
    # Path inside the folder; for a line of a manifest "path:line".
    sa.Column("name", sa.Text, primary_key=True),
    # Size and time of the file; a changed file is read again.
    sa.Column("stamp", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("codes", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    sa.Column("layer", SHA),
    # The description that was used (curation.ingest.descriptions); null before revision 0008.
    sa.Column("description", JSONB(none_as_null=True)),
)
sa.Index("ix_import_files_layer", import_files.c.layer)

# The event log; append-only.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("data", JSONB, nullable=False, server_default="{}"),
    _now(),
)
sa.Index("ix_events_subject_id", events.c.subject, events.c.id)

# The hash chain over the events (curation.events.chain); append-only. A trigger queues each new
# event for sealing.
event_seals = sa.Table(
    "event_seals",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.ForeignKey("events.id"), nullable=False, unique=True),
    sa.Column("hash", SHA, nullable=False),
    _now(),
)
unsealed_events = sa.Table(
    "unsealed_events",
    metadata,
    sa.Column("event_id", sa.BigInteger, primary_key=True, autoincrement=False),
)

# Receivers of events, and the messages that wait for them: written with their event.
webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", ARRAY(sa.Text), nullable=False),
    # It signs messages, so that its hash would not do.
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("disabled_reason", sa.Text),
    # The first failed attempt since the last one that succeeded.
    sa.Column("failing_since", sa.DateTime(timezone=True)),
    sa.Column("created_by", sa.Text, nullable=False),
    _now(),
)
webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column(
        "webhook_id", sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("event_id", sa.ForeignKey("events.id"), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
    # While a worker sends it, the time at which it may be claimed again.
    sa.Column(
        "next_attempt_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    ),
    sa.Column("last_status", sa.SmallInteger),
    sa.Column("last_error", sa.Text),
    sa.Column("delivered_at", sa.DateTime(timezone=True)),
    _now(),
    sa.CheckConstraint("state in ('pending', 'delivered', 'failed')", name="state"),
)
sa.Index(
    "ix_webhook_deliveries_pending",
    webhook_deliveries.c.next_attempt_at,
    postgresql_where=webhook_deliveries.c.state == "pending",
)

# Captioning runs, and every caption that was written; captions are append-only.
caption_runs = sa.Table(
    "caption_runs",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("background", sa.SmallInteger, nullable=False),  # gray value behind the layers
    sa.Column("max_tokens", sa.SmallInteger, nullable=False),
    sa.Column("recaption", sa.Boolean, nullable=False),
    sa.Column("max_samples", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("progress", JSONB, nullable=False, server_default="{}"),
    sa.Column("error", sa.Text),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    _now(),
    _one_of("state", RunState),
)

captions = sa.Table(
    "captions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("sample_id", sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),  # machine:model@revision, or person:name
    sa.Column("run_id", sa.ForeignKey("caption_runs.id"), index=True),  # null for a person
    _now(),
)

# The projects of a round in Label Studio; a large round has several. All times in these tables
# that the server sets are by its clock.
labeling_projects = sa.Table(
    "labeling_projects",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("server_url", sa.Text, nullable=False),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False),
    sa.Column("part", sa.SmallInteger, nullable=False),
    # ID and creation time on the server, which together identify the project.
    sa.Column("remote_id", sa.BigInteger),
    sa.Column("remote_created_at", sa.DateTime(timezone=True)),
    # Also stored on the server; a smaller value there means that a backup was restored.
    sa.Column("restore_mark", sa.BigInteger, nullable=False, server_default="0"),
    # The next reading must be complete.
    sa.Column("full_read_pending", sa.Boolean, nullable=False, server_default=sa.false()),
    # The server's last error on a repair of the project's settings.
    sa.Column("error", sa.Text),
    # All changes before this time, by the server's clock, have been read.
    sa.Column("read_until", sa.DateTime(timezone=True)),
    sa.Column("pushed_at", sa.DateTime(timezone=True)),
    sa.Column("pulled_at", sa.DateTime(timezone=True)),
    # One process at a time synchronizes a project.
    sa.Column("lock_holder", sa.Text),
    sa.Column("locked_until", sa.DateTime(timezone=True)),
    _now(),
    sa.UniqueConstraint("round_id", "server_url", "part"),
)

# The tasks of these projects, one per candidate.
labeling_tasks = sa.Table(
    "labeling_tasks",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("project_id", sa.ForeignKey("labeling_projects.id"), nullable=False),
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    # Tasks that were sent together; the server is searched for the id before a repetition.
    sa.Column("batch", UUID, nullable=False),
    # ID on the server, once the task exists.
    sa.Column("remote_id", sa.BigInteger),
    # When the task had last changed, as of the last reading.
    sa.Column("remote_updated_at", sa.DateTime(timezone=True)),
    # The server shows tasks with the lowest score first.
    sa.Column("score", sa.REAL),
    # Until then the candidate is shown only in Label Studio, where it is next.
    sa.Column("reserved_until", sa.DateTime(timezone=True)),
    # The server's error, if it refused the task.
    sa.Column("refused", sa.Text),
    _now(),
    sa.CheckConstraint(
        "state in ('sending', 'open', 'annotated', 'removed', 'refused')", name="state"
    ),
)
sa.Index("ix_labeling_tasks_project_id_state", labeling_tasks.c.project_id, labeling_tasks.c.state)
sa.Index(
    "uq_labeling_tasks_live",
    labeling_tasks.c.candidate_id,
    unique=True,
    postgresql_where=labeling_tasks.c.state.in_(["sending", "open"]),
)

# The annotations of these tasks, and the decisions that were made from them.
labeling_annotations = sa.Table(
    "labeling_annotations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
    sa.Column("task_id", sa.ForeignKey("labeling_tasks.id"), nullable=False),
    # ID on the server, which a restored server assigns again.
    sa.Column("remote_id", sa.BigInteger, nullable=False),
    # ID of the task on the server, if there are duplicates; null for the first.
    sa.Column("remote_task_id", sa.BigInteger),
    # Who created it, and when; the time is null in rows of older versions.
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("remote_created_at", sa.DateTime(timezone=True)),
    # E-mail address of the user who is responsible for its content: author or last editor.
    sa.Column("email", sa.Text, nullable=False),
    # The content, and when it last changed.
    sa.Column("content", JSONB, nullable=False),
    sa.Column("content_updated_at", sa.DateTime(timezone=True), nullable=False),
    # The decision that was made from it, or why none was; without either it waits for a lease.
    sa.Column("decision_id", sa.ForeignKey("decisions.id")),
    sa.Column("refused", sa.Text),
    # Deleted on the server.
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
    # Lost on the server, when a backup was restored.
    sa.Column("lost", sa.Boolean, nullable=False, server_default=sa.false()),
    # The note of the task shows that it was refused.
    sa.Column("refusal_shown", sa.Boolean, nullable=False, server_default=sa.false()),
    _now(),
    # Explicit, since the name by the convention would be longer than 63 characters.
    sa.UniqueConstraint(
        "task_id",
        "remote_id",
        "author",
        "remote_created_at",
        name="uq_labeling_annotations_remote_identity",
    ),
)
sa.Index(
    "ix_labeling_annotations_pending",
    labeling_annotations.c.task_id,
    postgresql_where=sa.text("decision_id is null and refused is null and not deleted"),
)

# Which reviewer a user of Label Studio is.
labeling_users = sa.Table(
    "labeling_users",
    metadata,
    sa.Column("email", sa.Text, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    _now(),
)

# Jobs that are in the queue; an equal job is not sent again until a worker takes it.
pending_jobs = sa.Table(
    "pending_jobs",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("args", sa.Text, primary_key=True),
    _now(),
)

# The live worker processes (curation.db.workers); a row whose heartbeat stopped is removed.
workers = sa.Table(
    "workers",
    metadata,
    # The holder of its leases (curation.runtime.lease_holders.WORKER_ID).
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("queues", ARRAY(sa.Text), nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column(
        "started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    ),
    sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("state", sa.Text, nullable=False),
    # Why it is paused: the kind of work, the error, and when it tries again.
    sa.Column("reason", sa.Text),
    # What it does now, such as "generate 3".
    sa.Column("job", sa.Text),
    sa.Column("last_error", sa.Text),
    sa.CheckConstraint("state in ('idle', 'busy', 'paused', 'draining')", name="state"),
)

# The secret that signs cookies and URLs (curation.db.secrets). The column "secret" is null if
# LAYERLOOP_SECRET names it; the fingerprint detects processes with another one.
instance_secrets = sa.Table(
    "instance_secrets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("secret", sa.Text),
    sa.Column("fingerprint", sa.Text, nullable=False),
    _now(),
)

APPEND_ONLY = (decisions, events, event_seals, captions, aggregations)
"""Tables whose rows cannot be updated or deleted, which triggers in the database enforce."""
