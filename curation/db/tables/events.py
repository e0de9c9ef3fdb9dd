"""The event log, its hash chain, and webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from curation.db.tables.columns import SHA, created_at, metadata

# The event log; append-only.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("data", JSONB, nullable=False, server_default="{}"),
    created_at(),
)

sa.Index("ix_events_subject_id", events.c.subject, events.c.id)
sa.Index("ix_events_kind_id", events.c.kind, events.c.id)
sa.Index("ix_events_actor_id", events.c.actor, events.c.id)

# The hash chain over the events (curation.events.chain); append-only. A trigger queues each new
# event for sealing.
event_seals = sa.Table(
    "event_seals",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.ForeignKey("events.id"), nullable=False, unique=True),
    sa.Column("hash", SHA, nullable=False),
    created_at(),
)

unsealed_events = sa.Table(
    "unsealed_events",
    metadata,
    sa.Column("event_id", sa.BigInteger, primary_key=True, autoincrement=False),
)

# Receivers of events, and their pending messages, which are written with the event.
webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", ARRAY(sa.Text), nullable=False),
    # Stored in plain text, since messages are signed with it.
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("disabled_reason", sa.Text),
    # The first failed attempt since the last one that succeeded.
    sa.Column("failing_since", sa.DateTime(timezone=True)),
    sa.Column("created_by", sa.Text, nullable=False),
    created_at(),
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
    created_at(),
    sa.CheckConstraint("state in ('pending', 'delivered', 'failed')", name="state"),
)

sa.Index(
    "ix_webhook_deliveries_pending",
    webhook_deliveries.c.next_attempt_at,
    postgresql_where=webhook_deliveries.c.state == "pending",
)

sa.Index(
    "ix_webhook_deliveries_created_at_id",
    webhook_deliveries.c.created_at,
    webhook_deliveries.c.id,
)
