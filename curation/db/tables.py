"""The records: every table, with the constraints and indexes that a million candidates need."""

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
    return sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def _one_of(column: str, words: type) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)  # type: ignore[attr-defined]  # every StrEnum is iterable
    return sa.CheckConstraint(f"{column} in ({listed})", name=column)


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

# Multi-index hashing: two fingerprints within d bits of each other share at least one of d + 1 bands.
layer_bands = sa.Table(
    "layer_bands",
    metadata,
    sa.Column("band", sa.SmallInteger, primary_key=True),
    sa.Column("value", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), primary_key=True),
)

reviewers = sa.Table(
    "reviewers",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("access", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("paused", sa.Text),  # why gold paused them; null while they may decide
    sa.Column(
        "resumed_at", sa.DateTime(timezone=True)
    ),  # gold before this no longer counts against them
    _now(),
    sa.CheckConstraint("kind in ('person', 'oracle', 'machine')", name="kind"),
    _one_of("access", Role),
)

# Only the hash of a sign-in token is kept, so that a copy of the database lets nobody in.
sign_in_tokens = sa.Table(
    "sign_in_tokens",
    metadata,
    sa.Column("hash", SHA, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("used_at", sa.DateTime(timezone=True)),
    _now(),
)

# A session's row is what a cookie is worth: ended here, it is ended everywhere. Only the hash of its token is kept.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", SHA, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False, index=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    _now(),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", SHA, primary_key=True),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("counts", JSONB, nullable=False),
    _now(),
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id"), nullable=False),
    _now(),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("id", SHA, primary_key=True),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("preset", sa.Text, nullable=False),
    sa.Column(
        "snapshot_id", SHA
    ),  # none for imported weights; a checkpoint of another home has its own
    sa.Column("parent_id", SHA),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("files", JSONB, nullable=False),
    sa.Column("evaluation", JSONB, nullable=False),
    sa.Column("changes", JSONB, nullable=False, server_default="{}"),  # of the preset's numbers
    sa.Column("sheet", SHA),
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
    sa.Column("error", sa.Text),
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    _now(),
    _one_of("state", RunState),
    sa.CheckConstraint("(state = 'finished') = (checkpoint_id is not null)", name="finished"),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column(
        "purpose", sa.Text, nullable=False
    ),  # "drawn" by a checkpoint, "seeds": imports reviewed, "gold"
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("quota", sa.Integer, nullable=False),
    sa.Column("policy", JSONB, nullable=False),
    sa.Column(
        "consensus", JSONB, nullable=False, server_default="{}"
    ),  # curation.review.consensus.Consensus
    sa.Column("gold", JSONB, nullable=False, server_default="{}"),  # curation.review.gold.GoldTerms
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("desk", sa.Text),  # "pages" or "label-studio"; none: the one that the settings name
    sa.Column("closed_at", sa.DateTime(timezone=True)),
    _now(),
    _one_of("kind", Kind),
    _one_of("state", RoundState),
    sa.CheckConstraint("purpose in ('drawn', 'seeds', 'gold')", name="purpose"),
    sa.CheckConstraint("(purpose = 'drawn') = (checkpoint_id is not null)", name="checkpoint"),
    sa.CheckConstraint("quota >= 0", name="quota"),
)

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
    sa.Column(
        "decided", sa.SmallInteger, nullable=False, server_default="0"
    ),  # standing verdicts, where several count
    sa.Column(
        "slice", sa.Text
    ),  # of a policy: which part of it chose the candidate (curation.selection.select)
    sa.Column("flags", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column(
        "note", sa.Text
    ),  # why it failed; licence and source of an imported file live in `origin`
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
# The rows each job takes next, in the order it takes them: claims stay flat however many rows are done.
sa.Index("ix_candidates_waiting", candidates.c.round_id, candidates.c.decided, candidates.c.priority.desc(),
         candidates.c.id, postgresql_where=candidates.c.state == "waiting")  # fmt: skip
sa.Index("ix_candidates_requested", candidates.c.round_id, candidates.c.id,
         postgresql_where=candidates.c.state == "requested")  # fmt: skip
sa.Index("ix_candidates_drawn", candidates.c.round_id, candidates.c.id,
         postgresql_where=candidates.c.state == "drawn")  # fmt: skip
sa.Index("ix_candidates_screened", candidates.c.round_id, candidates.c.id,
         postgresql_where=candidates.c.state == "screened")  # fmt: skip
sa.Index("ix_candidates_round_id_state", candidates.c.round_id, candidates.c.state)

candidate_layers = sa.Table(
    "candidate_layers",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), nullable=False, index=True),
    _one_of("role", LayerRole),
)

