"""Stored acceptance models: fitted to standing decisions, stored by hash, applied to rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import ARRAY, REAL, UUID, insert

from curation.db.engine import Database, Transaction
from curation.db.tables import acceptance_models
from curation.domain import Kind
from curation.errors import NotFound
from curation.review.reviewers import PERSON, RULE_REVIEWER
from curation.review.verdicts import IS_UPHELD
from curation.screening.embedding import unpack_vectors
from curation.selection.acceptance_model import (
    MIN_DECISIONS,
    MIN_PER_VERDICT,
    AcceptanceModel,
    TrainingRows,
    check_decision_counts,
    fit_acceptance_model,
)
from curation.selection.hash_buckets import HOLDOUT_BUCKET

MAX_DECISIONS: Final = 20_000
"""The maximum number of training rows: the latest decisions."""
REFIT_GROWTH: Final = 1.2
"""A model is fitted again once there are this many times its decisions."""
SCORE_BATCH_SIZE: Final = 10_000


@dataclass(frozen=True)
class StoredModel:
    """A model with its origin.

    `label_source` is the kind of reviewer whose decisions it was fitted to.
    """

    fitted: AcceptanceModel
    kind: Kind
    embedder: str
    label_source: str
    metrics: Mapping[str, Any]
    created_at: Any

    @property
    def id(self) -> str:
        """The id of the model."""
        return self.fitted.id


def fit_and_store(database: Database, kind: Kind, embedder: str) -> StoredModel:
    """Fit a model to the standing verdicts of candidates and store it.

    A candidate is one training row, however many reviewers have decided it. The labels are people's
    decisions, or the rule reviewer's if people have not decided enough; the two are never mixed.
    Decisions reserved for proving gates (`gates`) are left out. Equal models are stored once.

    Args:
        database: The database; no transaction is open during the fit.
        kind: The kind of candidates.
        embedder: The source of the embeddings.

    Raises:
        Refused: There are too few decisions.
    """
    # Load the labeled candidates with their signals and embeddings.
    with database.transaction() as tx:
        label_source = _label_source(tx, kind, embedder)
        params = {"kind": kind, "embedder": embedder, "label_source": label_source}
        rows = tx.execute(_TRAINING_ROWS, params | {"most": MAX_DECISIONS}).all()
    # Fail before fitting if one of the verdicts is too rare.
    verdicts = np.array([row.accepted for row in rows], bool)
    check_decision_counts(int(verdicts.sum()), int((~verdicts).sum()))
    training_rows = TrainingRows(
        signals=[row.signals for row in rows],
        embeddings=unpack_vectors([bytes(row.vector) for row in rows]),
        accepted=verdicts,
        prompts=[row.prompt_id for row in rows],
        rounds=[row.round_id for row in rows],
        at_random=np.array([row.at_random for row in rows], bool),
    )
    model, metrics = fit_acceptance_model(training_rows)
    row = {
        "id": model.id,
        "kind": kind,
        "embedder": embedder,
        "label_source": label_source,
        "parameters": model.as_json(),
        "metrics": metrics,
        "last_decision": max(row.decision for row in rows),
    }
    # An equal model that was stored before becomes the newest one.
    now = {"created_at": sa.func.clock_timestamp()}
    with database.transaction() as tx:
        tx.execute(
            insert(acceptance_models)
            .values(**row, **now)
            .on_conflict_do_update(index_elements=["id"], set_=now)
        )
        return find_model(tx, kind, model.id)


def needs_fit(tx: Transaction, kind: Kind, embedder: str) -> bool:
    """Return whether there are enough decisions for a new model.

    They must also be enough more than those of the newest model.

    Args:
        tx: The transaction.
        kind: The kind of candidates.
        embedder: The source of the embeddings.
    """
    row = _newest(tx, kind, embedder)
    known = 0 if row is None else int(row["metrics"]["decisions"])
    counts = _count_verdicts(tx, kind, embedder)
    return any(
        accepted + rejected >= max(MIN_DECISIONS, REFIT_GROWTH * known)
        and min(accepted, rejected) >= MIN_PER_VERDICT
        for accepted, rejected in counts.values()
    )


def may_need_fit(tx: Transaction, kind: Kind) -> bool:
    """Return whether there may be enough decisions for a new model.

    A cheap check for the periodic reconciliation, made before `needs_fit` counts.
    """
    row = _newest(tx, kind)
    known, last = (
        (0, 0) if row is None else (int(row["metrics"]["decisions"]), int(row["last_decision"]))
    )
    wanted = max(MIN_DECISIONS, int((REFIT_GROWTH - 1) * known))
    return int(tx.execute(_SINCE, {"last": last, "wanted": wanted}).scalar_one()) >= wanted


def newest_model(tx: Transaction, kind: Kind, embedder: str) -> StoredModel | None:
    """Return the model fitted last for a kind of candidates, or None."""
    row = _newest(tx, kind, embedder)
    return None if row is None else _read(row)


def find_model(tx: Transaction, kind: Kind, name: str | None = None) -> StoredModel:
    """Return a model by the prefix of its id, or the newest. Raises NotFound.

    Args:
        tx: The transaction.
        kind: The kind of candidates.
        name: The prefix of the id; None for the newest.
    """
    wanted = (
        sa.select(acceptance_models)
        .where(acceptance_models.c.kind == kind, acceptance_models.c.id.startswith(name or ""))
        .order_by(acceptance_models.c.created_at.desc())
    )
    row = tx.execute(wanted).mappings().first()
    if row is None:
        message = f"there is no acceptance model {name}" if name else "no acceptance model yet"
        raise NotFound(
            message, "'layerloop acceptance-model fit' fits one to the standing decisions"
        )
    return _read(dict(row))


def score_round(tx: Transaction, model: StoredModel, round_id: int) -> int:
    """Score a round's undecided candidates, and all selected ones, by one model.

    Candidates already scored by it are skipped. Selected ones are scored too, since caps count them
    by this model's clusters. Rows are read through one server-side cursor in batches, each one
    matrix product: separate queries would each skip over everything scored before.

    Args:
        tx: The transaction.
        model: The model.
        round_id: The round.

    Returns:
        The number of newly scored candidates.
    """
    params = {"round": round_id, "acceptance_model": model.id, "embedder": model.embedder}
    scored = 0
    reading = tx.connection.execute(_UNSCORED, params, execution_options={"stream_results": True})
    # Each batch is written before the next is read, so memory stays bounded.
    for rows in reading.partitions(SCORE_BATCH_SIZE):
        probabilities, clusters = predict_rows(model.fitted, rows)
        scores = {
            "ids": [row.id for row in rows],
            "probabilities": probabilities,
            "clusters": clusters,
            "acceptance_model": model.id,
        }
        tx.execute(_SCORE, scores)
        scored += len(rows)
    return scored


def predict_rows(
    model: AcceptanceModel, rows: Sequence[sa.Row[Any]]
) -> tuple[list[float], list[int]]:
    """Return probabilities and clusters of rows that have `signals` and `vector`."""
    embedded: NDArray[np.float32] = unpack_vectors([bytes(row.vector) for row in rows])
    probabilities = model.predict([row.signals for row in rows], embedded)
    return [float(probability) for probability in probabilities], [
        int(index) for index in model.cluster(embedded)
    ]


def count_training_rows(tx: Transaction, kind: Kind, embedder: str) -> tuple[int, int]:
    """Return the number of accepts and rejects that a model would be fitted to now.

    Args:
        tx: The transaction.
        kind: The kind of candidates.
        embedder: The source of the embeddings.
    """
    return _count_verdicts(tx, kind, embedder)[_label_source(tx, kind, embedder)]


def _label_source(tx: Transaction, kind: Kind, embedder: str) -> str:
    accepted, rejected = _count_verdicts(tx, kind, embedder)[PERSON]
    return (
        PERSON
        if accepted + rejected >= MIN_DECISIONS and min(accepted, rejected) >= MIN_PER_VERDICT
        else RULE_REVIEWER
    )


def _count_verdicts(tx: Transaction, kind: Kind, embedder: str) -> dict[str, tuple[int, int]]:
    rows = tx.execute(_COUNT, {"kind": kind, "embedder": embedder}).all()
    counted = {row.kind: (int(row.accepted), int(row.rejected)) for row in rows}
    return {
        label_source: counted.get(label_source, (0, 0)) for label_source in (PERSON, RULE_REVIEWER)
    }


def _newest(tx: Transaction, kind: Kind, embedder: str | None = None) -> dict[str, Any] | None:
    wanted = sa.select(acceptance_models).where(acceptance_models.c.kind == kind)
    if embedder is not None:
        wanted = wanted.where(acceptance_models.c.embedder == embedder)
    row = (
        tx.execute(wanted.order_by(acceptance_models.c.created_at.desc()).limit(1))
        .mappings()
        .first()
    )
    return None if row is None else dict(row)


def _read(row: Mapping[str, Any]) -> StoredModel:
    return StoredModel(
        AcceptanceModel.read(row["parameters"]),
        Kind(row["kind"]),
        row["embedder"],
        row["label_source"],
        row["metrics"],
        row["created_at"],
    )


IS_HELD_OUT: Final = f"""coalesce(c.slice, '') = 'random'
    and greatest((r.policy ->> 'reject_budget')::float, (r.policy ->> 'accept_budget')::float) > 0
    and {HOLDOUT_BUCKET} < 0.5"""
"""SQL condition: a random half of the random slice of a round with a gate.

