"""A checkpoint's parts, opened: the networks that its files hold, ready to draw, to be measured or to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from curation.domain import Checkpoint
from curation.errors import Refused
from curation.ports import ObjectStore
from training.backbone import Backbone, open_backbone
from training.preset import Preset
from training.presets import find_preset
from training.transparency import Transparency
from training.weights import load_part


@dataclass(frozen=True)
class Parts:
    """What a checkpoint holds; `base` are the denoiser's learnt tensors and their file's facts, where it has one."""

    preset: Preset
    backbone: Backbone
    transparency: Transparency
    base: tuple[dict[str, Tensor], dict[str, str]] | None


def open_parts(checkpoint: Checkpoint, store: ObjectStore) -> Parts:
    """The networks of a checkpoint, frozen. Raises NotFound, Corrupt, Refused."""
    preset = find_preset(checkpoint.preset, checkpoint.changes)
    backbone = open_backbone(*load_part(store, _file(checkpoint, "backbone")))
    transparency = open_transparency(preset, *load_part(store, _file(checkpoint, "transparency")))
    base = load_part(store, checkpoint.files["base"]) if "base" in checkpoint.files else None
    return Parts(preset, backbone, transparency, base)


def open_transparency(
    preset: Preset, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None
) -> Transparency:
    """The two networks of latent transparency from their tensors, frozen. Raises Refused where sizes differ.

    Offsets are scaled as the file's facts say, and where they say nothing as the preset does.
    """
    networks = Transparency(preset)
    try:
        networks.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise Refused(
            f"the stored weights do not fit preset {preset.name!r}: {str(error)[:200]}",
            "a preset's sizes changed since they were trained; begin again without a parent",
        ) from error
    networks.encoder.offset_scale = float((facts or {}).get("offset_scale", preset.offset_scale))
    return networks.eval().requires_grad_(False)


def _file(checkpoint: Checkpoint, part: str) -> str:
    try:
        return checkpoint.files[part]
    except KeyError:
        raise Refused(
            f"checkpoint {checkpoint.id[:12]} has no part {part!r}", "train it with the recipe 'whole'"
        ) from None
