"""Acceptance heads as records: fitted to the decisions that stand, kept under their numbers' hash, and applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import ARRAY, REAL, UUID, insert

from curation.db.engine import Transaction
from curation.db.tables import heads
from curation.domain import Kind
from curation.errors import NotFound
from curation.review.reviewers import ORACLE, PERSON
from curation.review.verdicts import UPHELD
from curation.screening.embedding import unpack
from curation.selection.acceptance_model import (
    FEWEST,
    FEWEST_OF_EACH,
    AcceptanceModel,
    TrainingRows,
    check_lesson,
    fit,
)
from curation.selection.hash_buckets import JUDGING_COIN

MOST_DECISIONS: Final = 20_000
"""What a head is taught by, at the most: the latest decisions."""
MORE: Final = 1.2
"""A head is fitted anew when there are so many times the decisions that taught it."""
SCORE_AT_ONCE: Final = 10_000


@dataclass(frozen=True)
class StoredModel:
    """A head with where it came from; `teacher` is the kind of reviewer whose decisions it learnt from."""

    head: AcceptanceModel
    kind: Kind
    embedder: str
    teacher: str
    figures: Mapping[str, Any]
    at: Any

    @property
    def id(self) -> str:
        """The head's own."""
        return self.head.id


def fit_head(tx: Transaction, kind: Kind, embedder: str) -> StoredModel:
    """Fit a head to the verdicts that candidates have come to, keep it, and return it; equal ones make an equal head.

    A candidate teaches once, however many have decided it. People's decisions teach it; the oracle's only where people
    have not decided enough, since the two are never mixed. What a gate is to be judged by does not teach (`gates`).
    Raises Refused for too few decisions.
    """
    teacher = _teacher(tx, kind, embedder)
    rows = tx.execute(
        _LESSON, {"kind": kind, "embedder": embedder, "teacher": teacher, "most": MOST_DECISIONS}
    ).all()
    verdicts = np.array([row.accepted for row in rows], bool)
    check_lesson(int(verdicts.sum()), int((~verdicts).sum()))
    lesson = TrainingRows(
        signals=[row.signals for row in rows],
        embeddings=unpack([bytes(row.vector) for row in rows]),
        accepted=verdicts,
        prompts=[row.prompt_id for row in rows],
        rounds=[row.round_id for row in rows],
        at_random=np.array([row.at_random for row in rows], bool),
    )
    head, figures = fit(lesson)
    row = {
        "id": head.id, "kind": kind, "embedder": embedder, "teacher": teacher, "numbers": head.as_json(),
        "figures": figures, "last_decision": max(row.decision for row in rows),
    }  # fmt: skip
    now = {"at": sa.func.clock_timestamp()}  # not the transaction's: two fits in one have an order
    tx.execute(
        insert(heads).values(**row, **now).on_conflict_do_update(index_elements=["id"], set_=now)
    )
    return find_head(tx, kind, head.id)


def wants_fit(tx: Transaction, kind: Kind, embedder: str) -> bool:
    """Whether there is enough to fit a head to, and enough more than the newest one has seen."""
    row = _newest(tx, kind, embedder)
    seen = 0 if row is None else int(row["figures"]["decisions"])
    counted = _count_verdicts(tx, kind, embedder)
    return any(
        accepted + rejected >= max(FEWEST, MORE * seen)
        and min(accepted, rejected) >= FEWEST_OF_EACH
        for accepted, rejected in counted.values()
    )


def may_fit(tx: Transaction, kind: Kind) -> bool:
    """Whether there may be enough decisions: what a sweep can afford to ask, before somebody counts (`wants_fit`)."""
    row = _newest(tx, kind)
    seen, last = (
        (0, 0) if row is None else (int(row["figures"]["decisions"]), int(row["last_decision"]))
    )
    wanted = max(FEWEST, int((MORE - 1) * seen))
    return int(tx.execute(_SINCE, {"last": last, "wanted": wanted}).scalar_one()) >= wanted


def newest_head(tx: Transaction, kind: Kind, embedder: str) -> StoredModel | None:
    """The head that was fitted last for a kind of candidates, None where there is none."""
    row = _newest(tx, kind, embedder)
    return None if row is None else _read(row)


def find_head(tx: Transaction, kind: Kind, name: str | None = None) -> StoredModel:
    """A head by the beginning of its id, or the newest. Raises NotFound."""
    wanted = (
        sa.select(heads)
        .where(heads.c.kind == kind, heads.c.id.startswith(name or ""))
        .order_by(heads.c.at.desc())
    )
    row = tx.execute(wanted).mappings().first()
    if row is None:
        told = f"there is no acceptance head {name}" if name else "there is no acceptance head yet"
        raise NotFound(told, "'layerloop head fit' makes one of the decisions that stand")
    return _read(dict(row))


def score_round(tx: Transaction, kept: StoredModel, number: int) -> int:
    """Score a round's candidates without a verdict, and all that were chosen, by one head; returns how many were new.

    Those already scored by it are passed by. Of the chosen ones caps count the places, by the head's own clusters. Rows
    cross in batches, each one product of matrices, and are read by one cursor: asked for batch by batch, each would
    pass by all that were scored before.
    """
    asked = {"round": number, "head": kept.id, "embedder": kept.embedder}
    scored = 0
    reading = tx.connection.execute(_UNSCORED, asked, execution_options={"stream_results": True})
    for rows in reading.partitions(SCORE_AT_ONCE):
        chances, clusters = apply(kept.head, rows)
        found = {
            "ids": [row.id for row in rows],
            "chances": chances,
            "clusters": clusters,
            "head": kept.id,
        }
        tx.execute(_SCORE, found)
        scored += len(rows)
    return scored


