"""The price of an accept: people's seconds by slice, what the next hour of review is worth, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.review.reviewers import PERSON
from curation.review.verdicts import STANDS
from curation.rounds.lifecycle import find_round
from curation.rounds.policies import Mixed, read_policy

HOUR: Final = 3_600.0
ENOUGH_SECONDS: Final = 600.0
"""Looks of fewer seconds in a round say nothing of an hour: no sentence and no stop rests on them."""


def round_price(tx: Transaction, number: int) -> dict[str, Any]:
    """What accepts of a round cost people, and what more of them would, as JSON would hold it. Raises NotFound.

    `slices`: by which part of the policy chose them, looks, seconds, accepts and seconds for each accept. `next_hour`:
    how many looks fit into it at the pace so far, and how many accepts to expect of what is seen next, each of which
    takes as many looks as the round's overlap still asks for; None where nobody has looked or nothing is left. `stop`:
    why review of it may stop, or None.
    """
    policy = read_policy(find_round(tx, number)["policy"])
    slices = [dict(row) for row in tx.execute(_SLICES, {"round": number}).mappings()]
    for one in slices:
        one["seconds_per_accept"] = (
            one["seconds"] / one["accepted"] if one["accepted"] and one["seconds"] else None
        )
    return {
        "slices": slices,
        "next_hour": _next_hour(tx, number),
        "stop": why_stop(tx, number, policy) if isinstance(policy, Mixed) else None,
    }


def why_stop(tx: Transaction, number: int, policy: Mixed) -> str | None:
    """The sentence that says why a round's review should end, by its policy; None while it should go on."""
    if policy.wanted:
        accepted = int(tx.execute(_ACCEPTED, {"round": number}).scalar_one())
        if accepted >= policy.wanted:
            return f"{accepted} are accepted, and {policy.wanted} were wanted"
    if policy.least and _seconds_looked(tx, number) >= ENOUGH_SECONDS:
        coming = _next_hour(tx, number)
        if coming and coming["certain"] and coming["accepts"] < policy.least:
            return f"the next hour would bring {coming['accepts']:.0f} accepts, fewer than {policy.least:g}"
    return None


def seconds_left(
    tx: Transaction, counts: Mapping[str, int], share: float, overlap: int = 1
) -> float | None:
    """People's time for what waits, and for the part of what is still being drawn that people will be shown.

    `overlap`: how many of them look at each.
    """
    waiting = counts.get("waiting", 0) + counts.get("showing", 0)
    coming = sum(counts.get(state, 0) for state in ("requested", "drawing", "drawn", "screened"))
    chosen = waiting + counts.get("accepted", 0) + counts.get("rejected", 0)
    passed_by = counts.get("refused", 0) + counts.get("unshown", 0)
    if not waiting + coming:
        return 0.0
    pace = tx.execute(_LATE_PACE).scalar()
    if pace is None:
        return None
    return (
        float(pace)
        * overlap
        * (waiting + coming * (chosen / (chosen + passed_by) if chosen + passed_by else share))
    )


def as_lines(told: Mapping[str, Any]) -> list[str]:
    """The same for people to read in a terminal."""
    lines = [
        "    {slice}: {accepted} accepts of {looks} looks, {seconds_per_accept:.1f} s each".format(
            **one
        )
        for one in told["slices"]
        if one["seconds_per_accept"] is not None
    ]
    hour = told["next_hour"]
    if hour and sum(one["seconds"] or 0 for one in told["slices"]) >= ENOUGH_SECONDS:
        looks = min(hour["looks"], hour["left"])
        of = "the next hour of review" if looks < hour["left"] else "all that is left"
        lines.append(
            f"  {of}: {looks:.0f} looks, about {hour['accepts'] * looks / hour['looks']:.0f} accepts"
        )
    if told["stop"]:
        lines.append(f"  review may stop: {told['stop']}")
    return lines


