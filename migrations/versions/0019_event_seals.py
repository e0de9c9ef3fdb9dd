"""The hash chain over the event log.

Revision 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

TRIGGERS = """
create function queue_for_sealing() returns trigger language plpgsql as $$
begin
    insert into unsealed_events (event_id) select id from added;
    return null;
end $$;
create trigger queue_for_sealing after insert on events
    referencing new table as added for each statement execute function queue_for_sealing();
create trigger append_only before update or delete or truncate on event_seals
    for each statement execute function append_only();
"""


def upgrade() -> None:
    op.create_table(
        "event_seals",
        sa.Column("position", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("event_id", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_event_seals")),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_event_seals_event_id_events")),
        sa.UniqueConstraint("event_id", name=op.f("uq_event_seals_event_id")),
    )
    op.create_table(
        "unsealed_events",
        sa.Column("event_id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_unsealed_events")),
    )
    op.execute("insert into unsealed_events (event_id) select id from events")
    op.execute(TRIGGERS)


def downgrade() -> None:
    op.execute("drop trigger queue_for_sealing on events")
    op.execute("drop function queue_for_sealing()")
    op.drop_table("unsealed_events")
    op.drop_table("event_seals")