screenings = sa.Table(
    "screenings",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("signals", JSONB, nullable=False),
    sa.Column("refused_by", sa.Text),
    sa.Column("refused_value", sa.Double),
    sa.Column("sentence", sa.Text),
    _now(),
)

embeddings = sa.Table(
    "embeddings",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("source", sa.Text, nullable=False),  # whose numbers they are: ports.Embedder
    sa.Column("vector", sa.LargeBinary, nullable=False),
)

heads = sa.Table(
    "heads",
    metadata,
    sa.Column("id", SHA, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("embedder", sa.Text, nullable=False),
    sa.Column("teacher", sa.Text, nullable=False),  # whose decisions taught it
    sa.Column("last_decision", sa.BigInteger, nullable=False),
    sa.Column("numbers", JSONB, nullable=False),
    sa.Column("figures", JSONB, nullable=False),
    _now(),
    _one_of("kind", Kind),
    sa.CheckConstraint("teacher in ('person', 'oracle')", name="teacher"),
)

scores = sa.Table(
    "scores",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("head_id", sa.ForeignKey("heads.id"), nullable=False),
    sa.Column("chance", sa.REAL, nullable=False),  # of being accepted
    sa.Column("cluster", sa.SmallInteger, nullable=False),
)

# Every look that was taken at whether the machine may decide, since each costs some of the certainty.
gates = sa.Table(
    "gates",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False, index=True),
    sa.Column("head_id", sa.ForeignKey("heads.id"), nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("look", sa.Integer, nullable=False),
    sa.Column("threshold", sa.REAL),  # null where none was proven
    sa.Column("figures", JSONB, nullable=False),
    sa.Column("closed_at", sa.DateTime(timezone=True)),
    _now(),
    sa.UniqueConstraint("round_id", "verdict", "look"),
    sa.CheckConstraint("verdict in ('accept', 'reject')", name="verdict"),
)

scalings = sa.Table(
    "scalings",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False, index=True),
    sa.Column("head_id", sa.ForeignKey("heads.id"), nullable=False),
    sa.Column("keep", sa.Integer, nullable=False),
    sa.Column("audit", sa.Integer, nullable=False),
    sa.Column("least", sa.REAL, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("figures", JSONB, nullable=False, server_default="{}"),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    _now(),
    sa.CheckConstraint("outcome in ('accepted', 'refused')", name="outcome"),
)

scaled = sa.Table(
    "scaled",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("scaling_id", sa.ForeignKey("scalings.id"), primary_key=True, index=True),
    sa.Column("audited", sa.Boolean, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("subject", UUID, primary_key=True),  # a candidate, or a run of training or captions
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("holder", sa.Text, nullable=False, index=True),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, index=True),
    sa.Column(
        "page", UUID
    ),  # of review: the open page of the holder that uses it; none where no page said so
    sa.CheckConstraint("purpose in ('draw', 'review', 'train', 'caption')", name="purpose"),
)

# Every candidate that a reviewer ever held a lease on, also after the lease ran out: only those may they decide.
claims = sa.Table(
    "claims",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), primary_key=True),
    sa.Column(
        "unfinished", sa.Boolean, nullable=False, server_default=sa.true()
    ),  # until a verdict or a skip
    _now(),
)
sa.Index(
    "ix_claims_unfinished",
    claims.c.reviewer_id,
    claims.c.candidate_id,
    postgresql_where=claims.c.unfinished,
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), nullable=False, index=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reasons", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column(
        "layers", ARRAY(sa.Text), nullable=False, server_default="{}"
    ),  # of a pair: which each reason concerns
    sa.Column("comment", sa.Text, nullable=False, server_default=""),
    sa.Column("dwell_ms", sa.Integer),
    sa.Column("desk", sa.Text, nullable=False),
    sa.Column(
        "key", UUID, nullable=False, unique=True
    ),  # the page's own: a repeated submission is one decision
    sa.Column("checkpoint_id", sa.ForeignKey("checkpoints.id")),
    sa.Column("propensity", sa.REAL),
    sa.Column("undoes", sa.ForeignKey("decisions.id"), unique=True),
    sa.Column(
        "final", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # of several: decided over the others
    _now(),
    _one_of("verdict", Verdict),
    sa.CheckConstraint("(verdict = 'undo') = (undoes is not null)", name="undoes"),
    sa.CheckConstraint("dwell_ms >= 0", name="dwell"),
    sa.CheckConstraint("cardinality(layers) in (0, cardinality(reasons))", name="layers"),
)
sa.Index("ix_decisions_reviewer_id_id", decisions.c.reviewer_id, decisions.c.id.desc())

