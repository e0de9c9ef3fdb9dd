"""Planting: gold is made of accepted samples, with a defect planted in most and nothing changed in the others."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import sqlalchemy as sa

from curation.datasets.samples import StoredLayer, record_layers
from curation.db.engine import Transaction
from curation.db.tables import candidate_layers, candidates, gold, layers, rounds, screenings
from curation.domain import CandidateState, Kind, LayerRole, Prompt, RoundState, Sample, content_id
from curation.errors import Refused
from curation.images.codec import decode_layer, encode_layer, visible_hash
from curation.images.perceptual_hash import fingerprint
from curation.ports import RGBA, Layers, ObjectStore
from curation.rounds.lifecycle import GOLD, SHOW_ALL, add_prompts, find_round
from curation.screening.defects import DEFECTS, plant
from curation.screening.pairs.defects import PAIR_DEFECTS, plant_pair
from curation.screening.rules import measure_single, measure_whole

CLEAN: Final = 0.25
"""The share of gold without a defect: what tells a keen eye from a quick reject."""
FAINTEST: Final = 0.02
CHANGED_PIXELS: Final = 16
"""Pixels that are changed by one level of 255 in every piece: far below what anybody sees."""

Size = tuple[int, int] | None
"""Width and height in pixels; None leaves things as large as they are."""


@dataclass(frozen=True)
class Planted:
    """One piece of gold whose layers are in the object store; `defect` None and `severity` 0 for a clean copy."""

    sample: uuid.UUID
    kind: Kind
    prompt: Prompt
    layers: Mapping[LayerRole, StoredLayer]
    prints: Mapping[
        str, bytes
    ]  # sha256 of a layer: its fingerprint, as screening gives it to drawn ones
    signals: dict[str, float | None]
    defect: str | None
    severity: float


def choose_sources(tx: Transaction, number: int, count: int) -> list[Sample]:
    """Samples at random that gold for a round can be made of: of its kind, those of the round's own size first,
    then those with one of its prompts, which would tell gold by a text that no other candidate has.

    Fewer than `count` are given again and again. Raises NotFound, and Refused for a round of seeds, or without samples.
    """
    row = find_round(tx, number)
    if row["purpose"] != "drawn":
        raise Refused(
            f"round {number} is no round of drawn candidates", "gold is made for those alone"
        )
    if not count:
        return []
    query = {"round": number, "kind": row["kind"], "count": count}
    found = [Sample.read(one.line) for one in tx.execute(_SOURCES, query)]
    if not found:
        message = f"there are no {row['kind']} samples that gold could be made of"
        raise Refused(message, "import seeds or accept candidates first")
    return [found[place % len(found)] for place in range(count)]


def size_of(tx: Transaction, number: int) -> Size:
    """Width and height in pixels of most of a round's layers; None before any is drawn."""
    row = tx.execute(_SIZE, {"round": number}).first()
    return None if row is None else (row.width, row.height)


def make_gold(
    store: ObjectStore, sources: Sequence[Sample], size: Size, seed: int | None = None
) -> list[Planted]:
    """Plant defects in samples of one kind, as many of each, at severities drawn evenly; a share CLEAN has none.

    Each is brought to `size`, so that no size tells it from what was drawn. Nothing is written but to the store.
    """
    rng = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    clean = round(CLEAN * len(sources))
    names = list(PAIR_DEFECTS if sources and sources[0].kind is Kind.pair else DEFECTS)
    defects = [None] * clean + [names[place % len(names)] for place in range(len(sources) - clean)]
    made = []
    for sample, defect in zip(sources, rng.permutation(np.array(defects, object)), strict=True):
        severity = 0.0 if defect is None else float(rng.uniform(FAINTEST, 1))
        prompt = Prompt(
            sample.caption,
            sample.texts.get(LayerRole.foreground),
            sample.texts.get(LayerRole.background),
        )
        decoded = {
            role: np.asarray(decode_layer(store.get(sha))) for role, sha in sample.layers.items()
        }
        transform = _transform_pair if sample.kind is Kind.pair else _transform_single
        layers, signals = transform(decoded, prompt, size, defect, severity, rng)
        stored = {role: _put(store, rgba) for role, rgba in layers.items()}
        shown_role = LayerRole.blended if sample.kind is Kind.pair else next(iter(stored))
        fingerprints = {stored[shown_role].sha256: fingerprint(layers[shown_role])}
        made.append(
            Planted(
                uuid.UUID(sample.id), sample.kind, prompt, stored, fingerprints, signals, defect, severity
            )
        )
    return made


