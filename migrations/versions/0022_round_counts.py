"""Counts of candidates and decisions by round are kept by triggers; decisions name their round.

Revision 0022
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0022"
down_revision = "0021"

# One row of a table as its contributions: round, name, key and two numbers. {rows} is a table or a
# transition table, {sign} is 1 for rows that appear and -1 for rows that disappear.
CANDIDATES = """
    select c.round_id, 'candidates' as name, array[
            c.state, c.decided::text, coalesce(c.slice, ''),
            case when coalesce(c.slice, 'random') = 'random' and c.state in ('accepted', 'rejected')
                then coalesce(c.propensity::text, '') else '' end,
            coalesce(c.settled_by::text, ''),
            case when c.state in ('withdrawn', 'failed') then exists (
                select from candidate_layers l where l.candidate_id = c.id)::text else '' end
        ] as key, {sign} * count(*) as n, 0::bigint as total
    from {rows} c group by 1, 3"""

SCREENINGS = """
    select c.round_id, 'screenings' as name, array[coalesce(s.refused_by, ''),
            coalesce(((s.signals ->> 'shows_colour')::float = 1)::text, ''),
            coalesce(((s.signals ->> 'shows_shape')::float = 1)::text, '')
        ] as key, {sign} * count(*) as n, 0::bigint as total
    from {rows} s join candidates c on c.id = s.candidate_id
    where s.refused_by is not null or s.signals ? 'shows_colour' group by 1, 3"""

# A verdict counts with 1, and with -1 again in the row that undoes it. `earlier` excludes decisions
# before the new ones, so that the first review of a candidate counts once.
DECISIONS = """
    with effects as materialized (
        select d.*, 1 as sign from {rows} d where d.verdict in ('accept', 'reject')
        union all
        select d.*, -1 as sign from {rows} u join decisions d on d.id = u.undoes
        where d.verdict in ('accept', 'reject')),
    looks as materialized (
        select d.* from {rows} d where d.verdict <> 'undo' and d.channel <> 'consensus')
    select d.round_id, 'looks' as name, array[d.reviewer_id::text, d.candidate_slice] as key,
        count(*) as n, 0::bigint as total
    from looks d group by 1, 3
    union all
    select d.round_id, 'measured', array[d.reviewer_id::text, d.candidate_slice], count(*), sum(d.dwell_ms)
    from looks d where d.dwell_ms is not null group by 1, 3
    union all
    select e.round_id, 'verdicts', array[e.reviewer_id::text, e.verdict], sum(e.sign), 0
    from effects e where e.channel <> 'consensus' group by 1, 3
    union all
    select e.round_id, 'reasons', array[e.reviewer_id::text, reason, coalesce(layer, '')],
        sum(e.sign), 0
    from effects e cross join unnest(e.reasons, e.layers) as given (reason, layer)
    where e.channel <> 'consensus' group by 1, 3
    union all
    select coalesce(g.round_id, e.round_id), 'own', array[e.reviewer_id::text, e.verdict],
        sum(e.sign), 0
    from effects e left join gold g on g.candidate_id = e.candidate_id group by 1, 3
    union all
    select d.round_id, 'shown', array[]::text[], count(distinct d.candidate_id), 0
    from looks d join reviewers v on v.id = d.reviewer_id and v.kind <> 'auto_reviewer'
    where {first} group by 1, 3"""

FIRST = """not exists (
        select from decisions o join reviewers w on w.id = o.reviewer_id
        where o.candidate_id = d.candidate_id and o.id < d.id and o.verdict <> 'undo'
            and o.channel <> 'consensus' and w.kind <> 'auto_reviewer')"""

COUNT = """insert into round_count_deltas (round_id, name, key, n, total)
    select round_id, name, key, sum(n), sum(total) from ({changes}) changes
    group by 1, 2, 3 having sum(n) <> 0 or sum(total) <> 0"""


def _function(table: str, contributions: str) -> str:
    """Return the trigger function that records the changes of the counts of a table."""
    added = contributions.format(rows="new_rows", sign=1)
    removed = contributions.format(rows="old_rows", sign=-1)
    return f"""
create function count_{table}() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        {COUNT.format(changes=added)};
    elsif tg_op = 'DELETE' then
        {COUNT.format(changes=removed)};
    else
        {COUNT.format(changes=f"({added}) union all ({removed})")};
    end if;
    return null;
end $$;
create trigger count_inserted after insert on {table}
    referencing new table as new_rows for each statement execute function count_{table}();
create trigger count_updated after update on {table}
    referencing old table as old_rows new table as new_rows
    for each statement execute function count_{table}();
create trigger count_deleted after delete on {table}
    referencing old table as old_rows for each statement execute function count_{table}();
"""


# The reviewer whose verdict settled a candidate: its last standing one. The verdict is usually
# given with the state; otherwise it is looked up, or follows when the decision is inserted.
SETTLE = """
create function settle_candidate() returns trigger language plpgsql as $$
begin
    if new.state not in ('accepted', 'rejected') then
        new.settled_by := null;
    elsif new.settled_by is null then
        new.settled_by := (
            select d.reviewer_id from decisions d
            where d.candidate_id = new.id and d.verdict in ('accept', 'reject')
                and d.channel <> 'consensus'
                and not exists (select from decisions u where u.undoes = d.id)
            order by d.id desc limit 1);
    end if;
    return new;
end $$;
create trigger settle before update of state on candidates
    for each row when (old.state is distinct from new.state) execute function settle_candidate();
"""

PLACE = """
create function place_decision() returns trigger language plpgsql as $$
begin
    select c.round_id, coalesce(c.slice, '') into new.round_id, new.candidate_slice
    from candidates c where c.id = new.candidate_id;
    return new;
