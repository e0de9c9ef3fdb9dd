"""Steered prompts: how each candidate's prompt was chosen, and what was steered and why.

Counts of candidates and screenings get the source of the prompt as the last part of their key, in
steered rounds.

Revision 0034
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0034"
down_revision = "0036"

# One row of a table as its contributions (revision 0022), with {source} after the key.
CANDIDATES = """
    select c.round_id, 'candidates' as name, array[
            c.state, c.decided::text, coalesce(c.slice, ''),
            case when coalesce(c.slice, 'random') = 'random' and c.state in ('accepted', 'rejected')
                then coalesce(c.propensity::text, '') else '' end,
            coalesce(c.settled_by::text, ''),
            case when c.state in ('withdrawn', 'failed') then exists (
                select from candidate_layers l where l.candidate_id = c.id)::text else '' end
        ]{source} as key, {sign} * count(*) as n, 0::bigint as total
    from {rows} c group by 1, 3"""

SCREENINGS = """
    select c.round_id, 'screenings' as name, array[coalesce(s.refused_by, ''),
            coalesce(((s.signals ->> 'shows_colour')::float = 1)::text, ''),
            coalesce(((s.signals ->> 'shows_shape')::float = 1)::text, '')
        ]{source} as key, {sign} * count(*) as n, 0::bigint as total
    from {rows} s join candidates c on c.id = s.candidate_id
    where s.refused_by is not null or s.signals ? 'shows_colour' group by 1, 3"""

# A key without a source is as before, so that the counts of existing rounds stay.
WITH_SOURCE = " || array_remove(array[c.prompt_source], null)"

COUNT = """insert into round_count_deltas (round_id, name, key, n, total)
    select round_id, name, key, sum(n), sum(total) from ({changes}) changes
    group by 1, 2, 3 having sum(n) <> 0 or sum(total) <> 0"""


def _replace_functions(source: str) -> None:
    for table, contributions in (("candidates", CANDIDATES), ("screenings", SCREENINGS)):
        added = contributions.format(rows="new_rows", sign=1, source=source)
        removed = contributions.format(rows="old_rows", sign=-1, source=source)
        op.execute(f"""
create or replace function count_{table}() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        {COUNT.format(changes=added)};
    elsif tg_op = 'DELETE' then
        {COUNT.format(changes=removed)};
    else
        {COUNT.format(changes=f"({added}) union all ({removed})")};
    end if;
    return null;
end $$""")


def upgrade() -> None:
    op.add_column("rounds", sa.Column("steering", JSONB))
    op.add_column("candidates", sa.Column("prompt_source", sa.Text))
    op.add_column("candidates", sa.Column("prompt_share", sa.REAL))
    op.add_column("candidates", sa.Column("prompt_propensity", sa.REAL))
    for name, condition in CHECKS.items():
        op.execute(f"alter table candidates add constraint {name} check ({condition})")
    _replace_functions(WITH_SOURCE)


def downgrade() -> None:
    _replace_functions("")
    for name in CHECKS:
        op.execute(f"alter table candidates drop constraint {name}")
    for column in ("prompt_propensity", "prompt_share", "prompt_source"):
        op.drop_column("candidates", column)
    op.drop_column("rounds", "steering")
    # Keys of steered rounds lose their source; equal ones are added up.
    for name, size in (("candidates", 6), ("screenings", 3)):
        op.execute(f"""
            with longer as (
                delete from round_counts where name = '{name}' and cardinality(key) > {size}
                returning round_id, name, key[1:{size}] as key, n, total)
            insert into round_count_deltas (round_id, name, key, n, total) select * from longer""")
        op.execute(f"""
            update round_count_deltas set key = key[1:{size}]
            where name = '{name}' and cardinality(key) > {size}""")


CHECKS = {
    "ck_candidates_prompt_source": "prompt_source in ('random', 'steered')",
    "ck_candidates_prompt_choice": (
        "num_nulls(prompt_source, prompt_share, prompt_propensity) in (0, 3)"
    ),
    "ck_candidates_prompt_propensity": "prompt_propensity > 0 and prompt_propensity <= 1",
}
