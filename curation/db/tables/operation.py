"""Pending jobs, live workers and the signing secret."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.tables.columns import created_at, metadata

# Jobs that are in the queue; an equal job is not sent again until a worker takes it.
pending_jobs = sa.Table(
    "pending_jobs",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("args", sa.Text, primary_key=True),
    created_at(),
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
    # Its present work, such as "generate 3".
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
    created_at(),
)
