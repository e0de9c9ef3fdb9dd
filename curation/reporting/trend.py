"""The trend over rounds: figures with intervals, and whether differences are more than chance.

Acceptance, defects and agreement with the prompt are shares: their intervals are Wilson's, and two
are compared by the score test of two proportions. Candidates that were selected at random stand for
the round, weighted by 1 / propensity. The Vendi score is compared by its ratio. Each comparison has
a chance of 5 % to differ where the rounds are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.review.reviewers import PERSON, RULE_REVIEWER
from curation.review.round_counts import RoundOutcome, Settled, read_outcomes
from curation.selection import diversity_report
from curation.statistics.intervals import difference_p, wilson

MAX_ROUNDS: Final = 30
"""Largest number of rounds of a kind in a trend: the first, and the latest others."""
LEVEL: Final = 0.05
"""P-value below which a difference is more than chance."""

BETTER, WORSE, CHANCE = "better", "worse", "within chance"

IS_HIGHER_BETTER: Final = {
    "acceptance": True,
    "defects_per_100": False,
    "shape_and_color": True,
    "vendi": True,
}
"""The figures of a trend, in order, and whether more is better."""
LABELS: Final = {
    "acceptance": "accepted of drawn",
    "defects_per_100": "defects per 100",
    "shape_and_color": "shape and color shown",
    "vendi": "Vendi score",
}


class TrendShare(NamedTuple):
    """A share of candidates, and the (effective) number of them."""

    value: float
    n: float


class TrendRound(NamedTuple):
    """A round with what its figures are computed from."""

    row: Mapping[str, Any]
    reviewer: str | None
    shares: Mapping[str, TrendShare | None]
    diversity: Mapping[str, Any] | None


def rounds_trend(tx: Transaction) -> dict[str, Any]:
    """Return the figures of all rounds, and the last of each kind compared with others.

    Args:
        tx: The transaction.

    Returns:
        `rounds`, oldest first, and `comparisons` of the last round of each kind with the first and
        the one before, as JSON-compatible values.
    """
    found = _read_rounds(tx, tx.execute(_ROUNDS, {"most": MAX_ROUNDS}).mappings().all())
    rounds, comparisons = [], []
    for kind in dict.fromkeys(item.row["kind"] for item in found):
        series = [item for item in found if item.row["kind"] == kind]
        size = _common_size(series)
        rounds += [_describe(item, size) for item in series]
        comparisons += _compare_last(series)
    return {"rounds": sorted(rounds, key=lambda row: row["round"]), "comparisons": comparisons}


def compare_round(tx: Transaction, round_id: int) -> list[dict[str, Any]]:
    """Return a round compared with the first of its kind, and with the one before.

    Args:
        tx: The transaction.
        round_id: The round.
    """
    rows = tx.execute(_NEIGHBORS, {"round": round_id}).mappings().all()
    return _compare_last(_read_rounds(tx, rows))


def comparison_lines(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format comparisons for a terminal: a line for each pair of rounds."""
    lines = []
    pairs = dict.fromkeys((item["round"], item["earlier"]) for item in comparisons)
    for later, earlier in pairs:
        parts = [
            f"{LABELS[item['figure']]} {_number(item['figure'], item['before'])} -> "
            f"{_number(item['figure'], item['after'])}: {item['verdict']} (p = {item['p']:.2g})"
            for item in comparisons
            if (item["round"], item["earlier"]) == (later, earlier)
        ]
        lines.append(f"  round {later} beside round {earlier}: {'; '.join(parts)}")
    return lines


def as_text(trend: Mapping[str, Any]) -> str:
    """Format a trend for a terminal: a line for each round, then the comparisons."""
    if not trend["rounds"]:
        return "no round is generated yet"
    lines = ["Trend over rounds, with 95 % intervals"]
    for row in trend["rounds"]:
        parts = [
            f"{LABELS[name]} {_number(name, figure['value'])} "
            f"({_number(name, figure['low'])} to {_number(name, figure['high'])})"
            for name, figure in row["figures"].items()
            if figure
        ]
        shown = "; ".join(parts) or "nothing is measured or decided yet"
        lines.append(f"  round {row['round']}: {shown}")
    return "\n".join([*lines, *comparison_lines(trend["comparisons"])])


def _number(name: str, value: float) -> str:
    if name in {"acceptance", "shape_and_color"}:
        return f"{value:.0%}"
    return f"{value:.1f}"


