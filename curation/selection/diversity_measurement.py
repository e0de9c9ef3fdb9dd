"""Measurement of a round's diversity: embeddings of drawn candidates and of seeds, and estimates.

All drawn candidates count, not only those that people see or accept. Ids are hashes, so the first
of them by id are a random sample, which is the same at each measurement and bounds the cost.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from curation.db.engine import Database, Transaction
from curation.db.kept_reports import store_report
from curation.db.tables import sample_embeddings
from curation.domain import CandidateState, Kind, LayerRole, Prompt, Sample
from curation.downloads import Downloads
from curation.errors import Corrupt, NotFound
from curation.images.codec import decode_layer
from curation.ports import Embedder, ObjectStore
from curation.rounds.lifecycle import find_round
from curation.screening.candidates import find_measurable, measure_candidate
from curation.screening.embedding import pack_vector, unpack_vectors
from curation.screening.rules import store_remeasured
from curation.statistics import diversity
from curation.statistics.diversity import Vectors

REPORT: Final = "diversity"
"""Name of the kept reports."""
SIZES: Final = (48, 256)
"""Sizes of subsamples; two rounds are compared at the largest size that both have."""
MAX_SHARE: Final = 0.8
"""Largest share of the candidates that a subsample may be; otherwise all subsamples are alike."""
MAX_CANDIDATES: Final = 1_024
"""Number of drawn candidates that represent a round."""
MAX_SEEDS: Final = 1_024
"""Number of seeds that represent all of them."""
BATCH_SIZE: Final = 64
"""Candidates or seeds of which the layers are read at a time."""


def rounds_to_measure(tx: Transaction) -> list[int]:
    """Return generated rounds without a report, all of whose candidates are drawn and screened."""
    return [row.id for row in tx.execute(_UNMEASURED)]


def measure_diversity(
    database: Database, store: ObjectStore, embedder: Embedder, round_id: int
) -> None:
    """Measure the diversity of a round, and keep the report; the call is idempotent.

    Args:
        database: The database.
        store: The object store with the layers.
        embedder: The embedder; a round that another one embedded is embedded again.
        round_id: The round.

    Raises:
        NotFound: There is no such round.
        Unreachable: The object store does not answer.
    """
    started = time.monotonic()
    with database.transaction() as tx:
        kind = Kind(find_round(tx, round_id)["kind"])
    with closing(Downloads(store)) as downloads:
        drawn = _candidate_vectors(database, downloads, embedder, round_id)
        seeds, seeds_id = _seed_vectors(database, downloads, embedder, kind)
    report = _estimate(drawn, seeds) | {"embedder": embedder.source, "seeds_id": seeds_id}
    with database.transaction() as tx:
        store_report(tx, REPORT, round_id, report, seconds=time.monotonic() - started)


def smallest_round() -> int:
    """Return the number of drawn candidates from which on a round is measured."""
    return _least(SIZES[0])


def _estimate(drawn: Vectors, seeds: Vectors) -> dict[str, Any]:
    """Return the estimates at each size that the candidates, or the seeds, allow."""
    none = np.zeros((0, 0), np.float32)
    sizes = [size for size in SIZES if len(drawn) >= _least(size)]
    by_size = {str(n): _as_json(diversity.subsample_estimates(drawn, seeds, n)) for n in sizes}
    # The seeds' own diversity, for comparison.
    of_seeds = {
        str(n): _as_json(diversity.subsample_estimates(seeds, none, n))
        for n in sizes
        if len(seeds) >= _least(n)
    }
    return {
        "candidates": len(drawn),
        "seeds": len(seeds),
        "estimates": by_size,
        "seed_estimates": of_seeds,
    }


def _least(size: int) -> int:
    return round(size / MAX_SHARE)


def _as_json(estimates: Mapping[str, diversity.PointEstimate]) -> dict[str, list[float]]:
    return {name: [found.value, found.std_error] for name, found in estimates.items()}


def _candidate_vectors(
    database: Database, downloads: Downloads, embedder: Embedder, round_id: int
) -> Vectors:
    """Return the vectors of a round's sample of drawn candidates; embed those that lack one."""
    params = {"round": round_id, "embedder": embedder.source, "most": MAX_CANDIDATES}
    with database.transaction() as tx:
        rows = tx.execute(_DRAWN, params).all()
    missing = [row.id for row in rows if row.vector is None]
    for start in range(0, len(missing), BATCH_SIZE):
        _embed_candidates(database, downloads, embedder, missing[start : start + BATCH_SIZE])
    if missing:
        with database.transaction() as tx:
            rows = tx.execute(_DRAWN, params).all()
    # Candidates whose layers cannot be read have no vector.
    found = [row for row in rows if row.vector is not None]
    # Steered prompts differ less than those of other rounds, which is no loss of the checkpoint.
    at_random = [row for row in found if not row.steered]
    chosen = at_random if len(at_random) >= smallest_round() else found
    return _stack([bytes(row.vector) for row in chosen])


