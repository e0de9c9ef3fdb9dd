"""Planting: gold is made of accepted samples, with a defect planted in most and nothing changed in the others."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import sqlalchemy as sa

from curation.database import Transaction
from curation.domain import CandidateState, Kind, LayerRole, Prompt, RoundState, Sample, content_id
from curation.errors import Refused
from curation.layers import decode_layer, encode_layer, visible_hash
from curation.ports import RGBA, ObjectStore
from curation.rounds import GOLD, SHOW_ALL, add_prompts, find_round
from curation.samples import StoredLayer, record_layers
from curation.screening.defects import DEFECTS, plant
from curation.screening.refusals import measure_single
from curation.tables import candidate_layers, candidates, gold, rounds, screenings

CLEAN: Final = 0.25
"""The share of gold without a defect: what tells a keen eye from a quick reject."""
FAINTEST: Final = 0.02


@dataclass(frozen=True)
class Planted:
    """One piece of gold whose layer is in the object store; `defect` None and `severity` 0 for a clean copy."""

    sample: uuid.UUID
    prompt: str
    layer: StoredLayer
    signals: dict[str, float | None]
    defect: str | None
    severity: float


def choose_sources(tx: Transaction, number: int, count: int) -> list[Sample]:
    """Samples at random that gold for a round can be made of: single ones, those of the round's own size first.

    Fewer than `count` are given again and again. Raises NotFound, and Refused for a round of pairs, or without samples.
    """
    row = find_round(tx, number)
    if row["kind"] != Kind.single or row["purpose"] != "drawn":
        raise Refused(f"round {number} is no round of drawn single layers", "gold is made for those alone")
    if not count:
        return []
    found = [Sample.read(one.line) for one in tx.execute(_SOURCES, {"round": number, "count": count})]
    if not found:
        raise Refused("there are no samples that gold could be made of", "import seeds or accept candidates first")
    return [found[place % len(found)] for place in range(count)]


def size_of(tx: Transaction, number: int) -> tuple[int, int] | None:
    """Width and height in pixels of most of a round's layers; None before any is drawn."""
    row = tx.execute(_SIZE, {"round": number}).first()
    return None if row is None else (row.width, row.height)


def make_gold(
    store: ObjectStore, sources: Sequence[Sample], size: tuple[int, int] | None, seed: int | None = None
) -> list[Planted]:
    """Plant defects in samples, as many of each, at severities drawn evenly; a share CLEAN of them stays as it is.

    Each is brought to `size`, so that no size tells it from what was drawn. Nothing is written but to the store.
    """
    rng = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    clean = round(CLEAN * len(sources))
    defects = [None] * clean + [list(DEFECTS)[place % len(DEFECTS)] for place in range(len(sources) - clean)]
    made = []
    for sample, defect in zip(sources, rng.permutation(np.array(defects, object)), strict=True):
        severity = 0.0 if defect is None else float(rng.uniform(FAINTEST, 1))
        rgba = fit_to(decode_layer(store.get(sample.layers[LayerRole.foreground])), size)
        if defect is not None:
            rgba = plant(rgba, defect, severity, rng)
        data = encode_layer(rgba)
        height, width = rgba.shape[:2]
        layer = StoredLayer(store.put(data), width, height, len(data), visible_hash(rgba))
        signals = measure_single(rgba, sample.caption)
        made.append(Planted(uuid.UUID(sample.id), sample.caption, layer, signals, defect, severity))
    return made


def keep_gold(tx: Transaction, number: int, planted: Sequence[Planted], actor: str) -> int:
    """Add gold to what may be hidden among a round's candidates; returns how many pieces the round has now."""
    count = sa.select(sa.func.count()).where(gold.c.round_id == number)
    if not planted:
        return int(tx.scalar(count))
    home = _gold_round(tx)
    record_layers(tx, [one.layer for one in planted])
    add_prompts(tx, [Prompt(one.prompt) for one in planted])
    for one in planted:
        seed = secrets.randbits(32)  # as candidates have them, and as little to be foreseen as they
        candidate = content_id("candidate", home, one.prompt, seed, secrets.token_hex(16))
        row = {
            "id": candidate, "round_id": home, "prompt_id": Prompt(one.prompt).id, "seed": seed,
            "state": CandidateState.waiting,
        }  # fmt: skip
        tx.execute(sa.insert(candidates), row)
        layer = {"candidate_id": candidate, "role": LayerRole.foreground, "sha256": one.layer.sha256}
        tx.execute(sa.insert(candidate_layers), layer)
        tx.execute(sa.insert(screenings), {"candidate_id": candidate, "signals": one.signals})
        known = {"candidate_id": candidate, "round_id": number, "sample_id": one.sample, "defect": one.defect,
                 "severity": one.severity}  # fmt: skip
        tx.execute(sa.insert(gold), known)
    tx.log(actor, "gold planted", f"round {number}", pieces=len(planted))
    return int(tx.scalar(count))


def fit_to(rgba: RGBA, size: tuple[int, int] | None) -> RGBA:
    """A layer on a canvas of (width, height) pixels: as large as fits, in the middle, resampled premultiplied."""
    height, width = rgba.shape[:2]
    if size is None or size == (width, height):
        return rgba
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    premultiplied = rgba.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    small = cv2.resize(premultiplied, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    small[..., :3] = np.divide(255 * small[..., :3], small[..., 3:], where=small[..., 3:] > 0, out=small[..., :3] * 0)
    canvas = np.zeros((size[1], size[0], 4), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    return canvas


def _gold_round(tx: Transaction) -> int:
    """The one round that all gold belongs to; made with the first piece."""
    tx.execute(sa.text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    number = tx.scalar(sa.select(rounds.c.id).where(rounds.c.purpose == GOLD))
    if number is None:
        row: dict[str, Any] = {"purpose": GOLD, "kind": Kind.single, "quota": 0, "policy": dict(SHOW_ALL)}
        adding = sa.insert(rounds).returning(rounds.c.id)
        number = tx.execute(adding, row | {"state": RoundState.open}).scalar_one()
    return int(number)


LOCK = 7_201_115  # any number, always the same: two who plant first must not make two rounds of gold

_SIZE = sa.text("""
    select l.width, l.height from candidates c
    join candidate_layers cl on cl.candidate_id = c.id join layers l on l.sha256 = cl.sha256
    where c.round_id = :round group by l.width, l.height order by count(*) desc, l.width limit 1""")

# A sample of this very round may have been accepted by whoever is shown it again, so those come last.
_SOURCES = sa.text(f"""
    with size as ({_SIZE.text})
    select s.line from samples s
    join sample_layers sl on sl.sample_id = s.id and sl.role = 'foreground'
    join layers l on l.sha256 = sl.sha256 left join size on size.width = l.width and size.height = l.height
    where s.withdrawn_at is null and s.kind = 'single'
    order by size.width is null, s.round = :round, random() limit :count""")
