"""Indexes in the order of the pages of lists: samples, deliveries, and events by kind or actor.

Revision 0029
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.drop_index("ix_samples_created_at_id", "samples")
    op.create_index("ix_samples_created_at_id", "samples", ["created_at", "id"])
    op.create_index(
        "ix_webhook_deliveries_created_at_id", "webhook_deliveries", ["created_at", "id"]
    )
    op.create_index("ix_events_kind_id", "events", ["kind", "id"])
    op.create_index("ix_events_actor_id", "events", ["actor", "id"])


def downgrade() -> None:
    op.drop_index("ix_events_actor_id", "events")
    op.drop_index("ix_events_kind_id", "events")
    op.drop_index("ix_webhook_deliveries_created_at_id", "webhook_deliveries")
    op.drop_index("ix_samples_created_at_id", "samples")
    op.create_index("ix_samples_created_at_id", "samples", [sa.text("created_at desc"), "id"])
