"""Snapshots in a store without a database: drawn layers, frozen as an instance would freeze them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from curation.datasets.decision_records import (
    CountedReason,
    DecidedCandidates,
    DecisionRecord,
    write_decisions,
)
from curation.datasets.manifest import Manifest, Part, prefix_length
from curation.datasets.samples import NewSample, StoredLayer
from curation.db.engine import Transaction
from curation.domain import Kind, LayerRole, RejectReason, Sample, Split, Verdict, content_id
from curation.images.codec import encode_layer, pixel_hash
from curation.ports import ObjectStore


def make_sample(store: ObjectStore, index: int, caption: str = "") -> Sample:
    """Return a sample of noise: every third is a pair, every seventh is held out."""
    rng = np.random.default_rng(index)
    is_pair = index % 3 == 0
    roles = tuple(LayerRole) if is_pair else (LayerRole.foreground,)
    layers = {role: _layer(store, rng, opaque=role is not LayerRole.foreground) for role in roles}
    return NewSample(
        kind=Kind.pair if is_pair else Kind.single,
        caption=caption or f"caption {index}, ünï \u2028 “x”",
        licence=("MIT", "CC0-1.0")[index % 2],
        source="drawn",
        round=index % 4,
        layers=layers,
        split=Split.train if index % 7 else Split.heldout,
        texts={LayerRole.foreground: f"foreground {index}"} if is_pair else {},
    ).to_sample()


def make_decision(
    store: ObjectStore, index: int, *, prompt: str = "", accept: bool | None = None, **fields: Any
) -> DecisionRecord:
    """Return a decided candidate of noise: every third is accepted, every fourth is a pair."""
    rng = np.random.default_rng([7, index])
    is_pair = index % 4 == 0
    roles = tuple(LayerRole) if is_pair else (LayerRole.foreground,)
    layers = {role: _layer(store, rng, opaque=role is not LayerRole.foreground) for role in roles}
    accepted = index % 3 == 0 if accept is None else accept
    layer = LayerRole.foreground if is_pair else None
    automatic = index % 10 == 9
    made = DecisionRecord(
        candidate=content_id("candidate", index).hex,
        kind=Kind.pair if is_pair else Kind.single,
        prompt=prompt or f"prompt {index % 5 % 3}{' of a pair' if is_pair else ''}",
        round=1 + index % 2,
        seed=index * 977,
        checkpoint=hashlib.sha256(b"checkpoint").hexdigest(),
        layers={role: layer.sha256 for role, layer in layers.items()},
        verdict=Verdict.accept if accepted else Verdict.reject,
        automatic=automatic,
        accepts=int(accepted),
        rejects=int(not accepted),
        posterior=None if automatic else 0.9 if accepted else 0.2,
        propensity=None if automatic else 0.25 + index % 4 / 4,
        reasons=() if accepted else (CountedReason(RejectReason.halo, layer, 1 + index % 2),),
        generation={"noise": "4x8x8", "steps": "25"},
    )
    return replace(made, **fields)


def make_snapshot(
    store: ObjectStore,
    samples: list[Sample],
    withheld: list[str] | None = None,
    decisions: list[DecisionRecord] | None = None,
) -> str:
    """Write a snapshot of samples into a store; return its ID."""
    digits = prefix_length(len(samples))
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.id):
        groups.setdefault(sample.id[:digits], []).append(sample)
    parts = tuple(
        Part(prefix, store.put("".join(f"{s.line()}\n" for s in group).encode()), len(group))
        for prefix, group in groups.items()
    )
    counts = {
        name: dict(Counter(str(getattr(sample, name)) for sample in samples))
        for name in ("kind", "licence", "split", "round")
    }
    listed = store.put("".join(f"{id_}\n" for id_ in withheld).encode()) if withheld else ""
    decided = sorted(decisions or [], key=lambda one: one.candidate)
    index = write_decisions(store, DecidedCandidates({"0" * 64: len(decided)}, iter(decided)))
    manifest = Manifest(parts, counts, listed, index)
    store.put(manifest.bytes())
    return manifest.id


def _layer(store: ObjectStore, rng: np.random.Generator, *, opaque: bool) -> StoredLayer:
    rgba = rng.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    rgba[..., 3] = 255 if opaque else rgba[..., 3]
    if not opaque:
        rgba[:6, :, 3] = 0  # hidden colors
    data = encode_layer(rgba)
    return StoredLayer(store.put(data), 24, 20, len(data), pixel_hash(rgba))


def assume_whole(tx: Transaction) -> None:
    """Mark samples whose layers are only named as checked, with fingerprints that are not alike."""
    tx.execute(sa.text("update samples set checked_at = now() where checked_at is null"))
    tx.execute(
        sa.text("""update layers set fingerprint = decode(left(repeat(md5(sha256), 18), 560), 'hex')
        where fingerprint is null""")
    )
