"""The report of a round: what was drawn, refused, shown and accepted, how sure that is, and what it cost people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from curation.db.engine import Transaction
from curation.domain import Kind
from curation.reporting import missing_workers
from curation.review.reviewers import MACHINE, ORACLE, PERSON
from curation.review.verdicts import STANDS
from curation.rounds.lifecycle import count_states, find_round
from curation.screening.pairs.signals import AGREEMENT, PAIR_SIGNALS
from curation.selection import gates, review_cost
from curation.statistics.intervals import wilson


def round_report(tx: Transaction, number: int) -> dict[str, Any]:
    """Everything that is known of one round, as JSON would hold it. Raises NotFound.

    Decisions of people, of the oracle and of the machine are counted apart throughout. A decision
    counts while it is not undone; people's time counts the undone ones and skips too, since it was spent.
    """
    row = find_round(tx, number)
    counts = count_states(tx, number)
    by_reviewer = [dict(found) for found in tx.execute(_BY_REVIEWER, {"round": number}).mappings()]
    evaluation = tx.execute(_EVALUATION, {"checkpoint": row["checkpoint_id"]}).scalar()
    overlap = int(row["consensus"].get("overlap", 1))
    funnel = _funnel(counts, tx.execute(_BEYOND_STATES, {"round": number}).one())
    return {
        "round": describe_round(row | {"counts": counts}) | {"policy": row["policy"]},
        "funnel": funnel,
        "refusals": [dict(found) for found in tx.execute(_REFUSALS, {"round": number}).mappings()],
        "reasons": [dict(found) for found in tx.execute(_REASONS, {"round": number}).mappings()],
        "signals": _signals(tx, row),
        "defects_per_100": {kind: _defects(by_reviewer, kind) for kind in (PERSON, ORACLE)},
        "human": _human(by_reviewer),
        **{
            kind: {one: _total(by_reviewer, kind, one) for one in ("decisions", "accepted")}
            for kind in (ORACLE, MACHINE)
        },
        "price": review_cost.round_price(tx, number),
        "gates": gates.tell_gates(tx, number),
        "prompt_agreement": _agreement(tx.execute(_AGREEMENT, {"round": number}).mappings().one()),
        "seconds_left": review_cost.seconds_left(
            tx, counts, float(row["policy"].get("share", 1.0)), overlap
        ),
        "untaken": missing_workers.count_untaken(tx, number),
        "evaluation": evaluation or {},
    }


def describe_round(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of rounds.list_rounds in the words of the API."""
    return {
        "id": row["id"],
        "purpose": row["purpose"],
        "kind": row["kind"],
        "state": row["state"],
        "quota": row["quota"],
        "checkpoint": row["checkpoint_id"],
        "opened_at": row["at"],
        "closed_at": row["closed_at"],
        "counts": row["counts"],
    }


def as_text(told: Mapping[str, Any]) -> str:
    """A report for people to read in a terminal."""
    of, funnel, human = told["round"], told["funnel"], told["human"]
    what = "pairs " if of["kind"] == Kind.pair else ""
    origin = (
        f"{what}drawn by {of['checkpoint'][:12]}"
        if of["checkpoint"]
        else f"imported {what or 'files'}".strip()
    )
    lines = [
        f"Round {of['id']} ({of['state']}), {origin}",
        _ASKED_FOR.format(**funnel),
        "  {shown} shown, {decided} decided: {accepted} accepted, {rejected} rejected".format(
            **funnel
        ),
    ]
    if told["untaken"]:
        lines.append(
            f"  {missing_workers.tell_untaken(told['untaken'])}; {missing_workers.START_WORKERS}"
        )
    lines += _tally("refused by", ((one["signal"], one["count"]) for one in told["refusals"]))
    for kind, who in ((PERSON, "people"), (ORACLE, "the oracle")):
        lines += _defects_line(told["defects_per_100"][kind], who)
        lines += _tally(
            f"{who} said",
            ((_reason(one), one["count"]) for one in told["reasons"] if one["kind"] == kind),
        )
    if human["seconds_per_accept"] is not None:
        lines.append(f"  {human['seconds_per_accept']:.1f} s of people's time per accept")
    lines += [*review_cost.as_lines(told["price"]), *gates.as_lines(told["gates"])]
    for kind in (ORACLE, MACHINE):
        if told[kind]["decisions"]:
            lines.append(
                f"  the {kind} decided {told[kind]['decisions']} and accepted {told[kind]['accepted']}"
            )
    if told["prompt_agreement"]:
        shown = "prompted colour {colour:.0%}, shape {shape:.0%}, both {both:.0%}".format(
            **told["prompt_agreement"]
        )
        lines.append(f"  of its candidates show the {shown}")
    for one in told["signals"]:
        lines.append(
            "  {name}: median {median:.3g}, {low:.3g} to {high:.3g} for 8 of 10 (n = {n})".format(
                **one
            )
        )
    if told["seconds_left"]:
        lines.append(f"  about {told['seconds_left'] / 60:.0f} min of people's time left")
    if told["evaluation"]:
        figures = ", ".join(
            f"{name} {value:.4g}" for name, value in sorted(told["evaluation"].items())
        )
        lines.append(f"  its checkpoint on the held-out split: {figures}")
    return "\n".join(lines)


