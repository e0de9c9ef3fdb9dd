"""Review cost: seconds per accept by slice, the expected yield of the next hour, and stopping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.review.reviewers import PERSON
from curation.review.round_counts import ReportCounts, read_report_counts
from curation.rounds.lifecycle import find_round
from curation.rounds.policies import MixedPolicy, parse_policy

HOUR: Final = 3_600.0
MIN_REVIEW_SECONDS: Final = 600.0
"""Less review time in a round than this is too little for predictions and stopping."""
SAMPLE_SIZE: Final = 2_000
"""Number of candidates not selected yet that represent all of them in predictions."""


def review_cost(tx: Transaction, round_id: int, kept: ReportCounts | None = None) -> dict[str, Any]:
    """Return the review cost of a round as JSON data. Raises NotFound.

    `slices`: reviews, seconds, accepts and seconds per accept by selection slice. `next_hour`: the
    number of reviews at the pace so far, and the expected accepts; each candidate takes as many
    reviews as the round's overlap still requires; None if nobody has reviewed or nothing is left.
    `stop`: the reason why review may stop, or None.

    Args:
        tx: The transaction.
        round_id: The round.
        kept: The counts of the round; None reads them.
    """
    round_ = find_round(tx, round_id)
    policy = parse_policy(round_["policy"])
    kept = read_report_counts(tx, round_) if kept is None else kept
    slices = [
        row
        | {
            "seconds_per_accept": row["seconds"] / row["accepted"]
            if row["accepted"] and row["seconds"]
            else None
        }
        for row in kept.slices
    ]
    return {
        "slices": slices,
        "next_hour": _next_hour(tx, round_, kept),
        "stop": stop_reason(tx, round_id, policy) if isinstance(policy, MixedPolicy) else None,
    }


def stop_reason(tx: Transaction, round_id: int, policy: MixedPolicy) -> str | None:
    """Return the reason to stop a round's review by its policy, or None to continue.

    Args:
        tx: The transaction.
        round_id: The round.
        policy: The round's policy.
    """
    round_ = find_round(tx, round_id)
    kept = read_report_counts(tx, round_)
    if policy.wanted:
        accepted = kept.states.get("accepted", 0)
        if accepted >= policy.wanted:
            return f"{accepted} are accepted, and {policy.wanted} were wanted"
    if policy.least and _seconds_looked(kept) >= MIN_REVIEW_SECONDS:
        # Predict only if every remaining candidate has a score.
        coming = _next_hour(tx, round_, kept)
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


def _seconds_looked(kept: ReportCounts) -> float:
    return sum(row["seconds"] or 0 for row in kept.slices)


def _next_hour(
    tx: Transaction, round_: Mapping[str, Any], kept: ReportCounts
) -> dict[str, Any] | None:
    """Return the expected reviews and accepts of the next hour.

    If less than an hour is left, the accepts are still those of a full hour at the same rate. A
    candidate's acceptance probability is its score, or without one the acceptance rate so far.
    """
    seconds = tx.execute(_PACE, {"round": round_["id"]}).scalar()
    if not seconds:
        return None
    decided = kept.states.get("accepted", 0) + kept.states.get("rejected", 0)
    rate = kept.states.get("accepted", 0) / decided if decided else None
    # Add candidates in their order until the hour is full.
    most = max(1, int(HOUR / seconds))
    reviews = accepts = 0.0
    certain, known = True, True
    for item in _ahead(tx, round_, kept, most):
        if reviews >= most:
            break
        reviews += item.reviews * item.weight
        certain = certain and item.probability is not None
        probability = rate if item.probability is None else item.probability
        known = known and probability is not None
        accepts += (probability or 0.0) * item.weight
    if not reviews or not known:
        return None
    return {
        "reviews": HOUR / seconds,
        "left": round(reviews),
        "accepts": HOUR / seconds * accepts / reviews,
        "certain": certain,
    }


class _Ahead(NamedTuple):
    """A candidate to review: missing verdicts, acceptance probability, and how many it stands for.

    The candidates that the policy has not selected yet are represented by a sample.
    """

    reviews: int
    probability: float | None
    weight: float = 1.0


def _ahead(
    tx: Transaction, round_: Mapping[str, Any], kept: ReportCounts, most: int
) -> Iterator[_Ahead]:
    """Yield what comes next: held and waiting candidates, then the most likely others."""
    overlap = int(round_["consensus"].get("overlap", 1))
    params = {"round": round_["id"], "overlap": overlap, "reviews": most, "sample": SAMPLE_SIZE}
    for statement in (_HELD, _QUEUE):
        for row in tx.execute(statement, params):
            yield _Ahead(row.reviews, row.probability)
    sampled = tx.execute(_UNSELECTED, params).all()
    weight = max(1.0, kept.states.get("screened", 0) / max(1, len(sampled)))
    for row in sampled:
        yield _Ahead(row.reviews, row.probability, weight)


# Seconds per verdict over the round's last thousand reviews: skips and undone ones cost time too.
# "between" and the order by both columns make the planner read them by the round's index; it would
# otherwise walk back through all decisions to those of an old round.
_PACE = sa.text(f"""
    with late as (
        select d.verdict, d.dwell_ms from decisions d join reviewers v on v.id = d.reviewer_id
        where d.round_id between :round and :round and v.kind = '{PERSON}'
            and d.dwell_ms is not null
        order by d.round_id desc, d.id desc limit 1000)
    select sum(dwell_ms) / 1000.0::double precision
        / nullif(count(*) filter (where verdict in ('accept', 'reject')), 0)
    from late""")

# In the order of the queue, by the partial index; each missing verdict takes one review.
_QUEUE = sa.text("""
    select greatest(:overlap - c.decided, 1) as reviews, k.probability
    from (
        select id, decided, priority from candidates
        where round_id = :round and state = 'waiting'
        order by decided desc, priority desc, id limit :reviews) c
    left join lateral (select probability from scores where candidate_id = c.id limit 1) k on true
    order by c.decided desc, c.priority desc, c.id""")

_HELD = sa.text("""
    select greatest(:overlap - c.decided, 1) as reviews, k.probability
    from candidates c
    left join lateral (select probability from scores where candidate_id = c.id limit 1) k on true
    where c.round_id = :round and c.state = 'showing'""")

# Ids are hashes, so the first of them are a random sample.
_UNSELECTED = sa.text("""
    select :overlap as reviews, k.probability
    from (select id from candidates where round_id = :round and state = 'screened'
        order by id limit :sample) c
    left join lateral (select probability from scores where candidate_id = c.id limit 1) k on true
    order by k.probability desc nulls last, c.id""")

# People's recent seconds per verdict in all rounds: skips and undone reviews cost time too.
_LATE_PACE = sa.text(f"""
    with late as (
        select d.verdict, d.dwell_ms, v.kind
        from (select * from decisions order by id desc limit 5000) d
        join reviewers v on v.id = d.reviewer_id)
    select sum(dwell_ms) / 1000.0::double precision
        / nullif(count(*) filter (where verdict in ('accept', 'reject')), 0)
    from late where kind = '{PERSON}' and dwell_ms is not null""")
