"""Prompts, layers, samples, imports, captions and snapshots."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from curation.db.tables.columns import SHA, created_at, metadata, one_of
from curation.domain import CaptionSource, Kind, LayerRole, RunState, Split

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
    # No foreign key: without an index on this column, removing a layer would read the whole table.
    sa.Column("sha256", SHA, primary_key=True),
)

# Frozen sets of samples; the manifests are in the object store.
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", SHA, primary_key=True),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("counts", JSONB, nullable=False),
    # The query of its first freeze (curation.datasets.freeze_query); null before revision 0025.
    sa.Column("query", JSONB(none_as_null=True)),
    # Its predecessor.
    sa.Column("parent_id", sa.ForeignKey("snapshots.id")),
    # Counts of the decided candidates that it has beside the samples; null without them.
    sa.Column("decisions", JSONB(none_as_null=True)),
    # Statistics of the decisions on its samples when it was frozen.
    sa.Column("review", JSONB(none_as_null=True)),
    # The takedown that removed samples of it, and with them its objects; the snapshot of the rest.
    sa.Column("taken_down_by", sa.ForeignKey("takedowns.id")),
    sa.Column("successor_id", sa.ForeignKey("snapshots.id")),
    created_at(),
)

# Remarks of people on snapshots; append-only.
snapshot_notes = sa.Table(
    "snapshot_notes",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    created_at(),
)

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("snapshot_id", sa.ForeignKey("snapshots.id"), nullable=False),
    created_at(),
)

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
    # When its objects were found whole in the store (curation.datasets.object_check).
    sa.Column("checked_at", sa.DateTime(timezone=True)),
    created_at(),
    one_of("kind", Kind),
    one_of("split", Split),
    one_of("caption_source", CaptionSource),
)

sa.Index("ix_samples_created_at_id", samples.c.created_at, samples.c.id)

sa.Index("ix_samples_unchecked", samples.c.id, postgresql_where=samples.c.checked_at.is_(None))

sample_layers = sa.Table(
    "sample_layers",
    metadata,
    sa.Column("sample_id", sa.ForeignKey("samples.id"), primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),
    sa.Column("sha256", sa.ForeignKey("layers.sha256"), nullable=False, index=True),
    one_of("role", LayerRole),
)

# Imported folders, and the result for each of their files.
imports = sa.Table(
    "imports",
    metadata,
    sa.Column("id", UUID, primary_key=True),  # derived from the folder's absolute path
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    created_at(),
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
    created_at(),
    one_of("state", RunState),
)

captions = sa.Table(
    "captions",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("sample_id", sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),  # machine:model@revision, or person:name
    sa.Column("run_id", sa.ForeignKey("caption_runs.id"), index=True),  # null for a person
    created_at(),
)
