"""Blind comparisons of two checkpoints.

Revision 0036
"""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"

SHA = sa.String(64)
PURPOSES = ("generate", "screen", "fit", "review", "train", "caption", "loop")
ADDED = ("draw_comparisons", "compare")
TABLES = (
    "comparison_votes", "comparison_layers", "comparison_drawings", "comparison_items",
    "comparisons",
)  # fmt: skip


def upgrade() -> None:
    _allow_purposes((*PURPOSES, *ADDED))
    _create_comparisons()
    _create_items()
    _create_drawings()
    _create_votes()
    op.execute(
        "create trigger append_only before update or delete or truncate on comparison_votes "
        "for each statement execute function append_only()"
    )


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    listed = ", ".join(f"'{purpose}'" for purpose in ADDED)
    op.execute(f"delete from leases where purpose in ({listed})")
    _allow_purposes(PURPOSES)


def _create_comparisons() -> None:
    op.create_table(
        "comparisons",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("a_checkpoint_id", SHA, nullable=False),
        sa.Column("a_method", sa.Text, nullable=False),
        sa.Column("b_checkpoint_id", SHA, nullable=False),
        sa.Column("b_method", sa.Text, nullable=False),
        sa.Column("segmenter", sa.Text),
        sa.Column("items", sa.Integer, nullable=False),
        sa.Column("votes", sa.SmallInteger, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("side_key", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        _now(),
        _one_of("comparisons", "kind", "single", "pair"),
        _one_of("comparisons", "a_method", "generated", "matted"),
        _one_of("comparisons", "b_method", "generated", "matted"),
        _one_of("comparisons", "state", "open", "closed"),
        _check(
            "comparisons",
            "sides",
            "(a_checkpoint_id, a_method) is distinct from (b_checkpoint_id, b_method)",
        ),
        _check("comparisons", "counts", "items > 0 and votes > 0"),
        _check("comparisons", "side_key", "length(side_key) = 32"),
        _check("comparisons", "closed", "(state = 'closed') = (closed_at is not null)"),
    )
    for column in ("a_checkpoint_id", "b_checkpoint_id"):
        _refer("comparisons", column, "checkpoints", "id")
        op.create_index(f"ix_comparisons_{column}", "comparisons", [column])


def _create_items() -> None:
    op.create_table(
        "comparison_items",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("comparison_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("prompt_id", sa.Uuid(), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("waiting", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("voted", sa.SmallInteger, nullable=False, server_default="0"),
        sa.UniqueConstraint(
            "comparison_id", "position", name="uq_comparison_items_comparison_id_position"
        ),
        _check("comparison_items", "voted", "voted >= 0"),
    )
    _refer("comparison_items", "comparison_id", "comparisons", "id")
    _refer("comparison_items", "prompt_id", "prompts", "id")
    op.create_index(
        "ix_comparison_items_waiting",
        "comparison_items",
        ["comparison_id", "position"],
        postgresql_where=sa.text("waiting"),
    )


def _create_drawings() -> None:
    op.create_table(
        "comparison_drawings",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("comparison_id", sa.Integer, nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("side", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("note", sa.Text),
        sa.UniqueConstraint("item_id", "side", name="uq_comparison_drawings_item_id_side"),
        _one_of("comparison_drawings", "side", "a", "b"),
        _one_of(
            "comparison_drawings",
            "state",
            "requested", "generating", "generated", "failed", "removed",
        ),  # fmt: skip
    )
    _refer("comparison_drawings", "comparison_id", "comparisons", "id")
    _refer("comparison_drawings", "item_id", "comparison_items", "id")
    op.create_index(
        "ix_comparison_drawings_requested",
        "comparison_drawings",
        ["comparison_id", "side", "attempts", "id"],
        postgresql_where=sa.text("state = 'requested'"),
    )
    op.create_index(
        "ix_comparison_drawings_comparison_id_state",
        "comparison_drawings",
        ["comparison_id", "state"],
    )
    op.create_table(
        "comparison_layers",
        sa.Column("drawing_id", sa.Uuid(), primary_key=True),
        sa.Column("role", sa.Text, primary_key=True),
        sa.Column("sha256", SHA, nullable=False),
        _one_of("comparison_layers", "role", "foreground", "background", "blended"),
    )
    _refer("comparison_layers", "drawing_id", "comparison_drawings", "id")
    _refer("comparison_layers", "sha256", "layers", "sha256")
    op.create_index("ix_comparison_layers_sha256", "comparison_layers", ["sha256"])


def _create_votes() -> None:
    op.create_table(
        "comparison_votes",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("comparison_id", sa.Integer, nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("reviewer_id", sa.Integer, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("left_side", sa.Text, nullable=False),
        sa.Column("dwell_ms", sa.Integer),
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column("undoes", sa.BigInteger),
        _now(),
        sa.UniqueConstraint("key", name="uq_comparison_votes_key"),
        sa.UniqueConstraint("undoes", name="uq_comparison_votes_undoes"),
        _one_of("comparison_votes", "verdict", "a", "b", "equal", "both_bad", "undo"),
        _one_of("comparison_votes", "left_side", "a", "b"),
        _check("comparison_votes", "undoes", "(verdict = 'undo') = (undoes is not null)"),
        _check("comparison_votes", "dwell", "dwell_ms >= 0"),
    )
    _refer("comparison_votes", "comparison_id", "comparisons", "id")
    _refer("comparison_votes", "item_id", "comparison_items", "id")
    _refer("comparison_votes", "reviewer_id", "reviewers", "id")
    _refer("comparison_votes", "undoes", "comparison_votes", "id")
    op.create_index("ix_comparison_votes_comparison_id", "comparison_votes", ["comparison_id"])
    op.create_index(
        "ix_comparison_votes_item_id_reviewer_id", "comparison_votes", ["item_id", "reviewer_id"]
    )
    op.create_index(
        "ix_comparison_votes_reviewer_id_id",
        "comparison_votes",
        ["reviewer_id", sa.text("id DESC")],
    )


def _now() -> "sa.Column[sa.DateTime]":
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    )


def _check(table: str, name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}"))


def _one_of(table: str, column: str, *words: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return _check(table, column, f"{column} in ({listed})")


def _refer(table: str, column: str, target: str, key: str) -> None:
    op.create_foreign_key(f"fk_{table}_{column}_{target}", table, target, [column], [key])


def _allow_purposes(purposes: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{purpose}'" for purpose in purposes)
    op.drop_constraint(op.f("ck_leases_purpose"), "leases", type_="check")
    op.create_check_constraint(op.f("ck_leases_purpose"), "leases", f"purpose in ({listed})")