Transformed = tuple[Layers, dict[str, float | None]]


def _transform_single(
    layers: Layers,
    prompt: Prompt,
    size: Size,
    defect: str | None,
    severity: float,
    rng: np.random.Generator,
) -> Transformed:
    rgba = fit_to(layers[LayerRole.foreground], size)
    rgba = rgba if defect is None else plant(rgba, defect, severity, rng)
    rgba = _disguise(rgba, rng)
    return {LayerRole.foreground: rgba}, measure_single(rgba, prompt.text)


def _transform_pair(
    layers: Layers,
    prompt: Prompt,
    size: Size,
    defect: str | None,
    severity: float,
    rng: np.random.Generator,
) -> Transformed:
    """Clean copies are composed anew too: a blended image that is exact, as drawn ones are, must tell nothing."""
    fitted = {role: fill_to(rgba, size) for role, rgba in layers.items()}
    for role in (LayerRole.foreground, LayerRole.background):
        fitted[role] = _disguise(fitted[role], rng)
    transformed = plant_pair(fitted, defect or next(iter(PAIR_DEFECTS)), severity, rng)
    return transformed, measure_whole(transformed, prompt)


def _disguise(rgba: RGBA, rng: np.random.Generator) -> RGBA:
    """Return the same picture to the eye with pixels, and so bytes and an address, of its own.

    A copy of a sample must not be known by equality with it: some visible pixels are changed by
    one level. What is hidden under alpha 0 continues the nearest colours, as in drawn layers; in
    imported ones it is 0.
    """
    # Some visible pixels move by one level of 255, toward the middle so that none overflows.
    changed = rgba.copy()
    seen = np.flatnonzero(rgba[..., 3])
    chosen = rng.choice(seen, min(CHANGED_PIXELS, len(seen)), replace=False)
    flat = changed.reshape(-1, 4)
    flat[chosen, 1] = np.where(flat[chosen, 1] < 128, flat[chosen, 1] + 1, flat[chosen, 1] - 1)
    # Colour spreads over the hidden pixels from ever wider surroundings, weighted by alpha.
    hidden = rgba[..., 3] == 0
    if not seen.size or not hidden.any():
        return changed
    alpha = rgba[..., 3].astype(np.float32)
    colour = changed[..., :3].astype(np.float32) * alpha[..., None]
    width, missing = 3, hidden.copy()
    while missing.any():
        weight = cv2.blur(alpha, (width, width))
        spread = cv2.blur(colour, (width, width)) / np.maximum(weight, 1e-6)[..., None]
        found = missing & (weight > 1e-3)
        changed[..., :3][found] = np.clip(np.rint(spread[found]), 0, 255).astype(np.uint8)
        missing &= ~found
        width = 2 * width + 1
        if width > 2 * max(rgba.shape):
            break
    return changed


def _put(store: ObjectStore, rgba: RGBA) -> StoredLayer:
    data = encode_layer(rgba)
    height, width = rgba.shape[:2]
    return StoredLayer(store.put(data), width, height, len(data), visible_hash(rgba))


