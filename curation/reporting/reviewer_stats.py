"""Standing: a reviewer's own figures, as facts with their numbers; what they mean is for people to say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from curation.db.engine import Transaction
from curation.domain import Kind
from curation.quality.agreement import count_verdicts, gwet_ac1, with_interval
from curation.review.gold import PLAIN
from curation.review.reviewers import PERSON, Reviewer, list_reviewers
from curation.screening.defects import DEFECTS
from curation.screening.pairs.defects import PAIR_DEFECTS
from curation.statistics.intervals import Z_95, wilson
from curation.statistics.psychometric import Look, fit_curve

MOST: Final = 20_000
"""The latest decisions that figures are made of."""
PAUSE_SECONDS: Final = 600
"""A sitting ends where nothing is decided for longer."""
QUICK_MS: Final = 300
"""A look shorter than this is hardly one: seeing and pressing a key take a quarter of a second by themselves."""
EARLY_SECONDS: Final = 1_800
TOGETHER: Final = 10
"""Reviewers are told of gold and of others in tens, so that no figure that moves tells of the answer just given."""


def reviewer_figures(tx: Transaction, reviewer: Reviewer, *, to_themselves: bool) -> dict[str, Any]:
    """All figures of one reviewer, as JSON would hold them; what is not known is None.

    `to_themselves`: gold and agreement only in whole TOGETHER, the oldest first.
    """
    rows = tx.execute(_DECISIONS, {"reviewer": reviewer.id, "most": MOST}).all()
    others = [
        (row.mine, row.theirs)
        for row in tx.execute(_OTHERS, {"reviewer": reviewer.id, "most": MOST})
    ]
    gold = [row for row in rows if row.gold and not row.undone and row.verdict != "skip"]
    if to_themselves:
        others, gold = _whole(others), _whole(gold)
    standing = [row for row in rows if row.verdict != "skip" and not row.undone]
    accepts = [row.verdict == "accept" for row in standing]
    dwell = [row.dwell_ms for row in rows if row.dwell_ms is not None]
    seconds = _seconds_sat(rows)
    return {
        "name": reviewer.name,
        "kind": reviewer.kind,
        "access": reviewer.access,
        "paused": reviewer.paused,
        "decisions": len(standing),
        "accepted": _share(sum(accepts), len(accepts)),
        "hours": seconds / 3_600,
        "decisions_per_hour": 3_600 * len(standing) / seconds if seconds >= PAUSE_SECONDS else None,
        "dwell_ms": {"n": len(dwell)} | _quantiles(dwell),
        "undone": _share(sum(row.undone for row in rows), len(rows)),
        "not_counted": int(tx.execute(_NOT_COUNTED, {"reviewer": reviewer.id}).scalar_one()),
        "agreement": _agreement(others),
        "gold": _gold(gold),
        "facts": {
            "run": _longest_run(accepts),
            "quick": _share(sum(ms < QUICK_MS for ms in dwell), len(dwell)),
            "dwell_change_per_hour": _drift(rows),
            "missed_early": _missed(gold, rows, early=True),
            "missed_late": _missed(gold, rows, early=False),
        },
    }


def all_figures(tx: Transaction) -> list[dict[str, Any]]:
    """The figures of every person, for engineers, in the order in which they came."""
    return [
        reviewer_figures(tx, one, to_themselves=False)
        for one in list_reviewers(tx)
        if one.kind == PERSON
    ]


def as_text(told: Mapping[str, Any]) -> str:
    """A reviewer's figures for people to read in a terminal."""
    rate = told["decisions_per_hour"]
    dwell, run, facts = told["dwell_ms"], told["facts"]["run"], told["facts"]
    lines = [
        f"{told['name']}: {told['decisions']} decisions in {told['hours']:.1f} h"
        + (f", {rate:.0f} an hour" if rate else "")
    ]
    lines += [f"  paused: {told['paused']}"] if told["paused"] else []
    if told["not_counted"]:
        lines.append(
            f"  answers at Label Studio that did not count: {told['not_counted']} ('desk status' lists them)"
        )
    if dwell["n"]:
        lines.append(
            f"  a look: median {dwell['median'] / 1_000:.1f} s, nine of ten under {dwell['p90'] / 1_000:.1f} s"
        )
    shares = (
        ("accepted", told["accepted"]), ("undone", told["undone"]), ("as others", told["agreement"]["alike"]),
        ("plain defects noticed", told["gold"]["noticed"]), ("clean copies accepted", told["gold"]["clean_accepted"]),
        (f"looks under {QUICK_MS} ms", facts["quick"]),
        ("plain gold missed in the first half hour", facts["missed_early"]),
        ("plain gold missed later in a sitting", facts["missed_late"]),
    )  # fmt: skip
    lines += [
        f"  {name}: {one['value']:.1%} (95 % {one['low']:.1%} to {one['high']:.1%}, n = {one['n']})"
        for name, one in shares
        if one is not None
    ]
    lines += [
        f"  {one['defect']}{' in a pair' if one['kind'] == Kind.pair else ''}: "
        f"noticed half of the time at severity {one['threshold']:.2f} "
        f"(95 % {one['low']:.2f} to {one['high']:.2f}, n = {one['n']})"
        for one in told["gold"]["curves"]
    ]
    if run:
        lines.append(
            f"  longest run of equal verdicts: {run['longest']}, by chance about {run['expected']:.0f}"
        )
    return "\n".join(lines)


