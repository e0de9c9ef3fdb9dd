"""Low-rank adapters (LoRA) of UNets in three file formats: released patches, PEFT and kohya."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from curation.domain import canonical_json
from curation.errors import Refused
from training.external_weights import WeightsHeader, read_number, read_tensors
from training.interop.formats import LORA_SUFFIX
from training.interop.key_mapping import from_flat, is_ldm, to_diffusers, to_flat, to_ldm
from training.safetensors_io import layerloop_metadata

PartTensors = tuple[dict[str, Tensor], dict[str, str]]
"""A part's tensors and the metadata to open them again."""

_DOWN, _UP = "lora_A.weight", "lora_B.weight"
_PREFIXES = re.compile(r"^(base_model\.model\.)?(unet\.|diffusion_model\.|lora_unet_)?")
_ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers keeps rank and alpha here, as JSON


def read_patches(header: WeightsHeader) -> PartTensors:
    """Read the low-rank patches of layerdiffusion-v1.

    Their names are `diffusion_model.<original name>.weight::lora::0` (up) and `::lora::1` (down). A
    patched weight is W + up @ down, so alpha equals the rank.

    Raises:
        NotFound: The file does not exist.
        Refused: A name or a matrix does not fit.
    """
    named = {}
    # Map each name to its module and to the end of our name.
    for name in header.shapes:
        weight, _, end = name.partition("::lora::")
        module = to_diffusers(weight.removeprefix("diffusion_model.").removesuffix(".weight"))
        named[name] = module, {"0": _UP, "1": _DOWN}.get(end, "")
    return _gather(header, named, alphas={})


def read_lora(header: WeightsHeader) -> PartTensors:
    """Read a LoRA written by PEFT, diffusers (old or new) or kohya's scripts.

    Modules may have original or diffusers names. alpha is taken from kohya's `.alpha` tensors,
    diffusers' metadata, or the adapter_config.json beside a PEFT file, and defaults to the rank.
    Ranks and alphas that differ between modules are unified (`_even`).

    Raises:
        NotFound: The file does not exist.
        Refused: The file is not a plain LoRA.
    """
    named, alphas = {}, {}
    # Sort the tensors by module: alphas, down matrices and up matrices.
    for name in header.shapes:
        if name.endswith(".alpha"):
            alphas[_module(name.removesuffix(".alpha"))] = read_number(header, name)
            continue
        end = LORA_SUFFIX.search(name)
        if end is None:
            raise Refused(f"{header.path}: {name!r} is not a LoRA matrix")
        named[name] = (
            _module(name[: end.start()], end[1]),
            _DOWN if re.search("lora_A|down", end[1]) else _UP,
        )
    # Without alpha tensors, a single alpha may be given in the metadata.
    if not alphas and (alpha := _alpha_in_metadata(header)):
        alphas = {module: alpha for module, _ in named.values()}
    return _gather(header, named, alphas)


def write_patches(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], family: str
) -> dict[str, Tensor]:
    """Write an adapter in the names of layerdiffusion-v1: the inverse of `read_patches`.

    alpha / rank is multiplied into the up matrix, since the format has no alpha.

    Args:
        tensors: The adapter in our names.
        metadata: Its metadata, with "rank" and "alpha".
        family: The model family, whose original names are used.
    """
    scale = float(metadata["alpha"]) / float(metadata["rank"])
    written: dict[str, Tensor] = {}
    for module, (down, up) in matrices_by_module(tensors).items():
        key = f"diffusion_model.{to_ldm(module, family)}.weight::lora::"
        written |= {
            f"{key}0": up if scale == 1 else safe_cast(up.double() * scale, up.dtype),
            f"{key}1": down,
        }
    return written


def write_kohya(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], family: str
) -> dict[str, Tensor]:
    """Write an adapter in the names of kohya's scripts, with an alpha tensor per module.

    SDXL has original names there, the older families diffusers' names.

    Args:
        tensors: The adapter in our names.
        metadata: Its metadata, with "rank" and "alpha".
        family: The model family.
    """
    written: dict[str, Tensor] = {}
    for module, (down, up) in matrices_by_module(tensors).items():
        # kohya's scripts flatten the dots of a name to underscores.
        key = f"lora_unet_{to_flat(to_ldm(module, family) if family == 'sdxl' else module)}"
        alpha = torch.tensor(float(metadata["alpha"]), dtype=up.dtype)
        written |= {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": alpha,
        }
    return written


def peft_config(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Any:
    """Return PEFT's configuration of a stored adapter, whose names PEFT reads unchanged."""
    from peft import LoraConfig

    config: Any = LoraConfig  # its annotation allows only an integer alpha
    return config(
        r=int(metadata["rank"]),
        lora_alpha=float(metadata["alpha"]),
        target_modules=list(matrices_by_module(tensors)),
    )


def peft_metadata(config: Any) -> dict[str, str]:
    """Return a configuration as the metadata that diffusers' `load_lora_weights` reads."""
    numbers = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules),
    }
    return {
        _ADAPTER_METADATA: canonical_json(
            {f"unet.{name}": value for name, value in numbers.items()}
        )
    }


