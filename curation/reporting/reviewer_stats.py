"""Statistics of reviewers: speed, agreement, results on gold, runs and fatigue, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from curation.db.engine import Transaction
from curation.domain import Kind
from curation.quality.agreement import bootstrap_interval, gwet_ac1
from curation.review.gold import OBVIOUS_SEVERITY
from curation.review.reviewers import PERSON, Reviewer, list_reviewers
from curation.screening.defects import DEFECTS
from curation.screening.pairs.defects import PAIR_DEFECTS
from curation.statistics.intervals import Z_95, wilson
from curation.statistics.psychometric import GoldTrial, fit_curve

MAX_DECISIONS: Final = 20_000
"""Maximum number of latest decisions that are used."""
SESSION_GAP_SECONDS: Final = 600
"""A session ends where nothing is decided for longer."""
QUICK_MS: Final = 300
"""A shorter review is implausible: reacting to an image takes a quarter of a second by itself."""
EARLY_SECONDS: Final = 1_800
DISCLOSURE_STEP: Final = 10
"""Reviewers see their results on gold and their agreement in steps of ten decisions, so that a
change does not reveal whether the last candidate was gold."""


class _Answers(NamedTuple):
    """What a reviewer decided.

    Attributes:
        rows: The decisions, oldest first, undone ones too.
        others: The reviewer's and another person's verdict on the same candidate.
        gold: Those of the rows that answer gold.
        not_counted: Number of annotations that did not count.
    """

    rows: Sequence[Any]
    others: Sequence[tuple[bool, bool]]
    gold: Sequence[Any]
    not_counted: int


def reviewer_statistics(
    tx: Transaction, reviewer: Reviewer, *, to_themselves: bool
) -> dict[str, Any]:
    """Return the statistics of one reviewer.

    Args:
        tx: The transaction.
        reviewer: The reviewer.
        to_themselves: Shown to the reviewer; gold and agreement count whole tens only
            (DISCLOSURE_STEP).

    Returns:
        The statistics as JSON-compatible values; unknown ones are None.
    """
    answers = _read_answers(tx, reviewer)
    return _statistics(reviewer, _rounded(answers) if to_themselves else answers)


def both_statistics(tx: Transaction, reviewer: Reviewer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the full statistics of a reviewer, and those that they may see themselves."""
    answers = _read_answers(tx, reviewer)
    return _statistics(reviewer, answers), _statistics(reviewer, _rounded(answers))


def _read_answers(tx: Transaction, reviewer: Reviewer) -> _Answers:
    own = {"reviewer": reviewer.id, "most": MAX_DECISIONS}
    rows = tx.execute(_DECISIONS, own).all()
    return _Answers(
        rows=rows,
        others=[(row.mine, row.theirs) for row in tx.execute(_OTHERS, own)],
        gold=[row for row in rows if row.gold and not row.undone and row.verdict != "skip"],
        not_counted=int(tx.execute(_NOT_COUNTED, {"reviewer": reviewer.id}).scalar_one()),
    )


def _rounded(answers: _Answers) -> _Answers:
    """Leave out the last answers that would reveal whether a candidate is gold."""
    return answers._replace(others=_whole(answers.others), gold=_whole(answers.gold))


def _statistics(reviewer: Reviewer, answers: _Answers) -> dict[str, Any]:
    rows, others, gold, not_counted = answers
    # Verdicts count while they are not undone; time counts for all decisions.
    verdicts = [row for row in rows if row.verdict != "skip" and not row.undone]
    accepts = [row.verdict == "accept" for row in verdicts]
    dwell = [row.dwell_ms for row in rows if row.dwell_ms is not None]
    seconds = _active_seconds(rows)
    return {
        "name": reviewer.name,
        "kind": reviewer.kind,
        "role": reviewer.role,
        "paused": reviewer.paused,
        "decisions": len(verdicts),
        "accepted": _share(sum(accepts), len(accepts)),
        "hours": seconds / 3_600,
        "decisions_per_hour": 3_600 * len(verdicts) / seconds
        if seconds >= SESSION_GAP_SECONDS
        else None,
        "dwell_ms": {"n": len(dwell)} | _quantiles(dwell),
        "undone": _share(sum(row.undone for row in rows), len(rows)),
        "not_counted": not_counted,
        "agreement": _agreement(others),
        "gold": _gold(gold),
        "signs": {
            "run": _longest_run(accepts),
            "quick": _share(sum(ms < QUICK_MS for ms in dwell), len(dwell)),
            "dwell_change_per_hour": _dwell_drift(rows),
            "missed_early": _missed_gold(gold, rows, early=True),
            "missed_late": _missed_gold(gold, rows, early=False),
        },
    }


def all_statistics(tx: Transaction) -> list[dict[str, Any]]:
    """Return the full statistics of all people, in the order in which they were added."""
    return [
        reviewer_statistics(tx, reviewer, to_themselves=False)
        for reviewer in list_reviewers(tx, kind=PERSON)
    ]


