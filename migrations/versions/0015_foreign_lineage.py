"""A checkpoint may come from another home: its snapshot and its parent need not be in this one.

Revision 0015
"""

from alembic import op

revision = "0015"
down_revision = "0011"


def upgrade() -> None:
    op.drop_constraint(op.f("fk_checkpoints_snapshot_id_snapshots"), "checkpoints", type_="foreignkey")
    op.drop_constraint(op.f("fk_checkpoints_parent_id_checkpoints"), "checkpoints", type_="foreignkey")


def downgrade() -> None:
    for column, table in (("snapshot_id", "snapshots"), ("parent_id", "checkpoints")):
        op.execute(f"delete from checkpoints where {column} not in (select id from {table})")
        name = op.f(f"fk_checkpoints_{column}_{table}")
        op.create_foreign_key(name, "checkpoints", table, [column], ["id"])
