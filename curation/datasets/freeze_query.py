"""The query of a snapshot: conditions and caps that choose samples, kept beside the snapshot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from curation.datasets.licences import normalize_licence
from curation.db.tables import candidates, decisions, reviewers, samples, scores, screenings
from curation.domain import Kind, Verdict
from curation.errors import Refused

_SIGNAL = re.compile(
    r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|<|>)\s*(-?[0-9]+(?:[.][0-9]+)?(?:e-?[0-9]{1,3})?)\s*"
)


@dataclass(frozen=True)
class FreezeQuery:
    """Which samples a snapshot has; an empty query takes all that are not withdrawn.

    Conditions on decisions, signals and clusters hold only for samples that were reviewed here:
    imported samples have none of them and are left out. The caps take the samples with the lowest
    ids, so that the same samples give the same snapshot everywhere.

    Attributes:
        rounds: Numbers of rounds; 0 for imports.
        sources: Sources; `*` stands for any text.
        licences: Licences.
        kinds: Kinds.
        reviewers: Names of reviewers, one of whom accepted the sample.
        min_agreement: Least share of accepts among the decisions on a sample, 0..1.
        signals: Conditions on signals, as `haze<0.1`.
        per_prompt: Largest number of samples of one prompt; 0 for all.
        per_cluster: Largest number of samples of one cluster of the acceptance model; 0 for all.
        before: Only samples that were added before this time (ISO 8601).
    """

    rounds: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    reviewers: tuple[str, ...] = ()
    min_agreement: float = 0.0
    signals: tuple[str, ...] = ()
    per_prompt: int = 0
    per_cluster: int = 0
    before: str = ""

    def record(self) -> dict[str, Any]:
        """Return the parts of the query that are set, as JSON."""
        return {
            name: [str(v) if isinstance(v, Kind) else v for v in value]
            if isinstance(value, tuple)
            else value
            for name, value in asdict(self).items()
            if value
        }


ALL_SAMPLES = FreezeQuery()


def condition_of(query: FreezeQuery) -> sa.ColumnElement[bool]:
    """Return the condition on the table `samples` for the samples of a query.

    Args:
        query: The query.

    Raises:
        Refused: A signal's condition or the date cannot be read.
    """
    active = samples.c.withdrawn_at.is_(None)
    if query == ALL_SAMPLES:
        return active
    chosen = sa.select(samples.c.id.label("id")).where(active, *_conditions(query))
    if not query.per_prompt and not query.per_cluster:
        return samples.c.id.in_(chosen)
    return samples.c.id.in_(_capped(chosen, query))


def _conditions(query: FreezeQuery) -> list[sa.ColumnElement[bool]]:
    line = sa.cast(samples.c.line, JSONB)
    found: list[sa.ColumnElement[bool]] = []
    if query.rounds:
        found.append(samples.c.round.in_(query.rounds))
    if query.kinds:
        found.append(samples.c.kind.in_(query.kinds))
    if query.licences:
        names = {name for text in query.licences for name in (text, normalize_licence(text)[0])}
        found.append(line["licence"].astext.in_(sorted(names)))
    if query.sources:
        texts = [line["source"].astext.like(_pattern(one), escape="\\") for one in query.sources]
        found.append(sa.or_(*texts))
    if query.before:
        found.append(samples.c.created_at < parse_time(query.before))
    if query.reviewers:
        found.append(samples.c.candidate_id.in_(_accepted_by(query.reviewers)))
    if query.min_agreement > 0:
        found.append(samples.c.candidate_id.in_(_agreed(query.min_agreement)))
    found += [samples.c.candidate_id.in_(_with_signal(one)) for one in query.signals]
    return found


def parse_time(text: str) -> datetime:
    """Parse a date or time in ISO 8601; without a zone it is local. Raises Refused."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise Refused(
            f"{text[:60]!r} is not a date", "write 2026-11-30 or 2026-11-30T18:00"
        ) from None


def _pattern(source: str) -> str:
    escaped = source.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def _live() -> sa.ColumnElement[bool]:
    """Return the condition that a decision is a verdict that was not undone."""
    undo = decisions.alias("undo")
    undone = sa.exists().where(undo.c.undoes == decisions.c.id)
    return decisions.c.verdict.in_([Verdict.accept, Verdict.reject]) & ~undone


def _accepted_by(names: Sequence[str]) -> sa.Select[Any]:
    people = sa.select(reviewers.c.id).where(reviewers.c.name.in_(names))
    return sa.select(decisions.c.candidate_id).where(
        _live(), decisions.c.verdict == Verdict.accept, decisions.c.reviewer_id.in_(people)
    )


def _agreed(least: float) -> sa.Select[Any]:
    accepted = sa.cast(decisions.c.verdict == Verdict.accept, sa.Integer)
    return (
        sa.select(decisions.c.candidate_id)
        .where(_live())
        .group_by(decisions.c.candidate_id)
        .having(sa.func.avg(accepted) >= least)
    )


def _with_signal(text: str) -> sa.Select[Any]:
    match = _SIGNAL.fullmatch(text)
    if match is None:
        raise Refused(
            f"{text[:60]!r} is not a condition on a signal",
            "write NAME<NUMBER or NAME>=NUMBER, as haze<0.1; docs/reference/signals.md lists names",
        )
    name, sign, number = match.groups()
    value = sa.cast(screenings.c.signals[name].astext, sa.Double)
    return sa.select(screenings.c.candidate_id).where(value.op(sign)(float(number)))


def _capped(chosen: sa.Select[Any], query: FreezeQuery) -> sa.Select[Any]:
    """Return the chosen samples that are among the first of their prompt and of their cluster."""
    picked = chosen.subquery("picked")

    def rank(key: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        # A sample without a prompt or cluster is a group of its own.
        group = sa.func.coalesce(sa.cast(key, sa.Text), sa.cast(samples.c.id, sa.Text))
        return sa.func.row_number().over(partition_by=group, order_by=samples.c.id)

    ranked = (
        sa.select(
            samples.c.id,
            rank(candidates.c.prompt_id).label("of_prompt"),
            rank(scores.c.cluster).label("of_cluster"),
        )
        .join(picked, picked.c.id == samples.c.id)
        .outerjoin(candidates, candidates.c.id == samples.c.candidate_id)
        .outerjoin(scores, scores.c.candidate_id == samples.c.candidate_id)
        .subquery("ranked")
    )
    conditions = []
    if query.per_prompt:
        conditions.append(ranked.c.of_prompt <= query.per_prompt)
    if query.per_cluster:
        conditions.append(ranked.c.of_cluster <= query.per_cluster)
    return sa.select(ranked.c.id).where(*conditions)