def apply(head: AcceptanceModel, rows: Sequence[sa.Row[Any]]) -> tuple[list[float], list[int]]:
    """Chances and clusters of rows with signals and vector."""
    embedded: NDArray[np.float32] = unpack([bytes(row.vector) for row in rows])
    chances = head.predict([row.signals for row in rows], embedded)
    return [float(one) for one in chances], [int(one) for one in head.cluster(embedded)]


def count_lesson(tx: Transaction, kind: Kind, embedder: str) -> tuple[int, int]:
    """Accepts and rejects that a head would be taught by now."""
    return _count_verdicts(tx, kind, embedder)[_teacher(tx, kind, embedder)]


def _teacher(tx: Transaction, kind: Kind, embedder: str) -> str:
    accepted, rejected = _count_verdicts(tx, kind, embedder)[PERSON]
    return (
        PERSON
        if accepted + rejected >= FEWEST and min(accepted, rejected) >= FEWEST_OF_EACH
        else ORACLE
    )


def _count_verdicts(tx: Transaction, kind: Kind, embedder: str) -> dict[str, tuple[int, int]]:
    rows = tx.execute(_COUNT, {"kind": kind, "embedder": embedder}).all()
    counted = {row.kind: (int(row.accepted), int(row.rejected)) for row in rows}
    return {teacher: counted.get(teacher, (0, 0)) for teacher in (PERSON, ORACLE)}


def _newest(tx: Transaction, kind: Kind, embedder: str | None = None) -> dict[str, Any] | None:
    wanted = sa.select(heads).where(heads.c.kind == kind)
    if embedder is not None:
        wanted = wanted.where(heads.c.embedder == embedder)
    row = tx.execute(wanted.order_by(heads.c.at.desc()).limit(1)).mappings().first()
    return None if row is None else dict(row)


def _read(row: Mapping[str, Any]) -> StoredModel:
    return StoredModel(
        AcceptanceModel.read(row["numbers"]),
        Kind(row["kind"]),
        row["embedder"],
        row["teacher"],
        row["figures"],
        row["at"],
    )


JUDGING: Final = f"""coalesce(c.slice, '') = 'random'
    and greatest((r.policy ->> 'reject_budget')::float, (r.policy ->> 'accept_budget')::float) > 0
    and {JUDGING_COIN} < 0.5"""
"""Half of the random slice of a round with a gate, by a coin of its own: kept from every head, so that it can judge."""

# One lesson for each candidate, its standing verdict, and not a fraction for each vote: that verdict is what becomes a
# sample and what gates are judged by, and votes on one picture are no new pictures. Whose lesson it is, is told by who
# said what it has come to.
_TAUGHT = f"""
    from (
        select d.candidate_id, v.kind, max(d.id) as decision
        from decisions d join reviewers v on v.id = d.reviewer_id
        join candidates c on c.id = d.candidate_id
        where {UPHELD} and v.kind <> 'machine' group by d.candidate_id, v.kind) said
    join candidates c on c.id = said.candidate_id
    join rounds r on r.id = c.round_id
    join screenings s on s.candidate_id = c.id
    join embeddings e on e.candidate_id = c.id
    where r.kind = :kind and e.source = :embedder and not ({JUDGING})"""

_COUNT = sa.text(f"""
    select said.kind, count(*) filter (where c.state = 'accepted') as accepted,
        count(*) filter (where c.state = 'rejected') as rejected {_TAUGHT} group by said.kind""")

_SINCE = sa.text(
    "select count(*) from (select from decisions where id > :last limit :wanted) found"
)

_LESSON = sa.text(f"""
    select said.decision, c.state = 'accepted' as accepted, s.signals, e.vector, c.prompt_id,
        c.round_id,
        coalesce(c.slice, 'random') = 'random' as at_random
    {_TAUGHT} and said.kind = :teacher order by said.decision desc limit :most""")

_UNSCORED = sa.text("""
    select c.id, s.signals, e.vector from candidates c
    join screenings s on s.candidate_id = c.id
    join embeddings e on e.candidate_id = c.id and e.source = :embedder
    left join scores k on k.candidate_id = c.id
    where c.round_id = :round and k.head_id is distinct from :head
        and (c.state in ('screened', 'unshown', 'waiting', 'showing') or c.slice is not null)""")

_SCORE = sa.text("""
    insert into scores (candidate_id, head_id, chance, cluster)
    select id, :head, chance, cluster from unnest(:ids, :chances, :clusters) as found(id, chance,
        cluster)
    on conflict (candidate_id) do update
    set head_id = excluded.head_id, chance = excluded.chance,
        cluster = excluded.cluster""").bindparams(
    sa.bindparam("ids", type_=ARRAY(UUID)),
    sa.bindparam("chances", type_=ARRAY(REAL)),
    sa.bindparam("clusters", type_=ARRAY(sa.SmallInteger)),
)