def as_text(stats: Mapping[str, Any]) -> str:
    """Format the statistics of a reviewer for a terminal."""
    # Speed and state.
    rate = stats["decisions_per_hour"]
    dwell, run, signs = stats["dwell_ms"], stats["signs"]["run"], stats["signs"]
    lines = [
        f"{stats['name']}: {stats['decisions']} decisions in {stats['hours']:.1f} h"
        + (f", {rate:.0f} per hour" if rate else "")
    ]
    lines += [f"  paused: {stats['paused']}"] if stats["paused"] else []
    if stats["not_counted"]:
        lines.append(
            f"  Label Studio annotations that did not count: {stats['not_counted']} "
            "('layerloop labeling status' lists them)"
        )
    if dwell["n"]:
        median, p90 = dwell["median"] / 1_000, dwell["p90"] / 1_000
        lines.append(f"  review time: median {median:.1f} s, 90th percentile {p90:.1f} s")

    # Shares with their 95 % intervals; unknown ones are left out.
    shares = (
        ("accepted", stats["accepted"]),
        ("undone", stats["undone"]),
        ("agreement with others", stats["agreement"]["alike"]),
        ("obvious defects rejected", stats["gold"]["noticed"]),
        ("clean gold accepted", stats["gold"]["clean_accepted"]),
        (f"reviews under {QUICK_MS} ms", signs["quick"]),
        ("obvious gold missed in the first half hour of a session", signs["missed_early"]),
        ("obvious gold missed later in a session", signs["missed_late"]),
    )
    lines += [
        f"  {name}: {share['value']:.1%} (95 % {share['low']:.1%} to {share['high']:.1%}, n = "
        f"{share['n']})"
        for name, share in shares
        if share is not None
    ]

    # The severity at which each defect is noticed, and the longest run.
    lines += [
        f"  {curve['defect']}{' in a pair' if curve['kind'] == Kind.pair else ''}: "
        f"noticed half of the time at severity {curve['threshold']:.2f} "
        f"(95 % {curve['low']:.2f} to {curve['high']:.2f}, n = {curve['n']})"
        for curve in stats["gold"]["curves"]
    ]
    if run:
        lines.append(
            f"  longest run of equal verdicts: {run['longest']}, expected by chance: "
            f"{run['expected']:.0f}"
        )
    return "\n".join(lines)


