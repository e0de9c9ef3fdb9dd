"""Sessions as rows, and tags that are the beginning of a snapshot's id renamed.

Revision 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0007"

RENAME = """
with shadowed as (
  select distinct t.name from tags t join snapshots s on length(t.name) >= 8 and starts_with(s.id, t.name)
), renamed as (
  update tags set name = 'tag-' || left(tags.name, 96) from shadowed where tags.name = shadowed.name
  and not exists (select from tags o where o.name = 'tag-' || left(tags.name, 96))
  returning shadowed.name as old, tags.name as new, tags.snapshot_id as snapshot
)
insert into events (actor, kind, subject, data)
select 'migration', 'tag renamed', 'tag ' || old, jsonb_build_object('name', new, 'snapshot', snapshot) from renamed
"""
"""An id is found before a tag, so a tag that is the beginning of an id could be reached no more."""


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("reviewer_id", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["reviewer_id"], ["reviewers.id"], name=op.f("fk_sessions_reviewer_id_reviewers")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_reviewer_id"), "sessions", ["reviewer_id"])
    op.execute(RENAME)


def downgrade() -> None:
    op.drop_table("sessions")
