"""A loaded checkpoint: its networks, ready to generate, evaluate or continue training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from curation.domain import Checkpoint
from curation.errors import Refused
from curation.ports import ObjectStore
from training.presets.preset import Preset
from training.presets.presets import find_preset
from training.safetensors_io import load_part
from training.transparency.autoencoder import Autoencoder, open_backbone
from training.transparency.networks import Transparency, open_transparency


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds; `base` are the denoiser's learnt tensors and their file's facts, where it has one.

    `layers` are those of the adapters with which it draws the layers of a picture together. `modes` are released
    weights that draw layers to each other, by their mode (training.interop.modes): the sha256 of their files, which
    are large and opened when they are needed.
    """

    preset: Preset
    backbone: Autoencoder
    transparency: Transparency
    base: tuple[dict[str, Tensor], dict[str, str]] | None
    layers: tuple[dict[str, Tensor], dict[str, str]] | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    styles: Sequence[tuple[dict[str, Tensor], dict[str, str]]] = ()  # the user's LoRAs, in order


def open_parts(checkpoint: Checkpoint, store: ObjectStore) -> LoadedCheckpoint:
    """The networks of a checkpoint, frozen. Raises NotFound, Corrupt, Refused."""
    preset = find_preset(checkpoint.preset, checkpoint.changes)
    backbone = open_backbone(*load_part(store, _file(checkpoint, "backbone")))
    transparency = open_transparency(preset, *load_part(store, _file(checkpoint, "transparency")))
    base, layers = (
        load_part(store, checkpoint.files[part]) if part in checkpoint.files else None
        for part in ("base", "layers")
    )
    more = {part: file for part, file in checkpoint.files.items() if part not in _PARTS}
    modes = {part: file for part, file in more.items() if not part.startswith(STYLE)}
    named = sorted(more.keys() - modes.keys(), key=lambda part: int(part.removeprefix(STYLE)))
    styles = [load_part(store, more[part]) for part in named]
    return LoadedCheckpoint(preset, backbone, transparency, base, layers, modes, styles)


STYLE = "style-"
"""How the parts of a checkpoint begin that are the user's own LoRAs; a number follows."""

_PARTS = ("backbone", "transparency", "base", "layers")


def _file(checkpoint: Checkpoint, part: str) -> str:
    try:
        return checkpoint.files[part]
    except KeyError:
        raise Refused(
            f"checkpoint {checkpoint.id[:12]} has no part {part!r}",
            "train it with the recipe 'whole'",
        ) from None
