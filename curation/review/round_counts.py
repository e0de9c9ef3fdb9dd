"""The kept counts of one round, as its report and the review cost use them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.counts import RoundCount, read_counts
from curation.db.engine import Transaction
from curation.review.reviewers import PERSON
from curation.rounds.requests import ChoiceSource

NAMES: Final = ("candidates", "screenings", "looks", "measured", "verdicts", "reasons", "shown")
PASSED_STATES: Final = ("screened", "unshown", "waiting", "showing", "accepted", "rejected")
_SOURCE_AT: Final = {"candidates": 6, "screenings": 3}
"""Where the key of a count has the source of the prompt, in steered rounds."""
MEDIAN_REVIEWS: Final = 200
"""Number of latest decisions of a reviewer in a round whose median review time is shown."""


@dataclass
class Settled:
    """Candidates that verdicts of one kind of reviewer settled.

    Attributes:
        accepted: Number of accepted candidates.
        at_random: Number of candidates that were selected at random; without steered prompts.
        weight: Sum of the weights 1 / propensity of these.
        squared_weight: Sum of the squared weights.
        rejected_weight: Sum of the weights of rejected ones.
    """

    accepted: int = 0
    at_random: int = 0
    weight: float = 0.0
    squared_weight: float = 0.0
    rejected_weight: float = 0.0


@dataclass(frozen=True)
class ReportCounts:
    """The counts of a round.

    Attributes:
        states: Number of candidates by state.
        ended_generated: Number of withdrawn or failed candidates that had been generated.
        shown: Number of candidates that a person or the rule reviewer has seen.
        settled: Settled candidates by kind of reviewer.
        by_source: In a steered round, settled candidates by source of the prompt and kind of
            reviewer.
        by_reviewer: Counts of each reviewer, by decisions.
        reasons: Reasons of standing verdicts with their counts, by kind of reviewer.
        refusals: Refused candidates by signal.
        prompt_agreement: Shares of candidates with the color, shape, or both of their prompt;
            without steered prompts.
        slices: Reviews of people by slice: reviews, seconds, and accepted candidates.
    """

    states: dict[str, int]
    ended_generated: int
    shown: int
    settled: Mapping[str, Settled]
    by_source: Mapping[tuple[str, str], Settled]
    by_reviewer: list[dict[str, Any]]
    reasons: list[dict[str, Any]]
    refusals: list[dict[str, Any]]
    prompt_agreement: dict[str, float] | None
    slices: list[dict[str, Any]]


def read_report_counts(tx: Transaction, round_: Mapping[str, Any]) -> ReportCounts:
    """Read the counts of a round.

    Args:
        tx: The transaction.
        round_: The row of the round.
    """
    by_name: dict[str, list[RoundCount]] = defaultdict(list)
    for count in read_counts(tx, [round_["id"]], NAMES):
        by_name[count.name].append(count)
    states: Counter[str] = Counter()
    ended_generated = 0
    for count in by_name["candidates"]:
        states[count.key[0]] += count.n
        ended_generated += count.n if count.key[5] == "true" else 0
    reviewers = _read_reviewers(tx, by_name)
    kinds = {id_: row.kind for id_, row in reviewers.items()}
    weighted = round_["policy"].get("kind") == "random"
    settled, by_source = _settled(by_name["candidates"], kinds, weighted=weighted)
    return ReportCounts(
        states=dict(states),
        ended_generated=ended_generated,
        shown=sum(count.n for count in by_name["shown"]),
        settled=settled,
        by_source=by_source,
        by_reviewer=_by_reviewer(tx, round_["id"], by_name, reviewers),
        reasons=_reasons(by_name["reasons"], kinds),
        refusals=_refusals(by_name["screenings"]),
        prompt_agreement=_prompt_agreement(by_name["screenings"]),
        slices=_slices(by_name, kinds),
    )


@dataclass(frozen=True)
class RoundOutcome:
    """What came of a round, as far as rounds are compared by it; without steered prompts.

    Attributes:
        passed: Number of candidates that passed screening.
        refused: Number of candidates that screening refused.
        settled: Settled candidates by kind of reviewer.
        prompt_agreement: As in `ReportCounts`.
    """

    passed: int
    refused: int
    settled: Mapping[str, Settled]
    prompt_agreement: dict[str, float] | None


def read_outcomes(tx: Transaction, rounds_: Sequence[Mapping[str, Any]]) -> dict[int, RoundOutcome]:
    """Read the outcomes of rounds by their ids; one query for all of them.

    Args:
        tx: The transaction.
        rounds_: The rows of the rounds.
    """
    by_round: dict[int, dict[str, list[RoundCount]]] = {}
    by_name: dict[str, list[RoundCount]] = defaultdict(list)
    for count in read_counts(tx, [row["id"] for row in rounds_], ("candidates", "screenings")):
        own = by_round.setdefault(count.round_id, defaultdict(list))
        own[count.name].append(count)
        by_name[count.name].append(count)
    kinds = {id_: row.kind for id_, row in _read_reviewers(tx, by_name).items()}
    outcomes = {}
    for row in rounds_:
        own = by_round.get(row["id"], defaultdict(list))
        drawn = [count for count in own["candidates"] if not _is_steered(count)]
        weighted = row["policy"].get("kind") == "random"
        outcomes[row["id"]] = RoundOutcome(
            passed=sum(count.n for count in drawn if count.key[0] in PASSED_STATES),
            refused=sum(count.n for count in drawn if count.key[0] == "refused"),
            settled=_settled(own["candidates"], kinds, weighted=weighted)[0],
            prompt_agreement=_prompt_agreement(own["screenings"]),
        )
    return outcomes


def _is_steered(count: RoundCount) -> bool:
    """Return whether a count of candidates or screenings is of steered prompts.

    These do not represent the round, so that rounds are compared without them.
    """
    return ChoiceSource.steered in count.key[_SOURCE_AT[count.name] :]


def _read_reviewers(
    tx: Transaction, by_name: Mapping[str, Sequence[RoundCount]]
) -> dict[str, sa.Row[Any]]:
    """Return the rows of the reviewers that the counts name, by their id as text."""
    ids = {
        count.key[0]
        for name in ("looks", "measured", "verdicts", "reasons")
        for count in by_name[name]
    }
    ids |= {count.key[4] for count in by_name["candidates"] if count.key[4]}
    rows = tx.execute(_REVIEWERS, {"ids": [int(id_) for id_ in ids]}) if ids else ()
    return {str(row.id): row for row in rows}


def _settled(
    counts: Sequence[RoundCount], kinds: Mapping[str, str], *, weighted: bool
) -> tuple[Mapping[str, Settled], Mapping[tuple[str, str], Settled]]:
    """Sum settled candidates by the kind of the reviewer, and by source of the prompt and kind."""
    settled: dict[str, Settled] = defaultdict(Settled)
    by_source: dict[tuple[str, str], Settled] = defaultdict(Settled)
    for count in counts:
        state, _, slice_, propensity, reviewer, _, *source = count.key
        if state not in {"accepted", "rejected"} or not reviewer:
            continue
        kind = kinds[reviewer]
        at_random = [] if _is_steered(count) else [settled[kind]]
        settled[kind].accepted += count.n if state == "accepted" else 0
        if source:
            of_source = by_source[source[0], kind]
            of_source.accepted += count.n if state == "accepted" else 0
            at_random.append(of_source)
        # Only candidates that were selected at random represent the round.
        if slice_ in {"", "random"}:
            weight = 1 / float(propensity) if weighted and propensity else 1.0
            for one in at_random:
                one.at_random += count.n
                one.weight += count.n * weight
                one.squared_weight += count.n * weight**2
                one.rejected_weight += count.n * weight if state == "rejected" else 0.0
    return settled, by_source


def _by_reviewer(
    tx: Transaction,
    round_id: int,
    by_name: Mapping[str, Sequence[RoundCount]],
    reviewers: Mapping[str, sa.Row[Any]],
) -> list[dict[str, Any]]:
    active = {count.key[0] for name in ("looks", "measured", "verdicts") for count in by_name[name]}
    rows = {
        id_: {
            "name": reviewers[id_].name,
            "kind": reviewers[id_].kind,
            "decisions": 0,
            "accepted": 0,
            "reviews": 0,
            "measured": 0,
            "dwell_ms": 0,
            "median_dwell_ms": None,
        }
        for id_ in active
    }
    for count in by_name["verdicts"]:
        rows[count.key[0]]["decisions"] += count.n
        rows[count.key[0]]["accepted"] += count.n if count.key[1] == "accept" else 0
    for count in by_name["looks"]:
        rows[count.key[0]]["reviews"] += count.n
    for count in by_name["measured"]:
        rows[count.key[0]]["measured"] += count.n
        rows[count.key[0]]["dwell_ms"] += count.total
    params = {"round": round_id, "ids": [int(id_) for id_ in rows], "latest": MEDIAN_REVIEWS}
    for found in tx.execute(_MEDIANS, params) if rows else ():
        rows[str(found.id)]["median_dwell_ms"] = found.median
    return sorted(rows.values(), key=lambda row: (-row["decisions"], row["name"]))


def _reasons(counts: Sequence[RoundCount], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    summed: Counter[tuple[str, str, str]] = Counter()
    for count in counts:
        reviewer, reason, layer = count.key
        summed[reason, layer, kinds[reviewer]] += count.n
    return [
        {"reason": reason, "layer": layer or None, "kind": kind, "count": n}
        for (reason, layer, kind), n in sorted(
            summed.items(), key=lambda item: (-item[1], *item[0])
        )
        if n
    ]


def _refusals(counts: Sequence[RoundCount]) -> list[dict[str, Any]]:
    summed: Counter[str] = Counter()
    for count in counts:
        if count.key[0]:
            summed[count.key[0]] += count.n
    ordered = sorted(summed.items(), key=lambda item: (-item[1], item[0]))
    return [{"signal": signal, "count": n} for signal, n in ordered if n]


def _prompt_agreement(counts: Sequence[RoundCount]) -> dict[str, float] | None:
    """Return the shares; measured only for prompts in the grammar of the synthetic seed set."""
    measured = [count for count in counts if count.key[1] and not _is_steered(count)]
    n = sum(count.n for count in measured)
    if not n:
        return None

    def share(*positions: int) -> float:
        matching = (c.n for c in measured if all(c.key[i] == "true" for i in positions))
        return sum(matching) / n

    return {"color": share(1), "shape": share(2), "both": share(1, 2), "n": float(n)}


def _slices(
    by_name: Mapping[str, Sequence[RoundCount]], kinds: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the reviews of people by slice; one without a measured time counts as their mean."""
    looks: Counter[str] = Counter()
    measured: Counter[str] = Counter()
    milliseconds: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for count in by_name["looks"]:
        if kinds[count.key[0]] == PERSON:
            looks[count.key[1] or "random"] += count.n
    for count in by_name["measured"]:
        if kinds[count.key[0]] == PERSON:
            measured[count.key[1] or "random"] += count.n
            milliseconds[count.key[1] or "random"] += count.total
    for count in by_name["candidates"]:
        state, _, slice_, _, reviewer, *_ = count.key
        if state == "accepted" and reviewer and kinds[reviewer] == PERSON:
            accepted[slice_ or "random"] += count.n
    return [
        {
            "slice": name,
            "reviews": looks[name],
            "seconds": looks[name] * milliseconds[name] / measured[name] / 1_000
            if measured[name]
            else None,
            "accepted": accepted[name],
        }
        for name in sorted(looks)
    ]


_REVIEWERS = sa.text("select id, name, kind from reviewers where id = any(:ids)").bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.Integer))
)

# The lateral join reads the latest decisions of each reviewer by the index.
_MEDIANS = sa.text("""
    select v.id, latest.median from unnest(:ids) as v (id)
    cross join lateral (
        select percentile_cont(0.5) within group (order by dwell_ms) as median
        from (select dwell_ms from decisions d
            where d.round_id = :round and d.reviewer_id = v.id and d.channel <> 'consensus'
            order by d.id desc limit :latest) d) latest""").bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.Integer))
)