def keep_gold(tx: Transaction, number: int, planted: Sequence[Planted], actor: str) -> int:
    """Add gold to what may be hidden among a round's candidates; returns how many pieces the round has now."""
    count = sa.select(sa.func.count()).where(gold.c.round_id == number)
    if not planted:
        return int(tx.scalar(count))
    gold_round = _gold_round(tx, planted[0].kind)
    record_layers(tx, [layer for one in planted for layer in one.layers.values()])
    add_prompts(tx, [one.prompt for one in planted])
    for one in planted:
        seed = secrets.randbits(32)  # as candidates have them, and as little to be foreseen as they
        candidate = content_id("candidate", gold_round, one.prompt.text, seed, secrets.token_hex(16))
        row = {
            "id": candidate, "round_id": gold_round, "prompt_id": one.prompt.id, "seed": seed,
            "state": CandidateState.waiting,
        }  # fmt: skip
        tx.execute(sa.insert(candidates), row)
        drawn = [
            {"candidate_id": candidate, "role": role, "sha256": layer.sha256}
            for role, layer in one.layers.items()
        ]
        tx.execute(sa.insert(candidate_layers), drawn)
        tx.execute(sa.insert(screenings), {"candidate_id": candidate, "signals": one.signals})
        known = {"candidate_id": candidate, "round_id": number, "sample_id": one.sample, "defect": one.defect,
                 "severity": one.severity}  # fmt: skip
        tx.execute(sa.insert(gold), known)
        # Not in the index of duplicates: no drawn candidate shall be refused for being like gold.
        for sha256, mark in one.prints.items():
            unmarked = (layers.c.sha256 == sha256) & layers.c.fingerprint.is_(None)
            tx.execute(sa.update(layers).where(unmarked).values(fingerprint=mark))
    tx.log(actor, "gold planted", f"round {number}", pieces=len(planted))
    return int(tx.scalar(count))


def fit_to(rgba: RGBA, size: Size) -> RGBA:
    """A layer on a canvas of (width, height) pixels: as large as fits, in the middle, resampled premultiplied."""
    height, width = rgba.shape[:2]
    if size is None or size == (width, height):
        return rgba
    scale = min(size[0] / width, size[1] / height)
    small = _resample(rgba, scale)
    canvas = np.zeros((size[1], size[0], 4), np.uint8)
    left, top = (size[0] - small.shape[1]) // 2, (size[1] - small.shape[0]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def fill_to(rgba: RGBA, size: Size) -> RGBA:
    """A layer of a pair that fills (width, height) pixels, cut in the middle: a background has no empty margin."""
    height, width = rgba.shape[:2]
    if size is None or size == (width, height):
        return rgba
    large = _resample(rgba, max(size[0] / width, size[1] / height))
    left, top = (large.shape[1] - size[0]) // 2, (large.shape[0] - size[1]) // 2
    return large[top : top + size[1], left : left + size[0]]


def _resample(rgba: RGBA, scale: float) -> RGBA:
    height, width = rgba.shape[:2]
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    premultiplied = rgba.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    small = cv2.resize(
        premultiplied, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    small[..., :3] = np.divide(
        255 * small[..., :3], small[..., 3:], where=small[..., 3:] > 0, out=small[..., :3] * 0
    )
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def _gold_round(tx: Transaction, kind: Kind) -> int:
    """The one round that all gold of a kind belongs to; made with the first piece."""
    tx.execute(sa.text("select pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    number = tx.scalar(
        sa.select(rounds.c.id).where(rounds.c.purpose == GOLD, rounds.c.kind == kind)
    )
    if number is None:
        row: dict[str, Any] = {"purpose": GOLD, "kind": kind, "quota": 0, "policy": dict(SHOW_ALL)}
        adding = sa.insert(rounds).returning(rounds.c.id)
        number = tx.execute(adding, row | {"state": RoundState.open}).scalar_one()
    return int(number)


LOCK = (
    7_201_115  # any number, always the same: two who plant first must not make two rounds of gold
)

_SIZE = sa.text("""
    select l.width, l.height from candidates c
    join candidate_layers cl on cl.candidate_id = c.id join layers l on l.sha256 = cl.sha256
    where c.round_id = :round group by l.width, l.height order by count(*) desc, l.width limit 1""")

# A sample of this very round may have been accepted by whoever is shown it again, so those come last; and last of all
# what has a file's name for a prompt, which would tell gold from what was drawn.
_SOURCES = sa.text(f"""
    with size as ({_SIZE.text})
    select s.line from samples s
    join sample_layers sl on sl.sample_id = s.id and sl.role = 'foreground'
    join layers l on l.sha256 = sl.sha256 left join size on size.width = l.width and size.height = l.height
    where s.withdrawn_at is null and s.kind = :kind
    order by s.caption_source = 'file name', size.width is null, s.round = :round, not exists (
        select from prompts p join candidates c on c.prompt_id = p.id
        where c.round_id = :round and p.text = s.line::jsonb ->> 'caption'), random() limit :count""")