It is held out from every model, so that it can prove gates.
"""

# One row per candidate with its standing verdict, not a fraction per vote: that verdict decides
# which candidates become samples and which gates are proven, and several votes on one image are not
# several images. The label source is the kind of reviewer who gave the verdict that stands.
_LABELED = f"""
    from (
        select d.candidate_id, v.kind, max(d.id) as decision
        from decisions d join reviewers v on v.id = d.reviewer_id
        join candidates c on c.id = d.candidate_id
        where {IS_UPHELD} and v.kind <> 'auto_reviewer' group by d.candidate_id, v.kind) said
    join candidates c on c.id = said.candidate_id
    join rounds r on r.id = c.round_id
    join screenings s on s.candidate_id = c.id
    join embeddings e on e.candidate_id = c.id
    where r.kind = :kind and e.source = :embedder and not ({IS_HELD_OUT})"""

_COUNT = sa.text(f"""
    select said.kind, count(*) filter (where c.state = 'accepted') as accepted,
        count(*) filter (where c.state = 'rejected') as rejected {_LABELED} group by said.kind""")

_SINCE = sa.text(
    "select count(*) from (select from decisions where id > :last limit :wanted) found"
)

_TRAINING_ROWS = sa.text(f"""
    select said.decision, c.state = 'accepted' as accepted, s.signals, e.vector, c.prompt_id,
        c.round_id,
        coalesce(c.slice, 'random') = 'random' as at_random
    {_LABELED} and said.kind = :label_source order by said.decision desc limit :most""")

_UNSCORED = sa.text("""
    select c.id, s.signals, e.vector from candidates c
    join screenings s on s.candidate_id = c.id
    join embeddings e on e.candidate_id = c.id and e.source = :embedder
    left join scores k on k.candidate_id = c.id
    where c.round_id = :round and k.acceptance_model_id is distinct from :acceptance_model
        and (c.state in ('screened', 'unshown', 'waiting', 'showing') or c.slice is not null)""")

_SCORE = sa.text("""
    insert into scores (candidate_id, acceptance_model_id, probability, cluster)
    select id, :acceptance_model, probability, cluster
    from unnest(:ids, :probabilities, :clusters) as
    found(id, probability,
        cluster)
    on conflict (candidate_id) do update
    set acceptance_model_id = excluded.acceptance_model_id, probability = excluded.probability,
        cluster = excluded.cluster""").bindparams(
    sa.bindparam("ids", type_=ARRAY(UUID)),
    sa.bindparam("probabilities", type_=ARRAY(REAL)),
    sa.bindparam("clusters", type_=ARRAY(sa.SmallInteger)),
)