def _seconds_looked(tx: Transaction, number: int) -> float:
    return sum(float(row.seconds or 0) for row in tx.execute(_SLICES, {"round": number}))


def _next_hour(tx: Transaction, number: int) -> dict[str, Any] | None:
    """An hour ends sooner where less is left: then the accepts are still those of a whole hour, at the same rate.

    Each candidate's chance is its score, or, while it has none, the share that people have accepted so far.
    """
    seconds = tx.execute(_PACE, {"round": number}).scalar()
    if not seconds:
        return None
    row = tx.execute(_AHEAD, {"round": number, "looks": max(1, int(HOUR / seconds))}).one()
    if not row.looks or row.accepts is None:
        return None
    looks, certain = HOUR / seconds, row.scored == row.candidates
    return {
        "looks": looks,
        "left": row.looks,
        "accepts": looks * row.accepts / row.looks,
        "certain": certain,
    }


# A look whose time could not be measured counts as long as the mean of its slice.
_SLICES = sa.text(f"""
    select coalesce(c.slice, 'random') as slice,
        count(*) filter (where d.verdict <> 'undo') as looks,
        avg(d.dwell_ms) / 1000.0::double precision * count(*)
            filter (where d.verdict <> 'undo') as seconds,
        count(distinct c.id) filter (where c.state = 'accepted' and d.verdict = 'accept'
            and {STANDS}) as accepted
    from decisions d join candidates c on c.id = d.candidate_id
    join reviewers v on v.id = d.reviewer_id
    where c.round_id = :round and v.kind = '{PERSON}'
    group by 1 order by 1""")

_ACCEPTED = sa.text(
    "select count(*) from candidates where round_id = :round and state = 'accepted'"
)

# Seconds for a verdict of the round's last thousand looks: skips and undone ones are part of the price.
_PACE = sa.text(f"""
    with late as (
        select d.verdict, d.dwell_ms from decisions d
        join candidates c on c.id = d.candidate_id join reviewers v on v.id = d.reviewer_id
        where c.round_id = :round and v.kind = '{PERSON}' and d.dwell_ms is not null
        order by d.id desc limit 1000)
    select sum(dwell_ms) / 1000.0::double precision / nullif(count(*)
        filter (where verdict in ('accept', 'reject')), 0)
    from late""")

# What waits comes first, what others have begun before the rest, then the likeliest of what was not chosen yet. Where
# several decide, a candidate takes a look of each who has not: votes are no accepts.
_AHEAD = sa.text("""
    with rate as (
        select avg((state = 'accepted')::int) as accepted from candidates
        where round_id = :round and state in ('accepted', 'rejected')),
    ahead as (
        select k.chance, greatest(coalesce((r.consensus ->> 'overlap')::int, 1) - c.decided,
            1) as looks,
            c.state = 'screened' as later, c.decided, c.priority, c.id
        from candidates c join rounds r on r.id = c.round_id
        left join scores k on k.candidate_id = c.id
        where c.round_id = :round and c.state in ('waiting', 'showing', 'screened')
        order by later, decided desc, priority desc, chance desc nulls last, id limit :looks),
    soon as (
        select ahead.*, sum(looks) over (order by later, decided desc, priority desc,
            chance desc nulls last, id) as sum
        from ahead)
    select count(*) as candidates, count(chance) as scored, sum(looks) as looks,
        sum(coalesce(chance, (select accepted from rate))::double precision) as accepts
    from soon where sum - looks < :looks""")

# Seconds per verdict of people of late, in whatever round: skips and undone looks are part of the price.
_LATE_PACE = sa.text(f"""
    with late as (
        select d.verdict, d.dwell_ms, v.kind
        from (select * from decisions order by id desc limit 5000) d
        join reviewers v on v.id = d.reviewer_id)
    select sum(dwell_ms) / 1000.0::double precision / nullif(count(*)
        filter (where verdict in ('accept', 'reject')), 0)
    from late where kind = '{PERSON}' and dwell_ms is not null""")