def _whole(rows: Sequence[Any]) -> Sequence[Any]:
    return rows[: len(rows) // DISCLOSURE_STEP * DISCLOSURE_STEP]


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


def _session_numbers(rows: Sequence[Any]) -> NDArray[np.intp]:
    """Return the number of the session of each decision, from 0."""
    gaps = np.diff([row.at for row in rows], prepend=rows[0].at if rows else 0.0)
    sessions: NDArray[np.intp] = np.cumsum(gaps > SESSION_GAP_SECONDS)
    return sessions


def _seconds_into_session(rows: Sequence[Any]) -> NDArray[np.float64]:
    """Return the seconds from the first decision of the session to each decision."""
    at = np.array([row.at for row in rows], np.float64)
    session = _session_numbers(rows)
    first = np.flatnonzero(np.diff(session, prepend=-1))
    return at - at[first][session]


def _active_seconds(rows: Sequence[Any]) -> float:
    """Return the total length of all sessions in seconds.

    A session lasts from its first to its last decision, plus a median review time for the first.
    """
    if not rows:
        return 0.0
    into = _seconds_into_session(rows)
    last = np.append(np.flatnonzero(np.diff(_session_numbers(rows))), len(rows) - 1)
    dwell_seconds = (
        _quantiles([row.dwell_ms for row in rows if row.dwell_ms is not None])["median"] or 0.0
    )
    return float(into[last].sum() + len(last) * dwell_seconds / 1_000)


def _agreement(others: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """Return the share of equal verdicts on the same candidates, and AC1 with other reviewers."""
    accepts = np.array(others, np.float64).reshape(-1, 2).sum(axis=1)
    return {
        "alike": _share(int((accepts != 1).sum()), len(others)),
        "ac1": asdict(bootstrap_interval(gwet_ac1, np.stack([2 - accepts, accepts], axis=1))),
    }


def _gold(answers: Sequence[Any]) -> dict[str, Any]:
    """Return the results on gold: shares of right verdicts and a psychometric curve per defect."""
    plain = [
        row.verdict == "reject"
        for row in answers
        if row.defect and row.severity >= OBVIOUS_SEVERITY
    ]
    clean = [row.verdict == "reject" for row in answers if row.defect is None]
    # Curves of layers and pairs are separate: a fringe is harder to see in front of a background.
    curves = []
    for kind, defects in ((Kind.single, DEFECTS), (Kind.pair, PAIR_DEFECTS)):
        of_kind = [row for row in answers if row.kind == kind]
        guesses = [row.verdict == "reject" for row in of_kind if row.defect is None]
        for defect in defects:
            looks = [
                GoldTrial(row.severity, row.verdict == "reject")
                for row in of_kind
                if row.defect == defect
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
    """Return the longest run of equal verdicts, its expected length, and its probability by chance.

    In n independent trials with probability p the longest run has an expected length of about
    log(n (1 - p)) / log(1 / p) + 0.577 / log(1 / p) - 1/2, and a length of r or more with
    probability 1 - exp(-n (1 - p) p^r) (L. Gordon, M. F. Schilling and M. S. Waterman, "An extreme
    value theory for long head runs", 1986).
    """
    if not accepts:
        return None
    verdict, longest = max(
        ((value, sum(1 for _ in run)) for value, run in groupby(accepts)), key=lambda run: run[1]
    )
    n, p = len(accepts), sum(accept == verdict for accept in accepts) / len(accepts)
    # The formulas need p < 1; with equal verdicts only, the whole series is the run.
    if p == 1:
        return {
            "verdict": "accept" if verdict else "reject",
            "longest": longest,
            "expected": float(n),
            "chance": 1.0,
        }
    rate = math.log(1 / p)
    expected = max(1.0, (math.log(max(n * (1 - p), 1)) + 0.5772) / rate - 0.5)
    chance = -math.expm1(-n * (1 - p) * p**longest)
    return {
        "verdict": "accept" if verdict else "reject",
        "longest": longest,
        "expected": expected,
        "chance": chance,
    }


def _dwell_drift(rows: Sequence[Any]) -> dict[str, float] | None:
    """Return the relative change of review time per hour of a session, with its 95 % interval.

    The slope of log(dwell) over hours by least squares, with an intercept per session. None until a
    session has lasted an hour, since a few minutes do not show fatigue.
    """
    timed = [row for row in rows if row.dwell_ms]
    if len(timed) < 30:
        return None
    hours, session = _seconds_into_session(timed) / 3_600, _session_numbers(timed)
    if hours.max() < 1:
        return None
    # Center hours and log(dwell) within each session, which removes the intercepts.
    y = np.log([row.dwell_ms for row in timed])
    size = np.bincount(session)
    x = hours - (np.bincount(session, hours) / size)[session]
    y = y - (np.bincount(session, y) / size)[session]
    spread, degrees_of_freedom = float(x @ x), len(timed) - len(size) - 1
    if spread < 1e-3 or degrees_of_freedom < 1:
        return None
    slope = float(x @ y) / spread
    error = math.sqrt(float(((y - slope * x) ** 2).sum()) / degrees_of_freedom / spread)
    low, value, high = (math.expm1(slope + z * error) for z in (-Z_95, 0, Z_95))
    return {"value": value, "low": low, "high": high, "n": len(timed)}


def _missed_gold(
    gold: Sequence[Any], rows: Sequence[Any], *, early: bool
) -> dict[str, float] | None:
    """Return the share of missed obvious defects in the first half hour of sessions or after it."""
    into = dict(
        zip((row.id for row in rows), _seconds_into_session(rows) if rows else (), strict=True)
    )
    answers = [
        row.verdict == "accept"
        for row in gold
        if row.defect
        and row.severity >= OBVIOUS_SEVERITY
        and (into[row.id] < EARLY_SECONDS) == early
    ]
    return _share(sum(answers), len(answers))


_DECISIONS = sa.text("""
    select * from (
        select d.id, extract(epoch from d.created_at)::float as at, d.verdict, d.dwell_ms,
            g.candidate_id is not null as gold, g.defect, g.severity, r.kind,
            exists (select from decisions u where u.undoes = d.id) as undone
        from decisions d left join gold g on g.candidate_id = d.candidate_id
        left join rounds r on r.id = g.round_id
        where d.reviewer_id = :reviewer and d.verdict <> 'undo'
        order by d.id desc limit :most) latest
    order by id""")

# Annotations in Label Studio that came too late or could not be read.
_NOT_COUNTED = sa.text("""
    select count(*) from labeling_annotations a join labeling_users u on u.email = a.email
    where u.reviewer_id = :reviewer and a.refused is not null and not a.deleted""")

# Candidates with fewer than two verdicts have no other reviewer to agree with. The others' verdicts
# are read candidate by candidate: "offset 0" keeps the planner from reading all decisions instead.
_OTHERS = sa.text(f"""
    select d.verdict = 'accept' as mine, o.verdict = 'accept' as theirs
    from (select * from decisions where reviewer_id = :reviewer order by id desc limit :most) d
    join candidates c on c.id = d.candidate_id and c.decided > 1
    cross join lateral (
        select * from decisions where candidate_id = d.candidate_id offset 0) o
    join reviewers v on v.id = o.reviewer_id and v.kind = '{PERSON}'
    where d.verdict in ('accept', 'reject') and o.verdict in ('accept', 'reject')
        and o.reviewer_id <> d.reviewer_id and not d.final and not o.final
        and not exists (select from decisions u where u.undoes in (d.id, o.id))
    order by d.id, o.id""")
