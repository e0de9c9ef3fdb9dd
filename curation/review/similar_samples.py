"""The accepted sample most similar to a candidate, found by fingerprints in constant time.

The candidate is compared with the samples that share a band of its fingerprint
(curation.datasets.duplicates), those of its prompt, the latest of all, and a fixed few. The most
similar of these has the fewest differing bits. A duplicate is always found; among
merely similar samples, a more similar one that shares no band may be missed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from curation.db.engine import Transaction
from curation.domain import LayerRole, ReviewItemLayer, Sample
from curation.errors import NotFound
from curation.images.perceptual_hash import FINGERPRINT_BYTES, HASH_BYTES, count_bits, index_keys

MAX_COMPARED = 128
"""The maximum number of layers per band, and of samples per prompt and overall."""


@dataclass(frozen=True)
class SimilarSample:
    """A similar sample; `bits` of 192 differ from the candidate's, None without a fingerprint."""

    sample: uuid.UUID
    caption: str
    round: int
    bits: int | None
    layers: Mapping[LayerRole, ReviewItemLayer]


def most_similar_sample(tx: Transaction, candidate: uuid.UUID) -> SimilarSample | None:
    """Return the most similar accepted sample, or None while there is no other.

    A sample made of the candidate itself is left out. Raises NotFound.
    """
    query = similarity_query(tx, candidate)
    found = tx.execute(_NEAR, query.values).all()
    if not found:
        return None
    best, bits = _nearest_of(query.fingerprint, found) if query.fingerprint else (None, None)
    return _read(tx, (best or found[0]).id, bits)


class SimilarityQuery(NamedTuple):
    """The index query for one candidate.

    `fingerprint` is that of the candidate, empty if it was not screened.
    """

    fingerprint: bytes
    values: dict[str, Any]


def similarity_query(tx: Transaction, candidate: uuid.UUID) -> SimilarityQuery:
    """Return the query parameters for a candidate. Raises NotFound."""
    row = tx.execute(_CANDIDATE, {"candidate": candidate}).one_or_none()
    if row is None:
        raise NotFound(f"there is no candidate {candidate}")
    fingerprint = bytes(row.fingerprint or b"")
    fingerprint = fingerprint if len(fingerprint) == FINGERPRINT_BYTES else b""
    bands = dict(enumerate(index_keys(fingerprint))) if fingerprint else {}
    values = {
        "candidate": candidate,
        "kind": row.kind,
        "role": row.role,
        "prompt": row.prompt_id,
        "limit": MAX_COMPARED,
        "hash_bytes": HASH_BYTES,
        "planted": row.planted,
        "bands": list(bands),
        "bits": list(bands.values()),
    }
    return SimilarityQuery(fingerprint, values)


def _nearest_of(
    fingerprint: bytes, rows: Sequence[sa.Row[Any]]
) -> tuple[sa.Row[Any] | None, int | None]:
    comparable = [row for row in rows if row.fingerprint and len(row.fingerprint) == HASH_BYTES]
    if not comparable:
        return None, None
    distances = count_bits(fingerprint[:HASH_BYTES], [bytes(row.fingerprint) for row in comparable])
    nearest = int(distances.argmin())
    return comparable[nearest], int(distances[nearest])


def _read(tx: Transaction, sample: uuid.UUID, bits: int | None) -> SimilarSample:
    row = tx.execute(_SAMPLE, {"sample": sample}).one()
    layers = {role: ReviewItemLayer(*row.layers[role]) for role in LayerRole if role in row.layers}
    return SimilarSample(sample, Sample.read(row.line).caption, row.round, bits, layers)


# Duplicates are recognized by the only layer, or a pair's blended image. The sample that a gold
# candidate was made from is excluded: it would reveal the gold.
_CANDIDATE = sa.text("""
    select c.prompt_id, r.kind, l.fingerprint, gold.sample_id as planted,
        case r.kind when 'pair' then 'blended' else 'foreground' end as role
    from candidates c join rounds r on r.id = c.round_id
    left join candidate_layers cl on cl.candidate_id = c.id
        and cl.role = case r.kind when 'pair' then 'blended' else 'foreground' end
    left join layers l on l.sha256 = cl.sha256
    left join gold on gold.candidate_id = c.id
    where c.id = :candidate""")

# Lateral joins with a limit force one index probe per row, whatever sizes the planner assumes.
# Plain joins hashed whole tables and took ten times as long at 100,000 samples.
_NEAR = sa.text("""
    with banded as (
        select sl.sample_id as id from unnest(:bands, :bits) as wanted (band, value)
        cross join lateral (
            select b.sha256 from layer_bands b where b.band = wanted.band and b.value = wanted.value
            limit :limit) near
        cross join lateral (
            select sample_id from sample_layers l where l.sha256 = near.sha256 and l.role = :role
            limit 1) sl),
    of_prompt as (
        select s.id from rounds r
        cross join lateral (
            select id from candidates c where c.round_id = r.id and c.prompt_id = :prompt
            limit :limit) c
        cross join lateral (select id from samples s where s.candidate_id = c.id limit 1) s
        limit :limit),
    decided as (select candidate_id, verdict from decisions order by id desc limit 8 * :limit),
    newest as (
        select s.id from (select candidate_id from decided where verdict = 'accept' limit :limit) d
        cross join lateral (select id from samples s where s.candidate_id = d.candidate_id
            limit 1) s),
    any_few as (select id from samples order by id limit :limit)
    select near.id, found.fingerprint from (
        select id from banded union select id from of_prompt
        union select id from newest union select id from any_few) near
    cross join lateral (
        select substring(l.fingerprint for :hash_bytes) as fingerprint, s.created_at
        from samples s
        join sample_layers sl on sl.sample_id = s.id and sl.role = :role
        join layers l on l.sha256 = sl.sha256
        where s.id = near.id and s.kind = :kind and s.withdrawn_at is null
            and s.candidate_id is distinct from :candidate
                and s.id is distinct from cast(:planted as uuid)
        limit 1) found
    order by found.created_at desc""").bindparams(
    sa.bindparam("bands", type_=ARRAY(sa.SmallInteger)),
    sa.bindparam("bits", type_=ARRAY(sa.Integer)),
)

_SAMPLE = sa.text("""
    select s.line, s.round, jsonb_object_agg(sl.role,
        jsonb_build_array(l.sha256, l.width, l.height)) as layers
    from samples s join sample_layers sl on sl.sample_id = s.id
    join layers l on l.sha256 = sl.sha256
    where s.id = :sample group by s.id""")