# Candidates whose verdict is known, hidden among those of a round; they belong to a round of their own, so no figure
# of another round ever counts them.
gold = sa.Table(
    "gold",
    metadata,
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), primary_key=True),
    sa.Column(
        "round_id", sa.ForeignKey("rounds.id"), nullable=False, index=True
    ),  # among whose candidates it hides
    sa.Column("sample_id", UUID, nullable=False),
    sa.Column("defect", sa.Text),  # curation.screening.defects; null for a clean copy
    sa.Column("severity", sa.REAL, nullable=False),
    _now(),
    sa.CheckConstraint("severity between 0 and 1", name="severity"),
    sa.CheckConstraint("(defect is null) = (severity = 0)", name="clean"),
)

aggregations = sa.Table(
    "aggregations",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False),
    sa.Column("sound", sa.Double, nullable=False),
    sa.Column(
        "skills", JSONB, nullable=False
    ),  # reviewer: accepts what is sound, rejects what is not
    sa.Column("votes", sa.Integer, nullable=False),
    _now(),
)
sa.Index("ix_aggregations_round_id_id", aggregations.c.round_id, aggregations.c.id.desc())

samples = sa.Table(
    "samples",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("visible", SHA, nullable=False, unique=True),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),  # 0 for seeds
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), unique=True),
    # Its line in manifests to come; captions, and imports with --update, change it, which the events remember.
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("caption_source", sa.Text, nullable=False, server_default="given"),
    sa.Column("withdrawn_at", sa.DateTime(timezone=True)),
    _now(),
    _one_of("kind", Kind),
    _one_of("split", Split),
    _one_of("caption_source", CaptionSource),
)

sample_layers = sa.Table(
    "sample_layers",
    metadata,
    sa.Column("sample_id", sa.ForeignKey("samples.id"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), nullable=False, index=True),
    _one_of("role", LayerRole),
)

imports = sa.Table(
    "imports",
    metadata,
    sa.Column("id", UUID, primary_key=True),  # of the folder's absolute path
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    _now(),
)

