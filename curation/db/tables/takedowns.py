"""Takedowns: what was removed for ever, by hashes alone, so that it is never imported again."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from curation.db.tables.columns import SHA, created_at, metadata

# One row per takedown. What it selected is stored as a hash, since a source or a name may be
# personal; a reviewer's row has no blocked layers.
takedowns = sa.Table(
    "takedowns",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("selector", sa.Text, nullable=False),
    sa.Column("selector_hash", SHA, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("counts", JSONB, nullable=False, server_default="{}"),
    # The record in the object store, and its HMAC with the instance's secret, once it is finished.
    sa.Column("record", SHA),
    sa.Column("signature", SHA),
    sa.Column("finished_at", sa.DateTime(timezone=True)),
    created_at(),
    sa.CheckConstraint(
        "selector in ('source', 'sample', 'licence', 'image', 'reviewer', 'record')",
        name="selector",
    ),
    sa.CheckConstraint("state in ('removing', 'finished')", name="state"),
    sa.CheckConstraint("(state = 'finished') = (record is not null)", name="finished"),
)

# What a takedown concerns, so that an interrupted one goes on: ids of samples, candidates,
# snapshots, checkpoints and runs, names of objects to remove, the number of a reviewer, and
# addresses of packs that hold no row of it any more, or that could not be reached.
takedown_items = sa.Table(
    "takedown_items",
    metadata,
    sa.Column("takedown_id", sa.ForeignKey("takedowns.id"), primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.CheckConstraint(
        "kind in ('sample', 'candidate', 'snapshot', 'checkpoint', 'run', 'object', 'reviewer', "
        "'pack', 'unreached_pack')",
        name="kind",
    ),
)

sa.Index("ix_takedown_items_name", takedown_items.c.name)

# Where snapshots were packed, so that a takedown finds their shards: the absolute path of a folder
# or the URL of a bucket, the URL of its server if it is not the provider's, and the last machine
# that wrote there.
packs = sa.Table(
    "packs",
    metadata,
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("machine", sa.Text, nullable=False),
    created_at(),
)

# The removed layers: no path of import records them again (curation.datasets.blocked).
blocked_layers = sa.Table(
    "blocked_layers",
    metadata,
    sa.Column("sha256", SHA, primary_key=True),
    # Hash of the visible pixels, equal for every lossless encoding.
    sa.Column("visible", SHA, nullable=False, index=True),
    # Perceptual hash, and its bands for the search of near duplicates; null if it was never made.
    sa.Column("fingerprint", sa.LargeBinary),
    sa.Column("bands", ARRAY(sa.Integer), nullable=False, server_default="{}"),
    sa.Column("takedown_id", sa.ForeignKey("takedowns.id"), nullable=False),
    created_at(),
)

sa.Index("ix_blocked_layers_bands", blocked_layers.c.bands, postgresql_using="gin")
