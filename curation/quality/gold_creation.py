"""Creation of gold from samples: most get a planted defect, the others stay clean copies."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from curation.datasets.samples import StoredLayer, record_layers
from curation.db.advisory_locks import AdvisoryLock, lock
from curation.db.engine import Transaction
from curation.db.tables import candidate_layers, candidates, gold, layers, rounds, screenings
from curation.domain import CandidateState, Kind, LayerRole, Prompt, RoundState, Sample, content_id
from curation.errors import Refused
from curation.images.codec import decode_layer, encode_layer, pixel_hash
from curation.images.perceptual_hash import fingerprint
from curation.ports import RGBA, ObjectStore
from curation.quality.gold_transforms import Size, transform_pair, transform_single
from curation.rounds.lifecycle import GOLD_PURPOSE, SHOW_ALL, add_prompts, find_round, next_round_id
from curation.screening.defects import DEFECTS
from curation.screening.pairs.defects import PAIR_DEFECTS

CLEAN_SHARE: Final = 0.25
"""The share of gold without a defect, so that rejecting everything is not accurate."""
MIN_SEVERITY: Final = 0.02
"""The lowest severity of a planted defect."""


@dataclass(frozen=True)
class GoldItem:
    """A gold item whose layers are in the object store.

    Attributes:
        sample: The id of the sample that it is made from.
        kind: Single layer or pair.
        prompt: The prompt that reviewers see.
        layers: The stored layers by role.
        fingerprints: Fingerprints by sha256 of the layer, computed as screening does.
        signals: The screening signals.
        defect: The planted defect, None for a clean copy.
        severity: The severity of the defect in (0, 1], 0 for a clean copy.
    """

    sample: uuid.UUID
    kind: Kind
    prompt: Prompt
    layers: Mapping[LayerRole, StoredLayer]
    fingerprints: Mapping[str, bytes]
    signals: dict[str, float | None]
    defect: str | None
    severity: float


def choose_sources(tx: Transaction, round_id: int, count: int) -> list[Sample]:
    """Choose random samples to make gold for a round from.

    Samples of the round's image size come first, then samples with one of its prompts, since a size
    or a prompt that no candidate has would reveal gold.

    Args:
        tx: The transaction.
        round_id: ID of the round.
        count: The number of gold items; too few samples are repeated.

    Returns:
        `count` samples of the round's kind.

    Raises:
        NotFound: There is no such round.
        Refused: It is a round of imported seeds, or there are no samples.
    """
    row = find_round(tx, round_id)
    if row["purpose"] != "generated":
        raise Refused(
            f"round {round_id} has imported candidates",
            "gold needs a round of generated candidates",
        )
    if not count:
        return []
    query = {"round": round_id, "kind": row["kind"], "count": count}
    found = [Sample.read(source.line) for source in tx.execute(_SOURCES, query)]
    if not found:
        message = f"there are no {row['kind']} samples to make gold from"
        raise Refused(message, "import seeds or accept candidates first")
    return [found[index % len(found)] for index in range(count)]


def typical_size(tx: Transaction, round_id: int) -> Size:
    """Return the most frequent (width, height) of a round's layers, None if there are none."""
    row = tx.execute(_SIZE, {"round": round_id}).first()
    return None if row is None else (row.width, row.height)


def make_gold(
    store: ObjectStore, sources: Sequence[Sample], size: Size, seed: int | None = None
) -> list[GoldItem]:
    """Make gold items from samples of one kind, without writing to the database.

    All defects are equally frequent; a share CLEAN_SHARE of the items has none.

    Args:
        store: The object store for the layers.
        sources: The samples, all single layers or all pairs.
        size: The image size of the gold items, so that it equals that of the candidates.
        seed: The random seed; None is random.

    Returns:
        One gold item per sample, with severities uniform in [MIN_SEVERITY, 1].
    """
    rng = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    clean = round(CLEAN_SHARE * len(sources))
    names = list(PAIR_DEFECTS if sources and sources[0].kind is Kind.pair else DEFECTS)
    defects = [None] * clean + [names[i % len(names)] for i in range(len(sources) - clean)]
    items = []
    # Assign the defects to the samples in random order.
    for sample, defect in zip(sources, rng.permutation(np.array(defects, object)), strict=True):
        severity = 0.0 if defect is None else float(rng.uniform(MIN_SEVERITY, 1))
        prompt = Prompt(
            sample.caption,
            sample.texts.get(LayerRole.foreground),
            sample.texts.get(LayerRole.background),
        )
        decoded = {
            role: np.asarray(decode_layer(store.get(sha))) for role, sha in sample.layers.items()
        }
        transform = transform_pair if sample.kind is Kind.pair else transform_single
        layers, signals = transform(decoded, prompt, size, defect, severity, rng)

        # Store the layers, with the fingerprint of the one that reviewers see.
        stored = {role: _put(store, rgba) for role, rgba in layers.items()}
        shown_role = LayerRole.blended if sample.kind is Kind.pair else next(iter(stored))
        fingerprints = {stored[shown_role].sha256: fingerprint(layers[shown_role])}
        items.append(
            GoldItem(
                uuid.UUID(sample.id),
                sample.kind,
                prompt,
                stored,
                fingerprints,
                signals,
                defect,
                severity,
            )
        )
    return items