_ASKED_FOR = (
    "  {requested} candidates: {drawn} drawn, {failed} failed, "
    "{refused} refused, {unshown} not chosen, {waiting} waiting"
)


def _funnel(counts: Mapping[str, int], beyond: sa.Row[Any]) -> dict[str, int]:
    """From all that was asked for to what was accepted; `shown` are those that a reviewer said something of.

    What was only leased, or decided by the machine without anybody having looked, was not shown.
    """
    decided = counts.get("accepted", 0) + counts.get("rejected", 0)
    after_drawing = (
        "drawn",
        "refused",
        "screened",
        "unshown",
        "waiting",
        "showing",
        "accepted",
        "rejected",
    )
    return {
        "requested": sum(counts.values()),
        "drawn": sum(counts.get(state, 0) for state in after_drawing) + beyond.drawn,
        "refused": counts.get("refused", 0),
        "shown": beyond.shown,
        "decided": decided,
        "accepted": counts.get("accepted", 0),
        "rejected": counts.get("rejected", 0),
        "waiting": counts.get("waiting", 0) + counts.get("showing", 0),
        "unshown": counts.get("unshown", 0),
        "failed": counts.get("failed", 0),
    }


def _defects(by_reviewer: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float] | None:
    """Rejected per 100 of what the generator drew and screening passed, with its 95 % interval.

    Of a mixed policy the random slice alone: of what it chose by score, people have seen the best first. Each decided
    candidate weighs 1 / propensity (Hajek's ratio); weights that differ are worth fewer observations: (sum w)^2 / sum
    w^2 (Kish, 1965).
    """
    decided = _total(by_reviewer, kind, "at_random")
    if not decided:
        return None
    weight = _total(by_reviewer, kind, "weight")
    share = _total(by_reviewer, kind, "rejected_weight") / weight
    low, high = wilson(share, weight**2 / _total(by_reviewer, kind, "squared_weight"))
    return {"value": 100 * share, "low": 100 * low, "high": 100 * high, "n": decided}