def matrices_by_module(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Group a stored adapter by module: (down, up), r x in and out x r, or 4-D for convolutions."""
    modules = [
        name.removeprefix("unet.").removesuffix(f".{_DOWN}")
        for name in tensors
        if name.endswith(_DOWN)
    ]
    return {
        module: (tensors[f"unet.{module}.{_DOWN}"], tensors[f"unet.{module}.{_UP}"])
        for module in modules
    }


def lora_delta(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return scale * up @ down in float32, which a LoRA adds to a linear or convolution weight."""
    delta = up.float().flatten(1) @ down.float().flatten(1) * scale
    return delta.reshape(up.shape[0], *down.shape[1:])


def safe_cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a computed tensor to `dtype`, or to float32 where small values would be lost in `dtype`.

    float16 has no values below 6e-8, which scaling a layer down can easily reach.
    """
    # Keep float32 if a value underflows to 0, or if most are subnormal and lose digits.
    cast = value.to(dtype)
    vanished = (cast == 0) & (value.float() != 0)
    small = value.abs() < torch.finfo(dtype).tiny
    return (
        value.float()
        if vanished.any() or small.logical_and(value != 0).float().mean() > 0.5
        else cast
    )


def _module(name: str, end: str = "") -> str:
    """Return a module's diffusers name from any of the naming schemes."""
    prefix = _PREFIXES.match(name)
    # Remove the program's prefix, then undo its naming scheme.
    rest = name[prefix.end() :] if prefix else name
    if prefix and prefix[2] == "lora_unet_":
        rest = from_flat(rest)
    # Before PEFT, diffusers kept LoRA layers in the attention processors.
    if old := re.match(r"(to_[qkv]|to_out)_lora\.", end):
        rest = f"{rest.removesuffix('.processor')}.{old[1]}{'.0' if old[1] == 'to_out' else ''}"
    return to_diffusers(rest) if is_ldm(rest) else rest


def _alpha_in_metadata(header: WeightsHeader) -> float | None:
    """Return the alpha of a file's metadata or configuration, or None. Raises Refused."""
    layerloop_alpha, diffusers_config = (
        layerloop_metadata(header.metadata).get("alpha"),
        header.metadata.get(_ADAPTER_METADATA),
    )
    peft_config_path = header.path.parent / "adapter_config.json"
    try:
        # Our own metadata first, then diffusers', then PEFT's file beside the weights.
        if layerloop_alpha:
            return float(layerloop_alpha)
        if diffusers_config:
            config = {
                name.removeprefix("unet."): value
                for name, value in json.loads(diffusers_config).items()
            }
        elif (
            any(name.startswith("base_model.model.") for name in header.shapes)
            and peft_config_path.is_file()
        ):
            config = json.loads(peft_config_path.read_text())
        else:
            return None
        # These variants scale differently, so a single alpha does not describe them.
        if config.get("use_rslora") or config.get("use_dora") or config.get("alpha_pattern"):
            raise Refused(
                f"{header.path} is not a plain LoRA: it has rsLoRA, DoRA or several alphas",
                "merge it into its model",
            )
        return float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"{header.path}: the adapter's configuration is invalid ({error})", "save it again"
        ) from error


def _gather(
    header: WeightsHeader, named: Mapping[str, tuple[str, str]], alphas: Mapping[str, float]
) -> PartTensors:
    """Read an adapter's tensors under our names.

    Raises Refused if a matrix has no partner or the shapes do not match.
    """
    tensors = {}
    read = read_tensors(header, named)
    for name, (module, end) in named.items():
        tensors[f"unet.{module}.{end}"] = read[name]
    modules = sorted({module for module, _ in named.values()})
    # Each module needs a down and an up matrix of the same rank.
    for module in modules:
        down, up = (tensors.get(f"unet.{module}.{end}") for end in (_DOWN, _UP))
        if (
            down is None
            or up is None
            or down.ndim not in {2, 4}
            or up.ndim != down.ndim
            or up.shape[1] != len(down)
        ):
            raise Refused(
                f"{header.path}: the two matrices of {module} do not match",
                "the file is broken",
            )
    ranks = {module: len(tensors[f"unet.{module}.{_DOWN}"]) for module in modules}
    return _even(
        tensors, ranks, {module: alphas.get(module, rank) for module, rank in ranks.items()}
    )


def _even(
    tensors: dict[str, Tensor], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> PartTensors:
    """Give all modules one rank and one alpha, without changing the result.

    Smaller ranks are zero-padded and scales multiplied into the up matrices. Where ranks and alphas
    are equal already, as is usual, nothing changes.
    """
    rank = max(ranks.values())
    if _all_equal(ranks.values()) and _all_equal(alphas.values()):
        return tensors, {
            "kind": "adapter",
            "rank": str(rank),
            "alpha": _format_alpha(next(iter(alphas.values()))),
        }
    # up @ down is unchanged: zeros are added in both, and the scale moves into up.
    for module, module_rank in ranks.items():
        down, up = f"unet.{module}.{_DOWN}", f"unet.{module}.{_UP}"
        missing = rank - module_rank
        scaled = tensors[up].float() * (alphas[module] / module_rank)
        tensors[down] = torch.cat(
            [tensors[down], tensors[down].new_zeros(missing, *tensors[down].shape[1:])]
        )
        tensors[up] = torch.cat(
            [scaled, scaled.new_zeros(len(scaled), missing, *scaled.shape[2:])], dim=1
        )
    return tensors, {"kind": "adapter", "rank": str(rank), "alpha": str(rank)}


def _format_alpha(alpha: float) -> str:
    return str(int(alpha)) if float(alpha).is_integer() else repr(float(alpha))


def _all_equal(values: Iterable[float]) -> bool:
    return len(set(values)) == 1
