"""The two networks of latent transparency from released files: an encoder's and a decoder's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from curation.errors import Refused
from training.external_weights import Header, read_header, read_tensors
from training.interop.formats import WeightFormat, recognise_parts
from training.presets.preset import Preset
from training.presets.presets import SDXL
from training.safetensors_io import facts_in
from training.transparency.networks import Transparency

ASSUMED_SCALE = 1.0
"""The offset scale of an encoder file that says none: right for layerdiffusion-v1, which Forge multiplies by nothing.

LayerDiffuse_Diffusers' encoder has the same names and shapes and wants 300 (its code, `alpha=300.0`), and nothing in a
file tells the two apart: the size of the last layer does not, since AdamW takes steps of equal size whatever the
scale. Files written by Layerloop say theirs; of any other it has to be known where it came from.
"""

FLUX_SCALE = 300.0
"""The offset scale of the Flux port of LayerDiffuse (its TransparentVAE, `alpha=300.0`); its encoder alone of those
that were released makes offsets of 16 channels."""

ALPHA_LAST_CHANNELS = 16
"""The Flux port (RedAIGC) feeds and returns RGBA, alpha last, over latents of 16 channels; all others alpha first."""

_ALPHA_FIRST, _ALPHA_LAST = [3, 0, 1, 2], [1, 2, 3, 0]


@dataclass(frozen=True)
class Networks:
    """Both networks' tensors in our names and channel order, in the files' types, and how an offset is scaled."""

    tensors: dict[str, Tensor]
    offset_scale: float
    scale_from: (
        str  # "given", "file", "flux", "assumed", or "preset" where there is no encoder to scale
    )


def read_transparency(
    files: Sequence[Path], preset: Preset = SDXL, offset_scale: float | None = None
) -> tuple[Transparency, float]:
    """The networks of latent transparency from released files, frozen, and their offset scale (lambda_offset).

    files: a decoder, and an encoder where pictures are to be encoded (without one the offset is 0), in any order; they
    are recognised by their content. `offset_scale`: by default what the encoder's file says, or ASSUMED_SCALE.
    Raises NotFound, Refused.
    """
    read = read_networks(recognise_all(files), preset, offset_scale)
    networks = Transparency(preset)
    networks.load_state_dict(read.tensors)
    networks.encoder.offset_scale = read.offset_scale
    return networks.eval().requires_grad_(False), read.offset_scale


def recognise_all(files: Sequence[Path]) -> dict[WeightFormat, Header]:
    """Files by what they are. Raises NotFound; Refused for a stranger, or for two of one kind."""
    found: dict[WeightFormat, Header] = {}
    for layout, header in recognise_each(files):
        if layout in found:
            raise Refused(
                f"{found[layout].path} and {header.path} are both: {layout}", "give one of them"
            )
        found[layout] = header
    return found


def recognise_each(files: Sequence[Path]) -> list[tuple[WeightFormat, Header]]:
    """What each file is, in order; parts of one file count once, a file of both networks is two.

    Raises NotFound; Refused for a stranger.
    """
    found, seen = [], set()
    for header in map(read_header, files):
        if header.files not in seen or len(header.files) == 1:
            found += recognise_parts(header)
        seen.add(header.files)
    return found


def read_networks(
    headers: Mapping[WeightFormat, Header], preset: Preset, offset_scale: float | None = None
) -> Networks:
    """The same as tensors. Raises Refused where there is no decoder, or where sizes are not the preset's."""
    if WeightFormat.decoder not in headers:
        raise Refused(
            "no file given is an alpha decoder, and without one nothing is transparent",
            "give vae_transparent_decoder.safetensors, or the decoder of a training of your own",
        )
    if WeightFormat.encoder not in headers:
        tensors = _prefixed("encoder", _silent_encoder(preset))
        tensors |= _prefixed("decoder", _read(headers[WeightFormat.decoder], preset, "decoder"))
        given = offset_scale is not None
        return Networks(
            tensors,
            _positive(offset_scale) if given else preset.offset_scale,
            "given" if given else "preset",
        )
    tensors = {}
    for layout in (WeightFormat.encoder, WeightFormat.decoder):
        tensors |= _prefixed(layout.name, _read(headers[layout], preset, layout.name))
    return Networks(tensors, *_scale(headers[WeightFormat.encoder], offset_scale))


