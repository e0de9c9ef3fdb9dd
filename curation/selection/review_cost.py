"""Review cost: seconds per accept by slice, the expected yield of the next hour, and stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.review.reviewers import PERSON
from curation.review.verdicts import IS_STANDING
from curation.rounds.lifecycle import find_round
from curation.rounds.policies import MixedPolicy, parse_policy

HOUR: Final = 3_600.0
MIN_REVIEW_SECONDS: Final = 600.0
"""Less review time in a round than this is too little for predictions and stopping."""


def review_cost(tx: Transaction, number: int) -> dict[str, Any]:
    """Return the review cost of a round as JSON data. Raises NotFound.

    `slices`: reviews, seconds, accepts and seconds per accept by selection slice. `next_hour`: the
    number of reviews at the pace so far, and the expected accepts; each candidate takes as many
    reviews as the round's overlap still requires; None if nobody has reviewed or nothing is left.
    `stop`: the reason why review may stop, or None.

    Args:
        tx: The transaction.
        number: The round.
    """
    policy = parse_policy(find_round(tx, number)["policy"])
    slices = [dict(row) for row in tx.execute(_SLICES, {"round": number}).mappings()]
    for row in slices:
        row["seconds_per_accept"] = (
            row["seconds"] / row["accepted"] if row["accepted"] and row["seconds"] else None
        )
    return {
        "slices": slices,
        "next_hour": _next_hour(tx, number),
        "stop": stop_reason(tx, number, policy) if isinstance(policy, MixedPolicy) else None,
    }


def stop_reason(tx: Transaction, number: int, policy: MixedPolicy) -> str | None:
    """Return the reason to stop a round's review by its policy, or None to continue.

    Args:
        tx: The transaction.
        number: The round.
        policy: The round's policy.
    """
    if policy.wanted:
        accepted = int(tx.execute(_ACCEPTED, {"round": number}).scalar_one())
        if accepted >= policy.wanted:
            return f"{accepted} are accepted, and {policy.wanted} were wanted"
    if policy.least and _seconds_looked(tx, number) >= MIN_REVIEW_SECONDS:
        # Predict only if every remaining candidate has a score.
        coming = _next_hour(tx, number)
        if coming and coming["certain"] and coming["accepts"] < policy.least:
            return (
                f"the next hour would bring {coming['accepts']:.0f} accepts, fewer than "
                f"{policy.least:g}"
            )
    return None


def review_seconds_left(
    tx: Transaction, counts: Mapping[str, int], share: float, overlap: int = 1
) -> float | None:
    """Estimate the review time left in a round, in seconds; None if the pace is unknown.

    Counts waiting candidates, and the share of unfinished ones that will be shown.

    Args:
        tx: The transaction.
        counts: The number of candidates by state.
        share: The share shown, used while nothing has been selected yet.
        overlap: The number of reviewers per candidate.
    """
    waiting = counts.get("waiting", 0) + counts.get("showing", 0)
    unfinished = sum(
        counts.get(state, 0) for state in ("requested", "generating", "generated", "screened")
    )
    # The share of candidates selected so far predicts how many of the unfinished will be shown.
    selected = waiting + counts.get("accepted", 0) + counts.get("rejected", 0)
    skipped = counts.get("refused", 0) + counts.get("unshown", 0)
    if not waiting + unfinished:
        return 0.0
    pace = tx.execute(_LATE_PACE).scalar()
    if pace is None:
        return None
    return (
        float(pace)
        * overlap
        * (
            waiting
            + unfinished * (selected / (selected + skipped) if selected + skipped else share)
        )
    )


def format_review_cost(cost: Mapping[str, Any]) -> list[str]:
    """Return the cost of a round as lines for the terminal."""
    lines = [
        f"    {row['slice']}: {row['accepted']} accepts of {row['reviews']} reviews, "
        f"{row['seconds_per_accept']:.1f} s each"
        for row in cost["slices"]
        if row["seconds_per_accept"] is not None
    ]
    hour = cost["next_hour"]
    if hour and sum(row["seconds"] or 0 for row in cost["slices"]) >= MIN_REVIEW_SECONDS:
        reviews = min(hour["reviews"], hour["left"])
        period = "the next hour of review" if reviews < hour["left"] else "all that is left"
        accepts = hour["accepts"] * reviews / hour["reviews"]
        lines.append(f"  {period}: {reviews:.0f} reviews, about {accepts:.0f} accepts")
    if cost["stop"]:
        lines.append(f"  review may stop: {cost['stop']}")
    return lines


def _seconds_looked(tx: Transaction, number: int) -> float:
    return sum(float(row.seconds or 0) for row in tx.execute(_SLICES, {"round": number}))


def _next_hour(tx: Transaction, number: int) -> dict[str, Any] | None:
    """Return the expected reviews and accepts of the next hour.

    If less than an hour is left, the accepts are still those of a full hour at the same rate. A
    candidate's acceptance probability is its score, or without one the acceptance rate so far.
    """
    seconds = tx.execute(_PACE, {"round": number}).scalar()
    if not seconds:
        return None
    row = tx.execute(_AHEAD, {"round": number, "reviews": max(1, int(HOUR / seconds))}).one()
    if not row.reviews or row.accepts is None:
        return None
    reviews, certain = HOUR / seconds, row.scored == row.candidates
    return {
        "reviews": reviews,
        "left": row.reviews,
        "accepts": reviews * row.accepts / row.reviews,
        "certain": certain,
    }


# A review without a measured time counts as the mean of its slice.
_SLICES = sa.text(f"""
    select coalesce(c.slice, 'random') as slice,
        count(*) filter (where d.verdict <> 'undo') as reviews,
        avg(d.dwell_ms) / 1000.0::double precision
            * count(*) filter (where d.verdict <> 'undo') as seconds,
        count(distinct c.id) filter (where c.state = 'accepted' and d.verdict = 'accept'
            and {IS_STANDING}) as accepted
    from decisions d join candidates c on c.id = d.candidate_id
    join reviewers v on v.id = d.reviewer_id
    where c.round_id = :round and v.kind = '{PERSON}'
    group by 1 order by 1""")

_ACCEPTED = sa.text(
    "select count(*) from candidates where round_id = :round and state = 'accepted'"
)

# Seconds per verdict over the round's last thousand reviews: skips and undone ones cost time too.
_PACE = sa.text(f"""
    with late as (
        select d.verdict, d.dwell_ms from decisions d
        join candidates c on c.id = d.candidate_id join reviewers v on v.id = d.reviewer_id
        where c.round_id = :round and v.kind = '{PERSON}' and d.dwell_ms is not null
        order by d.id desc limit 1000)
    select sum(dwell_ms) / 1000.0::double precision
        / nullif(count(*) filter (where verdict in ('accept', 'reject')), 0)
    from late""")

# Waiting candidates first, partly decided ones before others, then the most likely of those not yet
# selected. With several reviewers per candidate, each missing verdict takes one review.
_AHEAD = sa.text("""
    with rate as (
        select avg((state = 'accepted')::int) as accepted from candidates
        where round_id = :round and state in ('accepted', 'rejected')),
    ahead as (
        select k.probability,
            greatest(coalesce((r.consensus ->> 'overlap')::int, 1) - c.decided, 1) as reviews,
            c.state = 'screened' as later, c.decided, c.priority, c.id
        from candidates c join rounds r on r.id = c.round_id
        left join scores k on k.candidate_id = c.id
        where c.round_id = :round and c.state in ('waiting', 'showing', 'screened')
        order by later, decided desc, priority desc, probability desc nulls last, id
        limit :reviews),
    soon as (
        select ahead.*, sum(reviews) over (
            order by later, decided desc, priority desc, probability desc nulls last, id) as sum
        from ahead)
    select count(*) as candidates, count(probability) as scored, sum(reviews) as reviews,
        sum(coalesce(probability, (select accepted from rate))::double precision) as accepts
    from soon where sum - reviews < :reviews""")

# People's recent seconds per verdict in all rounds: skips and undone reviews cost time too.
_LATE_PACE = sa.text(f"""
    with late as (
        select d.verdict, d.dwell_ms, v.kind
        from (select * from decisions order by id desc limit 5000) d
        join reviewers v on v.id = d.reviewer_id)
    select sum(dwell_ms) / 1000.0::double precision
        / nullif(count(*) filter (where verdict in ('accept', 'reject')), 0)
    from late where kind = '{PERSON}' and dwell_ms is not null""")