def _whole(rows: list[Any]) -> list[Any]:
    return rows[: len(rows) // TOGETHER * TOGETHER]


def _share(count: int, n: int) -> dict[str, float] | None:
    if not n:
        return None
    low, high = wilson(count / n, n)
    return {"value": count / n, "low": low, "high": high, "n": n}


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"median": None, "p90": None}
    median, p90 = np.quantile(values, [0.5, 0.9])
    return {"median": float(median), "p90": float(p90)}


def _sittings(rows: Sequence[Any]) -> NDArray[np.intp]:
    """The number of the sitting that each decision belongs to."""
    gaps = np.diff([row.at for row in rows], prepend=rows[0].at if rows else 0.0)
    sittings: NDArray[np.intp] = np.cumsum(gaps > PAUSE_SECONDS)
    return sittings


def _into_sitting(rows: Sequence[Any]) -> NDArray[np.float64]:
    """Seconds since the first decision of the sitting, for each decision."""
    at = np.array([row.at for row in rows], np.float64)
    sitting = _sittings(rows)
    first = np.flatnonzero(np.diff(sitting, prepend=-1))
    return at - at[first][sitting]


def _seconds_sat(rows: Sequence[Any]) -> float:
    """From the first to the last decision of each sitting, and the first look of each, as long as the median one."""
    if not rows:
        return 0.0
    into = _into_sitting(rows)
    last = np.append(np.flatnonzero(np.diff(_sittings(rows))), len(rows) - 1)
    look = _quantiles([row.dwell_ms for row in rows if row.dwell_ms is not None])["median"] or 0.0
    return float(into[last].sum() + len(last) * look / 1_000)