def _embed_candidates(
    database: Database, downloads: Downloads, embedder: Embedder, ids: Sequence[uuid.UUID]
) -> None:
    """Embed a batch of candidates without an open transaction, and store the vectors."""
    with database.transaction() as tx:
        found = find_measurable(tx, ids, tuple(CandidateState))
    measured = []
    for item in found:
        downloads.start(item.objects)
    for item in found:
        measured.append(measure_candidate(item, downloads.take, embedder))
        downloads.forget(item.objects)
    with database.transaction() as tx:
        store_remeasured(tx, measured)


def _seed_vectors(
    database: Database, downloads: Downloads, embedder: Embedder, kind: Kind
) -> tuple[Vectors, str]:
    """Return the vectors of the sample of seeds and a name for this set; embed missing ones.

    Single candidates are compared with the foreground of pairs too.
    """
    params = {"kind": kind, "embedder": embedder.source, "most": MAX_SEEDS}
    with database.transaction() as tx:
        rows = tx.execute(_SEEDS, params).all()
    vectors: dict[uuid.UUID, bytes] = {
        row.id: bytes(row.vector) for row in rows if row.vector is not None
    }
    missing = [row for row in rows if row.vector is None]
    for start in range(0, len(missing), BATCH_SIZE):
        batch = missing[start : start + BATCH_SIZE]
        embedded = _embed_seeds(downloads, embedder, kind, batch)
        with database.transaction() as tx:
            _store_seeds(tx, kind, embedder.source, embedded)
        vectors |= embedded
    ids = sorted(vectors)
    name = hashlib.sha256(b"".join(id_.bytes for id_ in ids)).hexdigest()[:16]
    return _stack([vectors[id_] for id_ in ids]), name


def _embed_seeds(
    downloads: Downloads, embedder: Embedder, kind: Kind, batch: Sequence[sa.Row[Any]]
) -> dict[uuid.UUID, bytes]:
    """Return the packed vectors of seeds by id, without those whose layers cannot be read."""
    seeds = [(row.id, Sample.read(row.line)) for row in batch]
    objects = {id_: [sample.layers[role] for role in _roles(sample, kind)] for id_, sample in seeds}
    for names in objects.values():
        downloads.start(names)
    embedded = {}
    for id_, sample in seeds:
        roles = _roles(sample, kind)
        try:
            pixels = {
                role: np.asarray(decode_layer(downloads.take(sample.layers[role])))
                for role in roles
            }
        except (Corrupt, NotFound):
            continue
        finally:
            downloads.forget(objects[id_])
        role = None if kind is Kind.pair else roles[0]
        prompt = Prompt(sample.caption_for(role))
        embedded[id_] = pack_vector(embedder.embed([pixels], [prompt])[0].vector)
    return embedded


def _roles(sample: Sample, kind: Kind) -> list[LayerRole]:
    """Return the layers of a seed that its vector describes."""
    roles = [role for role in LayerRole if role in sample.layers]
    return roles if kind is Kind.pair else roles[:1]


def _store_seeds(
    tx: Transaction, kind: Kind, embedder: str, embedded: Mapping[uuid.UUID, bytes]
) -> None:
    rows = [
        {"sample_id": id_, "kind": kind, "source": embedder, "vector": vector}
        for id_, vector in embedded.items()
    ]
    if rows:
        adding = insert(sample_embeddings)
        fields = {name: adding.excluded[name] for name in ("source", "vector")}
        keys = ["sample_id", "kind"]
        tx.execute(adding.on_conflict_do_update(index_elements=keys, set_=fields), rows)


def _stack(packed: Sequence[bytes]) -> Vectors:
    return unpack_vectors(packed) if packed else np.zeros((0, 0), np.float32)


_UNMEASURED = sa.text(f"""
    select r.id from rounds r
    left join kept_reports k on k.name = '{REPORT}' and k.subject = r.id
    where r.purpose = 'generated' and k.subject is null
        and (r.state = 'closed' or not exists (select from candidates c
            where c.round_id = r.id and c.state in ('requested', 'generating', 'generated')))
    order by r.id limit 100""")

# A withdrawn candidate may have been withdrawn before it was drawn.
_DRAWN = sa.text("""
    select c.id, e.vector, c.prompt_source is not distinct from 'steered' as steered
    from candidates c
    left join embeddings e on e.candidate_id = c.id and e.source = :embedder
    where c.round_id = :round and c.state in ('generated', 'refused', 'screened', 'unshown',
            'waiting', 'showing', 'accepted', 'rejected', 'withdrawn')
        and (c.state <> 'withdrawn'
            or exists (select from candidate_layers l where l.candidate_id = c.id))
    order by c.id limit :most""")

_SEEDS = sa.text("""
    select s.id, s.line, e.vector from samples s
    left join sample_embeddings e
        on e.sample_id = s.id and e.kind = :kind and e.source = :embedder
    where s.round = 0 and s.withdrawn_at is null and (:kind = 'single' or s.kind = 'pair')
    order by s.id limit :most""")