def _put(store: ObjectStore, rgba: RGBA) -> StoredLayer:
    data = encode_layer(rgba)
    height, width = rgba.shape[:2]
    return StoredLayer(store.put(data), width, height, len(data), pixel_hash(rgba))


def add_gold(tx: Transaction, round_id: int, planted: Sequence[GoldItem], actor: str) -> int:
    """Add gold items to a round.

    Args:
        tx: The transaction.
        round_id: ID of the round.
        planted: The gold items, all of one kind.
        actor: Who adds them, for the log.

    Returns:
        The number of gold items of the round.
    """
    count = sa.select(sa.func.count()).where(gold.c.round_id == round_id)
    if not planted:
        return int(tx.scalar(count))
    gold_round = _gold_round(tx, planted[0].kind)
    record_layers(tx, [layer for item in planted for layer in item.layers.values()])
    add_prompts(tx, [item.prompt for item in planted])
    for item in planted:
        # A candidate of its own with a random seed, which looks like any other candidate.
        seed = secrets.randbits(32)
        candidate = content_id(
            "candidate", gold_round, item.prompt.text, seed, secrets.token_hex(16)
        )
        row = {
            "id": candidate,
            "round_id": gold_round,
            "prompt_id": item.prompt.id,
            "seed": seed,
            "state": CandidateState.waiting,
        }
        tx.execute(sa.insert(candidates), row)
        stored = [
            {"candidate_id": candidate, "role": role, "sha256": layer.sha256}
            for role, layer in item.layers.items()
        ]
        tx.execute(sa.insert(candidate_layers), stored)
        tx.execute(sa.insert(screenings), {"candidate_id": candidate, "signals": item.signals})

        # The known verdict.
        truth = {
            "candidate_id": candidate,
            "round_id": round_id,
            "sample_id": item.sample,
            "defect": item.defect,
            "severity": item.severity,
        }
        tx.execute(sa.insert(gold), truth)

        # Not in the index of duplicates, or candidates that resemble gold would be refused.
        for sha256, layer_fingerprint in item.fingerprints.items():
            has_none = (layers.c.sha256 == sha256) & layers.c.fingerprint.is_(None)
            tx.execute(sa.update(layers).where(has_none).values(fingerprint=layer_fingerprint))
    tx.log(actor, "gold planted", f"round {round_id}", pieces=len(planted))
    return int(tx.scalar(count))


def _gold_round(tx: Transaction, kind: Kind) -> int:
    """Return the round that all gold of a kind belongs to, created on first use."""
    # Two processes must not create two of them.
    lock(tx, AdvisoryLock.plant_gold)
    round_id = tx.scalar(
        sa.select(rounds.c.id).where(rounds.c.purpose == GOLD_PURPOSE, rounds.c.kind == kind)
    )
    if round_id is None:
        row: dict[str, Any] = {
            "purpose": GOLD_PURPOSE,
            "kind": kind,
            "quota": 0,
            "policy": dict(SHOW_ALL),
        }
        round_id = next_round_id(tx)
        tx.execute(sa.insert(rounds), row | {"id": round_id, "state": RoundState.open})
    return int(round_id)


_SIZE = sa.text("""
    select l.width, l.height from candidates c
    join candidate_layers cl on cl.candidate_id = c.id join layers l on l.sha256 = cl.sha256
    where c.round_id = :round group by l.width, l.height order by count(*) desc, l.width limit 1""")

# Samples accepted in this round come late, since their reviewers may remember them; samples whose
# prompt is a file name come last, since no generated candidate has such a prompt.
_SOURCES = sa.text(f"""
    with size as ({_SIZE.text})
    select s.line from samples s
    join sample_layers sl on sl.sample_id = s.id and sl.role = 'foreground'
    join layers l on l.sha256 = sl.sha256
    left join size on size.width = l.width and size.height = l.height
    where s.withdrawn_at is null and s.kind = :kind
    order by s.caption_source = 'file name', size.width is null, s.round = :round, not exists (
        select from prompts p join candidates c on c.prompt_id = p.id
        where c.round_id = :round and p.text = s.line::jsonb ->> 'caption'),
        random() limit :count""")