def _human(by_reviewer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What it cost people; looks whose time the page could not measure count as long as the mean of the others."""
    accepted, measured = (
        _total(by_reviewer, PERSON, "made"),
        _total(by_reviewer, PERSON, "measured"),
    )
    seconds = None
    if accepted and measured:
        mean = _total(by_reviewer, PERSON, "dwell_ms") / measured / 1_000
        seconds = mean * _total(by_reviewer, PERSON, "looks") / accepted
    shown = ("name", "kind", "decisions", "accepted", "median_dwell_ms")
    return {
        "seconds_per_accept": seconds,
        "accepts_per_hour": 3_600 / seconds if seconds else None,
        "decisions": _total(by_reviewer, PERSON, "decisions"),
        "reviewers": [{name: one[name] for name in shown} for one in by_reviewer],
    }


def _agreement(row: Mapping[str, Any]) -> dict[str, float] | None:
    """Shares of drawn candidates that show their prompt's colour, its shape, and both; None where none was measured."""
    return (
        {name: float(row[name]) for name in ("colour", "shape", "both", "n")} if row["n"] else None
    )


def _signals(tx: Transaction, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How the signals of a round of pairs lie: the deciles at both ends and the median, over at most 2,000 of them."""
    if row["kind"] != Kind.pair:
        return []
    names = [*PAIR_SIGNALS, *AGREEMENT]
    found = {one.name: one for one in tx.execute(_SIGNALS, {"round": row["id"], "names": names})}
    ends = ("low", "median", "high")
    return [
        {"name": name, "n": found[name].n}
        | dict(zip(ends, map(float, found[name].shares), strict=True))
        for name in names
        if name in found
    ]


def _total(by_reviewer: Sequence[Mapping[str, Any]], kind: str, name: str) -> Any:
    return sum(one[name] for one in by_reviewer if one["kind"] == kind)


def _tally(title: str, counted: Any) -> list[str]:
    told = ", ".join(f"{name} {count}" for name, count in counted)
    return [f"    {title}: {told}"] if told else []


def _reason(one: Mapping[str, Any]) -> str:
    return f"{one['layer']}: {one['reason']}" if one["layer"] else str(one["reason"])


def _defects_line(defects: Mapping[str, float] | None, who: str) -> list[str]:
    if defects is None:
        return []
    interval = f"95 % {defects['low']:.1f} to {defects['high']:.1f}, n = {defects['n']}"
    return [f"  {defects['value']:.1f} defects per 100 in the eyes of {who} ({interval})"]


# Decisions of a round with who made them; `stands` is false for skips, undos, and what was undone. Where several decide
# a candidate it counts once, by what it became, with the last of them (`settles`); re-aggregations are nobody's look.
_ACTS = f"""
    select d.*, v.name, v.kind, {STANDS} as stands, c.state,
        {STANDS} and c.state in ('accepted', 'rejected') and (c.decided = 0 or not exists (
            select from decisions l where l.candidate_id = d.candidate_id and l.id > d.id and l.desk <> 'consensus'
                and l.verdict in ('accept', 'reject') and not exists (select from decisions u where u.undoes = l.id)
        )) as settles,
        case when coalesce(c.slice, 'random') <> 'random' then 0
            when r.policy ->> 'kind' = 'random' then 1 / coalesce(d.propensity, 1)::double precision else 1 end as w
    from decisions d join candidates c on c.id = d.candidate_id join reviewers v on v.id = d.reviewer_id
    join rounds r on r.id = c.round_id
    where c.round_id = :round and d.desk <> 'consensus'"""

_BY_REVIEWER = sa.text(f"""
    with acts as ({_ACTS})
    select name, kind,
        count(*) filter (where stands) as decisions,
        count(*) filter (where settles and w > 0) as at_random,
        count(*) filter (where stands and verdict = 'accept') as accepted,
        count(*) filter (where verdict <> 'undo') as looks,
        count(dwell_ms) as measured,
        coalesce(sum(dwell_ms), 0)::double precision as dwell_ms,
        percentile_cont(0.5) within group (order by dwell_ms) as median_dwell_ms,
        count(*) filter (where settles and state = 'accepted') as made,
        coalesce(sum(w) filter (where settles), 0) as weight,
        coalesce(sum(w * w) filter (where settles), 0) as squared_weight,
        coalesce(sum(w) filter (where settles and state = 'rejected'), 0) as rejected_weight
    from acts group by name, kind order by decisions desc, name""")

_REASONS = sa.text(f"""
    with acts as ({_ACTS})
    select reason, layer, kind, count(*) as count from acts cross join unnest(reasons, layers) as said(reason, layer)
    where stands group by reason, layer, kind order by count desc, reason, layer nulls first, kind""")

# Ids are hashes: the first of them are candidates at random.
_SIGNALS = sa.text("""
    with chosen as (
        select s.signals from candidates c join screenings s on s.candidate_id = c.id
        where c.round_id = :round order by c.id limit 2000)
    select name, count(*) as n, percentile_cont(array[0.1, 0.5, 0.9]) within group (order by value::float) as shares
    from chosen cross join jsonb_each_text(signals) as measured(name, value)
    where value is not null and name = any(:names) group by name""")

_REFUSALS = sa.text("""
    select s.refused_by as signal, count(*) as count
    from candidates c join screenings s on s.candidate_id = c.id
    where c.round_id = :round and c.state = 'refused' group by s.refused_by order by count desc, signal""")

# What states alone do not tell: candidates that ended after they were drawn, and those that somebody has looked at.
_BEYOND_STATES = sa.text("""
    select
        (select count(*) from candidates c where c.round_id = :round and c.state in ('withdrawn', 'failed')
            and exists (select from candidate_layers l where l.candidate_id = c.id)) as drawn,
        (select count(distinct c.id) from decisions d join candidates c on c.id = d.candidate_id
            join reviewers v on v.id = d.reviewer_id
            where c.round_id = :round and d.verdict <> 'undo' and d.desk <> 'consensus' and v.kind <> 'machine'
            ) as shown""")

# Measured only for prompts in the grammar of the seed that the project draws itself (curation.synthetic.dataset).
_AGREEMENT = sa.text("""
    with shown as (
        select (s.signals ->> 'shows_colour')::float = 1 as colour, (s.signals ->> 'shows_shape')::float = 1 as shape
        from candidates c join screenings s on s.candidate_id = c.id
        where c.round_id = :round and s.signals ? 'shows_colour')
    select count(*) as n, avg(colour::int) as colour, avg(shape::int) as shape, avg((colour and shape)::int) as both
    from shown""")

_EVALUATION = sa.text("select evaluation from checkpoints where id = :checkpoint")
