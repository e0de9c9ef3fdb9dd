"""Takedowns: records of what was removed for ever, and what may never be imported again.

Revision 0031
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0031"
down_revision = "0030"

SHA = sa.String(64)
STATES = (
    "requested", "generating", "generated", "refused", "screened", "unshown", "waiting", "showing",
    "accepted", "rejected", "failed", "withdrawn",
)  # fmt: skip

# Rows of append-only tables are still never removed, but a takedown may empty their content. The
# seals of the audit log stay as they are.
ALLOW_TAKEDOWNS = """
create or replace function append_only() returns trigger language plpgsql as $$
begin
    if tg_op <> 'TRUNCATE' and tg_table_name <> 'event_seals'
            and current_setting('layerloop.takedown', true) = 'on' then
        return null;
    end if;
    raise exception 'rows of % are never changed or removed', tg_table_name using errcode = 'check_violation';
end $$"""
FORBID_TAKEDOWNS = """
create or replace function append_only() returns trigger language plpgsql as $$
begin
    raise exception 'rows of % are never changed or removed', tg_table_name using errcode = 'check_violation';
end $$"""


def upgrade() -> None:
    _create_tables()
    op.add_column("snapshots", sa.Column("taken_down_by", sa.Uuid()))
    op.add_column("snapshots", sa.Column("successor_id", SHA))
    op.add_column("checkpoints", sa.Column("tainted_by", sa.Uuid()))
    _refer("snapshots", "taken_down_by", "takedowns")
    _refer("snapshots", "successor_id", "snapshots")
    _refer("checkpoints", "tainted_by", "takedowns")
    _allow_states((*STATES, "removed"))
    moves = ", ".join(f"('{state}', 'removed')" for state in STATES)
    op.execute(f"insert into candidate_moves (source, target) values {moves}")
    op.execute(ALLOW_TAKEDOWNS)
    # Without an index on its column, removing a layer would read the whole table.
    op.drop_constraint(op.f("fk_layer_bands_sha256_layers"), "layer_bands", type_="foreignkey")


def downgrade() -> None:
    op.execute(
        "delete from layer_bands b where not exists (select from layers l where l.sha256 = b.sha256)"
    )
    op.create_foreign_key(
        op.f("fk_layer_bands_sha256_layers"), "layer_bands", "layers", ["sha256"], ["sha256"]
    )
    op.execute(FORBID_TAKEDOWNS)
    op.execute("delete from candidate_moves where target = 'removed'")
    # Without its layers a removed candidate is most like one of a closed round.
    op.execute("alter table candidates disable trigger user")
    op.execute("update candidates set state = 'withdrawn' where state = 'removed'")
    op.execute("alter table candidates enable trigger user")
    _allow_states(STATES)
    for table, column in (
        ("checkpoints", "tainted_by"),
        ("snapshots", "successor_id"),
        ("snapshots", "taken_down_by"),
    ):
        op.drop_column(table, column)
    for table in ("blocked_layers", "takedown_items", "takedowns"):
        op.drop_table(table)


def _create_tables() -> None:
    op.create_table(
        "takedowns",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("selector", sa.Text, nullable=False),
        sa.Column("selector_hash", SHA, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("counts", JSONB, nullable=False, server_default="{}"),
        sa.Column("record", SHA),
        sa.Column("signature", SHA),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        _now(),
        sa.CheckConstraint(
            "selector in ('source', 'sample', 'licence', 'image', 'reviewer', 'record')",
            name=op.f("ck_takedowns_selector"),
        ),
        sa.CheckConstraint("state in ('removing', 'finished')", name=op.f("ck_takedowns_state")),
        sa.CheckConstraint(
            "(state = 'finished') = (record is not null)", name=op.f("ck_takedowns_finished")
        ),
    )
    op.create_table(
        "takedown_items",
        sa.Column("takedown_id", sa.Uuid(), primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.CheckConstraint(
            "kind in ('sample', 'candidate', 'snapshot', 'checkpoint', 'run', 'object', "
            "'reviewer')",
            name=op.f("ck_takedown_items_kind"),
        ),
    )
    _refer("takedown_items", "takedown_id", "takedowns")
    op.create_index("ix_takedown_items_name", "takedown_items", ["name"])
    op.create_table(
        "blocked_layers",
        sa.Column("sha256", SHA, primary_key=True),
        sa.Column("visible", SHA, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary),
        sa.Column("bands", ARRAY(sa.Integer), nullable=False, server_default="{}"),
        sa.Column("takedown_id", sa.Uuid(), nullable=False),
        _now(),
    )
    _refer("blocked_layers", "takedown_id", "takedowns")
    op.create_index("ix_blocked_layers_visible", "blocked_layers", ["visible"])
    op.create_index("ix_blocked_layers_bands", "blocked_layers", ["bands"], postgresql_using="gin")


def _now() -> "sa.Column[sa.DateTime]":
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    )


def _refer(table: str, column: str, target: str) -> None:
    op.create_foreign_key(f"fk_{table}_{column}_{target}", table, target, [column], ["id"])


def _allow_states(states: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{state}'" for state in states)
    op.drop_constraint(op.f("ck_candidates_state"), "candidates", type_="check")
    op.create_check_constraint(op.f("ck_candidates_state"), "candidates", f"state in ({listed})")
