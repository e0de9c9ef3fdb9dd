"""Decided candidates with their verdicts as snapshots have them: nothing identifies a reviewer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from curation.datasets.decision_records import (
    GENERATION_FIELDS,
    CountedReason,
    DecidedCandidates,
    DecisionRecord,
)
from curation.datasets.freeze_query import ALL_SAMPLES, FreezeQuery, decided_condition_of
from curation.db.engine import Transaction
from curation.db.tables import candidates, rounds
from curation.domain import Kind, LayerRole, Prompt, RejectReason, Verdict
from curation.review.consensus import AUTOMATIC
from curation.review.reviewers import PERSON
from curation.review.round_skills import fit_round_skills
from curation.review.verdicts import IS_STANDING

BATCH_SIZE: Final = 2_000
DIGITS: Final = 4
"""Decimals of posteriors: sums in another order must not give another snapshot."""


def find_decided(tx: Transaction, query: FreezeQuery = ALL_SAMPLES) -> DecidedCandidates:
    """Return the decided candidates of a query, for `freeze_snapshot`.

    Posteriors are fitted when the first record is read, from all verdicts of each round.

    Args:
        tx: A transaction with one view of the database, in which the records are read too.
        query: The query of the snapshot.

    Raises:
        Refused: The query is invalid.
    """
    chosen = decided_condition_of(query)
    counted = (
        sa.select(rounds.c.checkpoint_id, candidates.c.round_id, sa.func.count().label("n"))
        .join(rounds, rounds.c.id == candidates.c.round_id)
        .where(chosen)
        .group_by(rounds.c.checkpoint_id, candidates.c.round_id)
        .order_by(candidates.c.round_id)
    )
    by_checkpoint: dict[str, int] = {}
    numbers = []
    for row in tx.execute(counted).all():
        by_checkpoint[row.checkpoint_id] = by_checkpoint.get(row.checkpoint_id, 0) + row.n
        numbers.append(row.round_id)
    return DecidedCandidates(by_checkpoint, _records(tx, chosen, numbers))


def _records(
    tx: Transaction, chosen: sa.ColumnElement[bool], numbers: Sequence[int]
) -> Iterator[DecisionRecord]:
    posteriors = {number: fit_round_skills(tx, number).probability for number in numbers}
    listed = sa.select(candidates.c.id).where(chosen).order_by(candidates.c.id)
    ids = tx.execute(listed.execution_options(yield_per=BATCH_SIZE)).scalars()
    for batch in ids.partitions(BATCH_SIZE):
        for row in tx.execute(_DECIDED, {"ids": list(batch)}).mappings().all():
            yield _record(row, posteriors[row["round_id"]].get(row["id"]))


def _record(row: Mapping[str, Any], probability: float | None) -> DecisionRecord:
    accepted = row["state"] == "accepted"
    # No person's verdict stands, or a final automatic one overrides them.
    automatic = row["accepts"] + row["rejects"] == 0 or bool(row["final_automatic"])
    posterior = None if automatic or probability is None else round(probability, DIGITS)
    if row["adjudicated"] and not automatic:
        posterior = float(accepted)
    settings = row["settings"] or {}
    return DecisionRecord(
        candidate=row["id"].hex,
        kind=Kind(row["kind"]),
        prompt=row["text"],
        texts=Prompt(row["text"], row["foreground"], row["background"]).texts,
        round=row["round_id"],
        seed=row["seed"],
        checkpoint=row["checkpoint_id"],
        layers={LayerRole(role): sha256 for role, sha256 in row["layers"].items()},
        verdict=Verdict.accept if accepted else Verdict.reject,
        automatic=automatic,
        accepts=row["accepts"],
        rejects=row["rejects"],
        posterior=posterior,
        propensity=None if row["propensity"] is None else round(float(row["propensity"]), 6),
        reasons=tuple(_reason(one) for one in row["reasons"] or ()),
        generation={name: settings[name] for name in GENERATION_FIELDS if name in settings},
        sample=row["sample_id"].hex if accepted else "",
    )


def _reason(one: Mapping[str, Any]) -> CountedReason:
    layer = LayerRole(one["layer"]) if one["layer"] else None
    return CountedReason(RejectReason(one["reason"]), layer, one["count"])


def _listed(names: frozenset[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


_DECIDED = sa.text(f"""
    select c.id, c.round_id, c.seed, c.state, c.propensity, r.kind, r.checkpoint_id,
        p.text, p.foreground, p.background, g.settings, s.id as sample_id,
        l.layers, d.accepts, d.rejects, d.adjudicated, d.final_automatic, w.reasons
    from candidates c
    join rounds r on r.id = c.round_id
    join prompts p on p.id = c.prompt_id
    left join generation_settings g on g.id = c.settings_id
    left join samples s on s.candidate_id = c.id
    cross join lateral (
        select coalesce(jsonb_object_agg(role, sha256), '{{}}') as layers
        from candidate_layers where candidate_id = c.id) l
    cross join lateral (
        select count(*) filter (where v.kind = '{PERSON}' and d.verdict = 'accept') as accepts,
            count(*) filter (where v.kind = '{PERSON}' and d.verdict = 'reject') as rejects,
            bool_or(d.final and v.kind = '{PERSON}') as adjudicated,
            bool_or(d.final and d.channel in ({_listed(AUTOMATIC)})) as final_automatic
        from decisions d join reviewers v on v.id = d.reviewer_id
        where d.candidate_id = c.id and {IS_STANDING}) d
    cross join lateral (
        select jsonb_agg(jsonb_build_object('reason', reason, 'layer', layer, 'count', n)
            order by reason collate "C", layer collate "C" nulls first) as reasons
        from (
            select reason, layer, count(*) as n
            from decisions d cross join lateral unnest(d.reasons, d.layers) as t(reason, layer)
            where d.candidate_id = c.id and d.verdict = 'reject' and {IS_STANDING}
            group by reason, layer) counted) w
    where c.id = any(:ids) order by c.id""").bindparams(sa.bindparam("ids", type_=ARRAY(UUID)))