end $$;
create trigger place before insert on decisions for each row execute function place_decision();
"""

UNSETTLED = """
        select d.candidate_id, d.reviewer_id from new_rows d
        join candidates c on c.id = d.candidate_id
        where c.state in ('accepted', 'rejected') and c.settled_by is null
            and d.verdict in ('accept', 'reject') and d.channel <> 'consensus'"""

COUNT_DECISIONS = f"""
create function count_decisions() returns trigger language plpgsql as $$
begin
    if exists ({UNSETTLED}) then
        update candidates c set settled_by = late.reviewer_id from ({UNSETTLED}) late
        where c.id = late.candidate_id;
    end if;
    {COUNT.format(changes=DECISIONS.format(rows="new_rows", first=FIRST))};
    return null;
end $$;
create trigger count_inserted after insert on decisions
    referencing new table as new_rows for each statement execute function count_decisions();
"""

BACKFILL = (
    """update candidates c set settled_by = (
        select d.reviewer_id from decisions d
        where d.candidate_id = c.id and d.verdict in ('accept', 'reject')
            and d.channel <> 'consensus'
            and not exists (select from decisions u where u.undoes = d.id)
        order by d.id desc limit 1)
    where c.state in ('accepted', 'rejected')""",
    """update decisions d set round_id = c.round_id, candidate_slice = coalesce(c.slice, '')
    from candidates c where c.id = d.candidate_id""",
)


def upgrade() -> None:
    """Add the columns and the counts, fill them, and add the triggers that keep them."""
    for name in ("round_counts", "round_count_deltas"):
        numbered = name == "round_count_deltas"
        identity = [sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True)]
        op.create_table(
            name,
            *(identity if numbered else []),
            sa.Column("round_id", sa.Integer, primary_key=not numbered, nullable=False,
                      autoincrement=False),
            sa.Column("name", sa.Text, primary_key=not numbered, nullable=False),
            sa.Column("key", ARRAY(sa.Text), primary_key=not numbered, nullable=False),
            sa.Column("n", sa.BigInteger, nullable=False),
            sa.Column("total", sa.BigInteger, nullable=False),
        )  # fmt: skip
    op.create_index("ix_round_count_deltas_round_id", "round_count_deltas", ["round_id"])
    op.create_table(
        "kept_reports",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("subject", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("marker", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.REAL, nullable=False),
        sa.Column("report", JSONB, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False,
                  server_default=sa.func.now()),
    )  # fmt: skip
    op.add_column("candidates", sa.Column("settled_by", sa.Integer))
    op.create_foreign_key(None, "candidates", "reviewers", ["settled_by"], ["id"])
    op.add_column("decisions", sa.Column("round_id", sa.Integer))
    op.add_column("decisions", sa.Column("candidate_slice", sa.Text))
    # Fill the columns of existing rows, with the triggers off that protect decisions.
    for table in ("candidates", "decisions"):
        op.execute(f"alter table {table} disable trigger user")
    for statement in BACKFILL:
        op.execute(statement)
    for table in ("candidates", "decisions"):
        op.execute(f"alter table {table} enable trigger user")
    op.alter_column("decisions", "round_id", nullable=False)
    op.alter_column("decisions", "candidate_slice", nullable=False)
    op.create_index("ix_decisions_round_id_id", "decisions", ["round_id", "id"])
    op.create_index(
        "ix_decisions_round_id_reviewer_id_id", "decisions", ["round_id", "reviewer_id", "id"]
    )
    # The order in which waiting candidates are reviewed: partly decided ones first.
    op.drop_index("ix_candidates_waiting", "candidates")
    op.create_index(
        "ix_candidates_waiting",
        "candidates",
        ["round_id", sa.text("decided desc"), sa.text("priority desc"), "id"],
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index("ix_samples_created_at_id", "samples", [sa.text("created_at desc"), "id"])
    # Count everything once, then let the triggers follow.
    for contributions in (CANDIDATES, SCREENINGS):
        full = contributions.format(
            rows="candidates" if contributions is CANDIDATES else "screenings", sign=1
        )
        op.execute(COUNT.format(changes=full))
    op.execute(COUNT.format(changes=DECISIONS.format(rows="decisions", first="true")))
    for statement in (
        SETTLE,
        PLACE,
        COUNT_DECISIONS,
        _function("candidates", CANDIDATES),
        _function("screenings", SCREENINGS),
    ):
        op.execute(statement)


def downgrade() -> None:
    """Remove the triggers, the counts and the columns."""
    for table in ("candidates", "screenings"):
        for event in ("inserted", "updated", "deleted"):
            op.execute(f"drop trigger count_{event} on {table}")
    for table, trigger in (
        ("candidates", "settle"),
        ("decisions", "place"),
        ("decisions", "count_inserted"),
    ):
        op.execute(f"drop trigger {trigger} on {table}")
    for name in (
        "settle_candidate",
        "place_decision",
        "count_decisions",
        "count_candidates",
        "count_screenings",
    ):
        op.execute(f"drop function {name}()")
    op.drop_index("ix_samples_created_at_id", "samples")
    op.drop_index("ix_candidates_waiting", "candidates")
    op.create_index(
        "ix_candidates_waiting",
        "candidates",
        ["round_id", "decided", sa.text("priority desc"), "id"],
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.drop_index("ix_decisions_round_id_reviewer_id_id", "decisions")
    op.drop_index("ix_decisions_round_id_id", "decisions")
    op.drop_column("decisions", "candidate_slice")
    op.drop_column("decisions", "round_id")
    op.drop_column("candidates", "settled_by")
    op.drop_table("kept_reports")
    op.drop_table("round_count_deltas")
    op.drop_table("round_counts")