import_files = sa.Table(
    "import_files",
    metadata,
    sa.Column("import_id", sa.ForeignKey("imports.id"), primary_key=True),
    sa.Column(
        "name", sa.Text, primary_key=True
    ),  # path inside the folder; manifests' lines as "name:line"
    sa.Column(
        "stamp", sa.Text, nullable=False
    ),  # size and time of the file: a changed file is read again
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("codes", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("sentence", sa.Text, nullable=False, server_default=""),
    sa.Column("layer", SHA),
    sa.Column(
        "described", JSONB(none_as_null=True)
    ),  # the description that was taken (curation.ingest.descriptions); null before 0008
)
sa.Index("ix_import_files_layer", import_files.c.layer)

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

caption_runs = sa.Table(
    "caption_runs",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("background", sa.SmallInteger, nullable=False),  # the grey that layers were shown on
    sa.Column("tokens", sa.SmallInteger, nullable=False),
    sa.Column("again", sa.Boolean, nullable=False),
    sa.Column("most", sa.Integer, nullable=False),
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
    sa.Column("run_id", sa.ForeignKey("caption_runs.id"), index=True),  # null for a person's
    _now(),
)

# A round's place at Label Studio: boards there, of which a large round has several.
desk_boards = sa.Table(
    "desk_boards",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("desk", sa.Text, nullable=False),  # its address
    sa.Column("round_id", sa.ForeignKey("rounds.id"), nullable=False),
    sa.Column("part", sa.SmallInteger, nullable=False),
    sa.Column("number", sa.BigInteger),  # the desk's own for it, once it is made
    sa.Column(
        "made_at", sa.DateTime(timezone=True)
    ),  # by the desk's clock: with its number, what identifies it there
    sa.Column(
        "mark", sa.BigInteger, nullable=False, server_default="0"
    ),  # written there too; less there: a backup
    sa.Column(
        "reread", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # the next reading is of everything
    sa.Column("trouble", sa.Text),  # what the desk refuses just now
    sa.Column(
        "read_until", sa.DateTime(timezone=True)
    ),  # by the desk's clock: what changed before is taken in
    sa.Column("put_up_at", sa.DateTime(timezone=True)),
    sa.Column("collected_at", sa.DateTime(timezone=True)),
    sa.Column("holder", sa.Text),  # one process at a time speaks with the desk about a board
    sa.Column("held_until", sa.DateTime(timezone=True)),
    _now(),
    sa.UniqueConstraint("round_id", "desk", "part"),
)

desk_postings = sa.Table(
    "desk_postings",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("board_id", sa.ForeignKey("desk_boards.id"), nullable=False),
    sa.Column("candidate_id", sa.ForeignKey("candidates.id"), nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column(
        "batch", UUID, nullable=False
    ),  # what was sent together, and is looked for before it is sent again
    sa.Column("number", sa.BigInteger),  # the desk's own for it, once it is there
    sa.Column(
        "seen_at", sa.DateTime(timezone=True)
    ),  # by the desk's clock: when it had last changed
    sa.Column("score", sa.REAL),  # people there get the lowest first
    sa.Column(
        "reserved_until", sa.DateTime(timezone=True)
    ),  # people there get it next: the pages leave it alone
    sa.Column("refused", sa.Text),  # why the desk does not take it
    _now(),
    sa.CheckConstraint("state in ('sending', 'up', 'answered', 'down', 'refused')", name="state"),
)
sa.Index("ix_desk_postings_board_id_state", desk_postings.c.board_id, desk_postings.c.state)
sa.Index("uq_desk_postings_live", desk_postings.c.candidate_id, unique=True,
         postgresql_where=desk_postings.c.state.in_(["sending", "up"]))  # fmt: skip

desk_answers = sa.Table(
    "desk_answers",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
    sa.Column("posting_id", sa.ForeignKey("desk_postings.id"), nullable=False),
    sa.Column(
        "number", sa.BigInteger, nullable=False
    ),  # the desk's own for it, which a restored desk gives again
    sa.Column(
        "task", sa.BigInteger
    ),  # the desk's own for the copy of the posting that it answers; none: the first
    sa.Column("author", sa.Text, nullable=False),  # who made it
    sa.Column(
        "made_at", sa.DateTime(timezone=True)
    ),  # by the desk's clock; none in rows of older versions
    sa.Column(
        "person", sa.Text, nullable=False
    ),  # who said what it says now: its author, or who edited it
    sa.Column("said", JSONB, nullable=False),
    sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),  # by the desk's clock
    sa.Column("decision_id", sa.ForeignKey("decisions.id")),  # what it became
    sa.Column(
        "refused", sa.Text
    ),  # or why it became none; without either it waits for a lease to end
    sa.Column("gone", sa.Boolean, nullable=False, server_default=sa.false()),  # taken back there
    sa.Column(
        "forgotten", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # lost there by a restored backup
    sa.Column(
        "shown", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # the task there says it was refused
    _now(),
    sa.UniqueConstraint("posting_id", "number", "author", "made_at"),
)
sa.Index("ix_desk_answers_pending", desk_answers.c.posting_id,
         postgresql_where=sa.text("decision_id is null and refused is null and not gone"))  # fmt: skip

desk_people = sa.Table(
    "desk_people",
    metadata,
    sa.Column("email", sa.Text, primary_key=True),
    sa.Column("reviewer_id", sa.ForeignKey("reviewers.id"), nullable=False),
    _now(),
)

# Jobs that were sent to the queue and not taken yet: each is asked for once until a worker takes it.
pending_jobs = sa.Table(
    "pending_jobs",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("args", sa.Text, primary_key=True),
    _now(),
)

APPEND_ONLY = (decisions, events, captions, aggregations)
"""Tables whose rows the database refuses to change or remove."""