def _scale(encoder: Header, given: float | None) -> tuple[float, str]:
    """An encoder's offset scale and where it comes from. Raises Refused for one that is no positive number."""
    told = facts_in(encoder.metadata).get("offset_scale")
    if given is not None:
        return _positive(given), "given"
    if told is not None:
        return _positive(told, f"{encoder.path}: "), "file"
    if _made_for_flux(encoder):
        return FLUX_SCALE, "flux"
    return ASSUMED_SCALE, "assumed"


def _made_for_flux(encoder: Header) -> bool:
    last = max(
        (int(name.split(".")[1]), name) for name in encoder.shapes if name.endswith(".weight")
    )[1]
    return encoder.shapes[last][0] == ALPHA_LAST_CHANNELS


def _positive(scale: object, where: str = "") -> float:
    try:
        number = float(str(scale))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        hint = "it is a positive number, such as 1, 100 or 300"
        raise Refused(f"{where}an offset scale cannot be {scale}", hint)
    return number


def _read(header: Header, preset: Preset, network: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        wanted = {
            name: value.shape
            for name, value in getattr(Transparency(preset), network).state_dict().items()
        }
    _check_names(header, wanted, network, preset)
    for name in sorted(wanted):
        here, there = wanted[name], header.shapes[name]
        if here != there:
            sizes = f"{name} is {_size(there)} there and {_size(here)} here"
            hint = (
                "choose the preset of its model; other sizes are set like --set latent_channels=16"
            )
            raise Refused(f"{header.path} does not fit preset {preset.name!r}: {sizes}", hint)
    tensors = read_tensors(header, sorted(wanted))
    return tensors if _alpha_is_first(header, preset) else _reorder(tensors, _ALPHA_FIRST)


def _check_names(
    header: Header, wanted: Mapping[str, object], network: str, preset: Preset
) -> None:
    """Raises Refused where tensors are missing or do not belong to the network."""
    missing, foreign = (
        sorted(wanted.keys() - header.shapes.keys()),
        sorted(header.shapes.keys() - wanted.keys()),
    )
    if missing and len(missing) < len(wanted) / 2 and not foreign:
        said = f"{len(missing)} of its {len(wanted)} tensors are missing, {missing[0]} for one"
        raise Refused(
            f"{header.path} is an incomplete {WeightFormat[network]}: {said}",
            "download it, or all its parts, again",
        )
    if missing or foreign:
        said = f"{foreign[0]} belongs to none of ours" if foreign else f"there is no {missing[0]}"
        hint = (
            "its layout is another one: set decoder_layers, networks and the like as it was trained"
        )
        raise Refused(
            f"{header.path} does not fit preset {preset.name!r}, whose layers are others: {said}",
            hint,
        )


def _alpha_is_first(header: Header, preset: Preset) -> bool:
    """Whether alpha is the first of a file's four channels: as it says, or by the latents it is made for."""
    told = facts_in(header.metadata).get("channels")
    return told == "alpha first" if told else preset.latent_channels != ALPHA_LAST_CHANNELS


def alpha_last(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network of ours as one that meets pixels with alpha last."""
    return _reorder(tensors, _ALPHA_LAST)


def _reorder(tensors: Mapping[str, Tensor], order: list[int]) -> dict[str, Tensor]:
    """A network that meets pixels with its four channels in another order."""
    return {
        name: value[:, order] if name == "blocks.0.weight"
        else value[order] if name in {"conv_out.weight", "conv_out.bias"}
        else value
        for name, value in tensors.items()
    }  # fmt: skip


def _silent_encoder(preset: Preset) -> dict[str, Tensor]:
    """A fresh encoder, whose offset is 0 everywhere: the same one every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(Transparency(preset).encoder.state_dict())


def _prefixed(network: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{network}.{name}": value for name, value in tensors.items()}


def _size(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "absent"
