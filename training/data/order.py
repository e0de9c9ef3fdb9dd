"""The hash of the definition of a training order: equal hashes mean equal batches of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from curation.domain import RejectReason, Split, TrainingRequest, canonical_json
from training.presets.preset import Preset

VERSION = 1
"""Number of the samplers' code; raised when the same definition would give another sequence."""


def order_hash(stage: str, request: TrainingRequest, preset: Preset) -> str:
    """Return the sha256 of what determines the order of samples in a training stage.

    Args:
        stage: transparency, base, layers, or one that learns from decisions.
        request: The training request: snapshot, previous snapshot, seed.
        preset: The preset: layers, weights, batch size, and buckets.

    Raises:
        ValueError: The stage has no order of samples.
    """
    definition: dict[str, object] = {
        "version": VERSION,
        "part": stage,
        "snapshot": request.snapshot,
        "split": str(Split.train),
        "seed": request.seed,
        "previous": request.previous,
        "new_sample_weight": preset.new_sample_weight if request.previous else 1.0,
        "real_share": preset.real_share,
        "image_size": preset.image_size,
        "buckets": [preset.bucket_step, preset.bucket_ratio] if preset.buckets else None,
    }
    match stage:
        case "transparency":
            opaque, batch = preset.transparency_opaque, preset.transparency_batch
        case "base":
            opaque, batch = preset.base_opaque, preset.base_batch
            if preset.reject_emphasis and request.parent:
                definition |= {
                    "reject_emphasis": preset.reject_emphasis,
                    "parent": request.parent.id,
                    **_decisions(preset, preset.base_reasons),
                }
        case "layers":
            definition |= {
                "roles": [str(role) for role in preset.layer_roles],
                "foreground_only_prob": preset.foreground_only_prob,
                "batch": _global_batch(preset, preset.layers_batch),
            }
            return _hash(definition)
        case "kto" | "dpo":
            opaque, batch = preset.base_opaque, preset.preference_batch
            definition |= _decisions(preset, preset.base_reasons)
        case "layers-kto" | "layers-dpo":
            definition |= {
                "roles": [str(role) for role in preset.layer_roles],
                "batch": _global_batch(preset, preset.preference_batch) if preset.buckets else None,
            }
            return _hash(definition | _decisions(preset, preset.layers_reasons))
        case _:
            raise ValueError(f"stage {stage!r} has no order of samples")
    definition |= {
        "roles": sorted(map(str, preset.trained_roles(opaque))),
        "opaque_weight": opaque,
        # Without buckets the order does not depend on the batch size.
        "batch": _global_batch(preset, batch) if preset.buckets else None,
    }
    return _hash(definition)


def _decisions(preset: Preset, reasons: Collection[RejectReason]) -> dict[str, object]:
    """Return what determines which decided candidates are drawn."""
    return {
        "real_share": preset.real_share,
        "desirable_share": preset.desirable_share,
        "propensity_clip": preset.propensity_clip,
        "automatic_decisions": preset.automatic_decisions,
        "reasons": sorted(map(str, reasons)),
    }


def _global_batch(preset: Preset, batch: int) -> int:
    """Return the images of a step, over all processes."""
    return batch * preset.accumulation * preset.processes


def _hash(definition: dict[str, object]) -> str:
    return hashlib.sha256(canonical_json(definition).encode()).hexdigest()