def _read_rounds(tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> list[TrendRound]:
    outcomes = read_outcomes(tx, rows)
    kept = diversity_report.read_kept(tx, [row["id"] for row in rows])
    found = []
    for row in rows:
        reviewer = _reviewer(outcomes[row["id"]])
        shares = _shares(outcomes[row["id"]], reviewer)
        measured = kept.get(row["id"])
        diversity = measured if measured and measured["estimates"] else None
        found.append(TrendRound(row, reviewer, shares, diversity))
    return found


def _reviewer(outcome: RoundOutcome) -> str | None:
    """Return the kind of reviewer whose verdicts count: people, else the rule reviewer."""
    for kind in (PERSON, RULE_REVIEWER):
        if outcome.settled[kind].at_random:
            return kind
    return None


def _shares(outcome: RoundOutcome, reviewer: str | None) -> dict[str, TrendShare | None]:
    agreement = outcome.prompt_agreement
    shown = TrendShare(agreement["both"], agreement["n"]) if agreement else None
    if reviewer is None:
        return {"acceptance": None, "defects_per_100": None, "shape_and_color": shown}
    settled: Settled = outcome.settled[reviewer]
    defects = settled.rejected_weight / settled.weight
    n = settled.weight**2 / settled.squared_weight
    # Refused candidates were drawn too: so many belong to the decided ones.
    passed = outcome.passed / (outcome.passed + outcome.refused)
    return {
        "acceptance": TrendShare((1 - defects) * passed, n / passed),
        "defects_per_100": TrendShare(defects, n),
        "shape_and_color": shown,
    }


def _common_size(series: Sequence[TrendRound]) -> str | None:
    measured = _alike([item.diversity for item in series if item.diversity])
    return diversity_report.largest_size(measured) if measured else None


def _alike(reports: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the reports by the embedder of the last one."""
    return [report for report in reports if report["embedder"] == reports[-1]["embedder"]]


def _describe(item: TrendRound, size: str | None) -> dict[str, Any]:
    figures = {name: _interval(name, share) for name, share in item.shares.items()}
    vendi = None
    if item.diversity and size in item.diversity["estimates"]:
        vendi = diversity_report.estimate_of(item.diversity, "vendi", str(size))
    return {
        "round": item.row["id"],
        "kind": item.row["kind"],
        "state": item.row["state"],
        "checkpoint": item.row["checkpoint_id"],
        "reviewer": item.reviewer,
        "figures": figures | {"vendi": vendi},
    }


def _interval(name: str, share: TrendShare | None) -> dict[str, float] | None:
    if share is None:
        return None
    low, high = wilson(share.value, share.n)
    scale = 100 if name == "defects_per_100" else 1
    return {"value": scale * share.value, "low": scale * low, "high": scale * high}


def _compare_last(series: Sequence[TrendRound]) -> list[dict[str, Any]]:
    """Compare the last round with the first and with the one before, where these exist."""
    if len(series) < 2:
        return []
    earlier = dict.fromkeys([0, len(series) - 2])
    return [found for index in earlier for found in _compare(series[index], series[-1])]


def _compare(earlier: TrendRound, later: TrendRound) -> Iterator[dict[str, Any]]:
    rounds = {"round": later.row["id"], "earlier": earlier.row["id"]}
    for name, after in later.shares.items():
        before = earlier.shares[name]
        # Verdicts of people and of the rule reviewer do not compare.
        by_verdicts = name != "shape_and_color"
        if before and after and not (by_verdicts and earlier.reviewer != later.reviewer):
            scale = 100 if name == "defects_per_100" else 1
            p = difference_p(before.value, before.n, after.value, after.n)
            values = {"before": scale * before.value, "after": scale * after.value}
            yield rounds | {"figure": name, **values, "p": p, "verdict": _verdict(name, p, values)}
    reports = [earlier.diversity, later.diversity]
    if reports[0] is None or reports[1] is None or len(_alike(reports)) < 2:  # type: ignore[arg-type]
        return
    size = diversity_report.largest_size(reports)  # type: ignore[arg-type]
    ratio = size and diversity_report.compare_figure("vendi", reports[1], reports[0], size)
    if ratio:
        before_, after_ = (report["estimates"][size]["vendi"][0] for report in reports if report)
        values = {"before": before_, "after": after_}
        verdict = _verdict("vendi", ratio.p, values)
        yield rounds | {"figure": "vendi", **values, "p": ratio.p, "verdict": verdict}


def _verdict(name: str, p: float, values: Mapping[str, float]) -> str:
    if p >= LEVEL:
        return CHANCE
    return BETTER if (values["after"] > values["before"]) == IS_HIGHER_BETTER[name] else WORSE


# The first round of each kind, and the latest others.
_ROUNDS = sa.text("""
    select id, kind, state, checkpoint_id, policy from (
        select r.*, row_number() over (partition by kind order by id) as place,
            row_number() over (partition by kind order by id desc) as latest
        from rounds r where purpose = 'generated') numbered
    where place = 1 or latest < :most order by id""")

_NEIGHBORS = sa.text("""
    with own as (select id, kind from rounds where id = :round and purpose = 'generated'),
    earlier as (select r.id from rounds r, own
        where r.purpose = 'generated' and r.kind = own.kind and r.id < own.id)
    select id, kind, state, checkpoint_id, policy from rounds
    where id in (select id from own union select min(id) from earlier
        union select max(id) from earlier)
    order by id""")