def _agreement(others: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """How often others said the same of the same candidates, and AC1 of this reviewer with them."""
    counts = count_verdicts((place, said) for place, pair in enumerate(others) for said in pair)
    return {
        "alike": _share(sum(mine == theirs for mine, theirs in others), len(others)),
        "ac1": asdict(with_interval(gwet_ac1, counts)),
    }


def _gold(answers: Sequence[Any]) -> dict[str, Any]:
    """Curves of single layers and of pairs apart: a fringe before its own background is another one to find."""
    plain = [row.verdict == "reject" for row in answers if row.defect and row.severity >= PLAIN]
    clean = [row.verdict == "reject" for row in answers if row.defect is None]
    curves = []
    for kind, defects in ((Kind.single, DEFECTS), (Kind.pair, PAIR_DEFECTS)):
        mine = [row for row in answers if row.kind == kind]
        guesses = [row.verdict == "reject" for row in mine if row.defect is None]
        for defect in defects:
            looks = [
                Look(row.severity, row.verdict == "reject") for row in mine if row.defect == defect
            ]
            curve = fit_curve(looks, guesses)
            if curve is not None:
                curves.append({"defect": defect, "kind": str(kind)} | asdict(curve))
    accepted = len(clean) - sum(clean)
    return {
        "noticed": _share(sum(plain), len(plain)),
        "clean_accepted": _share(accepted, len(clean)),
        "curves": curves,
    }


def _longest_run(accepts: Sequence[bool]) -> dict[str, Any] | None:
    """The longest run of one verdict, the one that coins of the same share would bring, and how often they bring it.

    Of n coins that show heads with p the longest run is about log(n (1 - p)) / log(1 / p) + 0.577 / log(1 / p) - 1/2,
    and it is r or more with 1 - exp(-n (1 - p) p^r) (L. Gordon, M. F. Schilling and M. S. Waterman, "An extreme value
    theory for long head runs", 1986). Runs of what is said less often are told where they are the longer ones.
    """
    if not accepts:
        return None
    said, longest = max(
        ((value, sum(1 for _ in run)) for value, run in groupby(accepts)), key=lambda one: one[1]
    )
    n, p = len(accepts), sum(one == said for one in accepts) / len(accepts)
    if p == 1:
        return {
            "verdict": "accept" if said else "reject",
            "longest": longest,
            "expected": float(n),
            "chance": 1.0,
        }
    rate = math.log(1 / p)
    expected = max(1.0, (math.log(max(n * (1 - p), 1)) + 0.5772) / rate - 0.5)
    chance = -math.expm1(-n * (1 - p) * p**longest)
    return {
        "verdict": "accept" if said else "reject",
        "longest": longest,
        "expected": expected,
        "chance": chance,
    }


def _drift(rows: Sequence[Any]) -> dict[str, float] | None:
    """By what share a look grows longer within an hour of a sitting, with its 95 % interval.

    The slope of the logarithm of dwell over hours, each sitting with a level of its own (least squares). None until a
    sitting has lasted an hour: what a few minutes show says nothing of one.
    """
    looked = [row for row in rows if row.dwell_ms]
    if len(looked) < 30:
        return None
    hours, sitting = _into_sitting(looked) / 3_600, _sittings(looked)
    if hours.max() < 1:
        return None
    y = np.log([row.dwell_ms for row in looked])
    size = np.bincount(sitting)
    x = hours - (np.bincount(sitting, hours) / size)[sitting]
    y = y - (np.bincount(sitting, y) / size)[sitting]
    spread, free = float(x @ x), len(looked) - len(size) - 1
    if spread < 1e-3 or free < 1:
        return None
    slope = float(x @ y) / spread
    error = math.sqrt(float(((y - slope * x) ** 2).sum()) / free / spread)
    low, value, high = (math.expm1(slope + z * error) for z in (-Z_95, 0, Z_95))
    return {"value": value, "low": low, "high": high, "n": len(looked)}


def _missed(gold: Sequence[Any], rows: Sequence[Any], *, early: bool) -> dict[str, float] | None:
    """The share of plain defects passed over in the first half hour of sittings, or after it."""
    into = dict(zip((row.id for row in rows), _into_sitting(rows) if rows else (), strict=True))
    answers = [
        row.verdict == "accept"
        for row in gold
        if row.defect and row.severity >= PLAIN and (into[row.id] < EARLY_SECONDS) == early
    ]
    return _share(sum(answers), len(answers))


_DECISIONS = sa.text("""
    select * from (
        select d.id, extract(epoch from d.at)::float as at, d.verdict, d.dwell_ms, g.candidate_id is not null as gold,
            g.defect, g.severity, r.kind, exists (select from decisions u where u.undoes = d.id) as undone
        from decisions d left join gold g on g.candidate_id = d.candidate_id
        left join rounds r on r.id = g.round_id
        where d.reviewer_id = :reviewer and d.verdict <> 'undo' order by d.id desc limit :most) latest
    order by id""")

# Candidates with fewer than two verdicts, and all of rounds of single decisions, have nobody to agree with.
# Answers at Label Studio that came too late or could not be read.
_NOT_COUNTED = sa.text("""
    select count(*) from desk_answers a join desk_people p on p.email = a.person
    where p.reviewer_id = :reviewer and a.refused is not null and not a.gone""")

_OTHERS = sa.text(f"""
    select d.verdict = 'accept' as mine, o.verdict = 'accept' as theirs
    from (select * from decisions where reviewer_id = :reviewer order by id desc limit :most) d
    join candidates c on c.id = d.candidate_id and c.decided > 1
    join decisions o on o.candidate_id = d.candidate_id and o.reviewer_id <> d.reviewer_id
    join reviewers v on v.id = o.reviewer_id and v.kind = '{PERSON}'
    where d.verdict in ('accept', 'reject') and o.verdict in ('accept', 'reject') and not d.final and not o.final
        and not exists (select from decisions u where u.undoes in (d.id, o.id))
    order by d.id, o.id""")
