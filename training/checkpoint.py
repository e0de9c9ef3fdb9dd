"""A loaded checkpoint: its networks, ready to generate, evaluate or continue training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from curation.domain import Checkpoint
from curation.errors import Refused
from curation.ports import ObjectStore
from training.presets.preset import Preset
from training.presets.presets import find_stored_preset
from training.safetensors_io import load_part
from training.transparency.autoencoder import Autoencoder, open_autoencoder
from training.transparency.networks import Transparency, open_transparency


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint's networks and tensors.

    `base` is the denoiser's fine-tuned tensors and their file's metadata, or None. `layers` is the
    same for the adapters that generate the layers of an image together. `modes` maps the modes of
    released layer weights (training.interop.modes) to the sha256 of their files, which are large
    and opened on first use.
    """

    preset: Preset
    autoencoder: Autoencoder
    transparency: Transparency
    base: tuple[dict[str, Tensor], dict[str, str]] | None
    layers: tuple[dict[str, Tensor], dict[str, str]] | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    loras: Sequence[tuple[dict[str, Tensor], dict[str, str]]] = ()  # user LoRAs, in order


def load_checkpoint(checkpoint: Checkpoint, store: ObjectStore) -> LoadedCheckpoint:
    """Load the networks of a checkpoint, frozen.

    Args:
        checkpoint: The checkpoint; it must have the parts "backbone" and "transparency".
        store: The store that holds its files.

    Raises:
        NotFound: A file or the preset does not exist.
        Corrupt: A file's content does not match its sha256.
        Refused: A part is missing or does not fit the preset.
    """
    preset = find_stored_preset(checkpoint.preset, checkpoint.changes)
    autoencoder = open_autoencoder(*load_part(store, _file(checkpoint, "backbone")))
    transparency = open_transparency(preset, *load_part(store, _file(checkpoint, "transparency")))
    # These two parts are optional: a checkpoint may have latent transparency alone.
    base, layers = (
        load_part(store, checkpoint.files[part]) if part in checkpoint.files else None
        for part in ("base", "layers")
    )
    # Any other part is a user LoRA ("style-N") or the weights of a layer mode.
    others = {part: file for part, file in checkpoint.files.items() if part not in _PARTS}
    modes = {part: file for part, file in others.items() if not part.startswith(LORA_PREFIX)}
    style_parts = sorted(
        others.keys() - modes.keys(), key=lambda part: int(part.removeprefix(LORA_PREFIX))
    )
    styles = [load_part(store, others[part]) for part in style_parts]
    return LoadedCheckpoint(preset, autoencoder, transparency, base, layers, modes, styles)


LORA_PREFIX = "style-"
"""Prefix of the parts that are user LoRAs; a number follows."""

_PARTS = ("backbone", "transparency", "base", "layers")


def _file(checkpoint: Checkpoint, part: str) -> str:
    try:
        return checkpoint.files[part]
    except KeyError:
        raise Refused(
            f"checkpoint {checkpoint.id[:12]} has no part {part!r}",
            "train it with the recipe 'whole'",
        ) from None
