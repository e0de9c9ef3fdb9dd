"""A snapshot of shapes with decided candidates, some of them by nobody, and the parts to train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from curation.datasets.decision_records import (
    CountedReason,
    DecidedCandidates,
    DecisionRecord,
    write_decisions,
)
from curation.datasets.manifest import Manifest, read_manifest
from curation.domain import Kind, LayerRole, RejectReason, Split, Verdict
from curation.images.codec import encode_layer
from curation.object_store import FolderStore
from tests.support.composite_pairs import freeze_pairs
from tests.training.conftest import draw_shape, freeze
from training.data.splits import open_split
from training.presets.presets import PRESETS
from training.transparency.autoencoder import Autoencoder, fit_autoencoder
from training.transparency.networks import Transparency
from training.transparency.padding import over_gray


def make_record(number: int, **changes: object) -> DecisionRecord:
    """Return a decided candidate: every third one accepted, the others missed their prompt."""
    accepted = number % 3 == 0
    values: dict[str, object] = {
        "candidate": f"{number:032x}",
        "kind": Kind.single,
        "prompt": draw_shape(number)[1],
        "round": 1,
        "seed": number,
        "checkpoint": "ab" * 32,
        "layers": {},
        "verdict": Verdict.accept if accepted else Verdict.reject,
        "automatic": False,
        "accepts": int(accepted),
        "rejects": int(not accepted),
        "posterior": 0.9 if accepted else 0.1,
        "propensity": 1.0,
        "reasons": () if accepted else (CountedReason(RejectReason.prompt_miss, None, 1),),
        "generation": {"noise": "16x4x4", "noise_dtype": "float32"},
    }
    return DecisionRecord(**(values | changes))  # type: ignore[arg-type]


def freeze_decided(
    store: FolderStore, records: Sequence[DecisionRecord], samples: str | None = None
) -> str:
    """Store the samples of a snapshot, or shapes, with decided candidates; return its ID."""
    stored = []
    for number, record in enumerate(records):
        layer = store.put(encode_layer(draw_shape(1_000 + number)[0]))
        layers = dict.fromkeys((LayerRole.foreground, LayerRole.background), layer)
        chosen = layers if record.kind is Kind.pair else {LayerRole.foreground: layer}
        stored.append(DecisionRecord(**{**record.__dict__, "layers": chosen}))
    counts = Counter(record.checkpoint for record in stored)
    index = write_decisions(store, DecidedCandidates(counts, iter(stored)))
    manifest = read_manifest(store, samples or freeze(store, range(30)))
    return store.put(Manifest(manifest.parts, {}, decisions=index).bytes())


@pytest.fixture
def freeze_records(store: FolderStore) -> Callable[[Sequence[DecisionRecord]], str]:
    return lambda records: freeze_decided(store, records)


@pytest.fixture
def decided(store: FolderStore) -> str:
    """Return a snapshot with 24 decided candidates."""
    return freeze_decided(store, [make_record(number) for number in range(24)])


@pytest.fixture
def decided_pairs(store: FolderStore) -> str:
    """Return a snapshot of 12 pairs with 12 decided ones."""
    records = [
        make_record(
            number, kind=Kind.pair, prompt=f"scene {number % 2}", generation={"noise": "2x16x4x4"}
        )
        for number in range(12)
    ]
    return freeze_decided(store, records, freeze_pairs(store, range(12), side=32))


@pytest.fixture
def networks(store: FolderStore, snapshot: str) -> tuple[Autoencoder, Transparency]:
    """Return a fitted autoencoder, and transparency networks whose offsets are not zero."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    preset = PRESETS["micro"]
    images = open_split(store, snapshot, Split.train, preset.image_size)
    rgba = images.load_batch(range(len(images)))
    transparency = Transparency(preset).eval().requires_grad_(False)
    torch.nn.init.normal_(transparency.encoder.blocks[-1].weight, std=0.1)
    return fit_autoencoder(preset, over_gray(rgba[:, :3], rgba[:, 3:])), transparency
