"""Import of the two networks of latent transparency, encoder and decoder, from released files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from curation.errors import Refused
from training.external_weights import WeightsHeader, read_header, read_tensors
from training.interop.formats import WeightFormat, recognize_parts
from training.presets.preset import Preset
from training.presets.presets import SDXL
from training.safetensors_io import layerloop_metadata
from training.transparency.networks import Transparency

ASSUMED_SCALE = 1.0
"""The offset scale assumed for an encoder file that does not state it.

It is correct for layerdiffusion-v1, whose offset Forge applies unscaled. The encoder of
LayerDiffuse_Diffusers has the same names and shapes and needs 300 (its code, `alpha=300.0`). The
content cannot distinguish the two, not even the magnitude of the last layer, since AdamW's steps
are of equal size for any scale. Files written by Layerloop state their scale.
"""

FLUX_SCALE = 300.0
"""The offset scale of the Flux port of LayerDiffuse (its TransparentVAE, `alpha=300.0`), the only
released encoder whose offset has 16 channels."""

ALPHA_LAST_CHANNELS = 16
"""Latent channels of the Flux port (RedAIGC), whose networks have alpha last; all others have it
first."""

_ALPHA_FIRST, _ALPHA_LAST = [3, 0, 1, 2], [1, 2, 3, 0]


@dataclass(frozen=True)
class TransparencyWeights:
    """Both networks' tensors in our names and channel order, and the offset scale.

    The tensors keep the files' dtypes.
    """

    tensors: dict[str, Tensor]
    offset_scale: float
    # "given", "file", "flux", "assumed", or "preset" if there is no encoder
    scale_from: str


def read_transparency(
    files: Sequence[Path], preset: Preset = SDXL, offset_scale: float | None = None
) -> tuple[Transparency, float]:
    """Load the networks of latent transparency from released files, frozen.

    Args:
        files: A decoder, and an encoder if images are to be encoded (without one the offset is 0),
            in any order; recognized by content.
        preset: The preset whose networks the files have.
        offset_scale: The factor of the offset (the paper's lambda_offset); by default as stated in
            the encoder's file, or ASSUMED_SCALE.

    Returns:
        The networks and their offset scale.

    Raises:
        NotFound: A file does not exist.
        Refused: A file is not supported or does not fit the preset, or the decoder is missing.
    """
    read = read_networks(recognize_all(files), preset, offset_scale)
    networks = Transparency(preset)
    networks.load_state_dict(read.tensors)
    networks.encoder.offset_scale = read.offset_scale
    return networks.eval().requires_grad_(False), read.offset_scale


def recognize_all(files: Sequence[Path]) -> dict[WeightFormat, WeightsHeader]:
    """Recognize files that must all be different.

    Raises:
        NotFound: A file does not exist.
        Refused: A file is not supported, or two are of one kind.
    """
    found: dict[WeightFormat, WeightsHeader] = {}
    for layout, header in recognize_each(files):
        if layout in found:
            raise Refused(
                f"{found[layout].path} and {header.path} are both: {layout}", "give one of them"
            )
        found[layout] = header
    return found


def recognize_each(files: Sequence[Path]) -> list[tuple[WeightFormat, WeightsHeader]]:
    """Recognize each file, in order.

    Shards of one file count once; a file with both networks counts as two.

    Raises:
        NotFound: A file does not exist.
        Refused: A file is not supported.
    """
    found, seen = [], set()
    for header in map(read_header, files):
        # A sharded file may be given by several of its shards.
        if header.files not in seen or len(header.files) == 1:
            found += recognize_parts(header)
        seen.add(header.files)
    return found


def read_networks(
    headers: Mapping[WeightFormat, WeightsHeader], preset: Preset, offset_scale: float | None = None
) -> TransparencyWeights:
    """Read both networks as tensors.

    Args:
        headers: The files by format.
        preset: The preset whose networks the files have.
        offset_scale: The factor of the offset (the paper's lambda_offset); by default as stated in
            the encoder's file, or ASSUMED_SCALE.

    Raises:
        Refused: The decoder is missing, or shapes differ from the preset's.
    """
    if WeightFormat.decoder not in headers:
        raise Refused(
            "none of the files is an alpha decoder, which transparency needs",
            "give vae_transparent_decoder.safetensors, or the decoder of your own training",
        )
    if WeightFormat.encoder not in headers:
        # Without an encoder, decode and generate only: add an encoder whose offset is 0.
        tensors = _prefixed("encoder", _zero_encoder(preset))
        tensors |= _prefixed("decoder", _read(headers[WeightFormat.decoder], preset, "decoder"))
        given = offset_scale is not None
        return TransparencyWeights(
            tensors,
            _positive(offset_scale) if given else preset.offset_scale,
            "given" if given else "preset",
        )
    tensors = {}
    for layout in (WeightFormat.encoder, WeightFormat.decoder):
        tensors |= _prefixed(layout.name, _read(headers[layout], preset, layout.name))
    return TransparencyWeights(tensors, *_scale(headers[WeightFormat.encoder], offset_scale))


def _scale(encoder: WeightsHeader, given: float | None) -> tuple[float, str]:
    """Return an encoder's offset scale and its source. Raises Refused if it is not positive."""
    stated = layerloop_metadata(encoder.metadata).get("offset_scale")
    # The caller's value first, then the file's own statement, then the content.
    if given is not None:
        return _positive(given), "given"
    if stated is not None:
        return _positive(stated, f"{encoder.path}: "), "file"
    if _made_for_flux(encoder):
        return FLUX_SCALE, "flux"
    return ASSUMED_SCALE, "assumed"


def _made_for_flux(encoder: WeightsHeader) -> bool:
    last = max(
        (int(name.split(".")[1]), name) for name in encoder.shapes if name.endswith(".weight")
    )[1]
    return encoder.shapes[last][0] == ALPHA_LAST_CHANNELS


def _positive(scale: object, prefix: str = "") -> float:
    try:
        value = float(str(scale))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        hint = "give a positive number, such as 1, 100 or 300"
        raise Refused(f"{prefix}invalid offset scale {scale}", hint)
    return value


def _read(header: WeightsHeader, preset: Preset, network: str) -> dict[str, Tensor]:
    """Read one network in our names and channel order. Raises Refused if it does not fit."""
    with torch.device("meta"):
        expected_shapes = {
            name: value.shape
            for name, value in getattr(Transparency(preset), network).state_dict().items()
        }
    _check_names(header, expected_shapes, network, preset)
    for name in sorted(expected_shapes):
        expected, found = expected_shapes[name], header.shapes[name]
        if expected != found:
            mismatch = f"{name} is {_size(found)} in the file and {_size(expected)} in the preset"
            hint = "choose the preset of its model, or override sizes: --set latent_channels=16"
            raise Refused(f"{header.path} does not fit preset {preset.name!r}: {mismatch}", hint)
    tensors = read_tensors(header, sorted(expected_shapes))
    return tensors if _alpha_is_first(header, preset) else _reorder(tensors, _ALPHA_FIRST)


def _check_names(
    header: WeightsHeader, expected: Mapping[str, object], network: str, preset: Preset
) -> None:
    """Check that a file has exactly the network's tensors. Raises Refused."""
    # Few missing names and no unknown ones mean a truncated file of the right network.
    missing, unknown = (
        sorted(expected.keys() - header.shapes.keys()),
        sorted(header.shapes.keys() - expected.keys()),
    )
    if missing and len(missing) < len(expected) / 2 and not unknown:
        problem = f"{len(missing)} of {len(expected)} tensors are missing, such as {missing[0]}"
        raise Refused(
            f"{header.path} is an incomplete {WeightFormat[network]}: {problem}",
            "download it, or all its shards, again",
        )
    # Any other difference means another architecture.
    if missing or unknown:
        problem = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
        hint = "set decoder_layers, networks and other columns to those it was trained with"
        raise Refused(
            f"{header.path} has other layers than preset {preset.name!r}: {problem}",
            hint,
        )


def _alpha_is_first(header: WeightsHeader, preset: Preset) -> bool:
    """Return whether alpha is a file's first channel: as stated, or by its latent channels."""
    stated = layerloop_metadata(header.metadata).get("channels")
    return stated == "alpha first" if stated else preset.latent_channels != ALPHA_LAST_CHANNELS


def alpha_last(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a network of ours to one with alpha as the last channel."""
    return _reorder(tensors, _ALPHA_LAST)


def _reorder(tensors: Mapping[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """Reorder the four pixel channels of a network's first and last convolutions."""
    return {
        name: value[:, order] if name == "blocks.0.weight"
        else value[order] if name in {"conv_out.weight", "conv_out.bias"}
        else value
        for name, value in tensors.items()
    }  # fmt: skip


def _zero_encoder(preset: Preset) -> dict[str, Tensor]:
    """Return a new encoder, whose offset is 0 everywhere; deterministic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(Transparency(preset).encoder.state_dict())


def _prefixed(network: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{network}.{name}": value for name, value in tensors.items()}


def _size(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "absent"
