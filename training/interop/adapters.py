"""Low-rank adapters (LoRA) of UNets in the three ways they are written: released patches, PEFT, kohya."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from curation.domain import canonical_json
from curation.errors import Refused
from training.external_weights import Header, read_number, read_tensors
from training.interop.formats import LORA_ENDS
from training.interop.key_mapping import from_flat, is_ldm, to_diffusers, to_flat, to_ldm
from training.safetensors_io import facts_in

Read = tuple[dict[str, Tensor], dict[str, str]]
"""A part's tensors and the facts that open them again."""

_DOWN, _UP = "lora_A.weight", "lora_B.weight"
_PREFIXES = re.compile(r"^(base_model\.model\.)?(unet\.|diffusion_model\.|lora_unet_)?")
_ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers keeps the adapter's numbers, as JSON


def read_patches(header: Header) -> Read:
    """layerdiffusion-v1's `diffusion_model.<original name>.weight::lora::0` (up) and `::lora::1` (down).

    A patched weight is W + up @ down, so that alpha is the rank. Raises Refused.
    """
    named = {}
    for name in header.shapes:
        weight, _, place = name.partition("::lora::")
        module = to_diffusers(weight.removeprefix("diffusion_model.").removesuffix(".weight"))
        named[name] = module, {"0": _UP, "1": _DOWN}.get(place, "")
    return _gather(header, named, alphas={})


def read_lora(header: Header) -> Read:
    """A LoRA as PEFT, diffusers (of today and of old) or kohya's scripts write it, modules named either way.

    alpha: kohya's `.alpha` tensors, diffusers' metadata, the adapter_config.json beside a file of PEFT's own; the rank
    where none says anything. Ranks and alphas that differ between modules are made one (`_even`). Raises Refused.
    """
    named, alphas = {}, {}
    for name in header.shapes:
        if name.endswith(".alpha"):
            alphas[_module(name.removesuffix(".alpha"))] = read_number(header, name)
            continue
        end = LORA_ENDS.search(name)
        if end is None:
            raise Refused(f"{header.path}: {name!r} is no matrix of a LoRA")
        named[name] = (
            _module(name[: end.start()], end[1]),
            _DOWN if re.search("lora_A|down", end[1]) else _UP,
        )
    if not alphas and (told := _told_alpha(header)):
        alphas = {module: told for module, _ in named.values()}
    return _gather(header, named, alphas)


def write_patches(
    tensors: Mapping[str, Tensor], facts: Mapping[str, str], family: str
) -> dict[str, Tensor]:
    """The inverse of `read_patches`; alpha / rank is multiplied into up where it is not 1."""
    scale = float(facts["alpha"]) / float(facts["rank"])
    written: dict[str, Tensor] = {}
    for module, (down, up) in pairs(tensors).items():
        key = f"diffusion_model.{to_ldm(module, family)}.weight::lora::"
        written |= {
            f"{key}0": up if scale == 1 else narrowed(up.double() * scale, up.dtype),
            f"{key}1": down,
        }
    return written


def write_kohya(
    tensors: Mapping[str, Tensor], facts: Mapping[str, str], family: str
) -> dict[str, Tensor]:
    """As kohya's scripts name them: original names for SDXL, diffusers' for the older ones; alpha beside each."""
    written: dict[str, Tensor] = {}
    for module, (down, up) in pairs(tensors).items():
        key = f"lora_unet_{to_flat(to_ldm(module, family) if family == 'sdxl' else module)}"
        alpha = torch.tensor(float(facts["alpha"]), dtype=up.dtype)
        written |= {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": alpha,
        }
    return written


def peft_config(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Any:
    """PEFT's own configuration of a stored adapter, whose names PEFT and diffusers read as they are."""
    from peft import LoraConfig

    make: Any = LoraConfig  # annotated as if alpha were whole
    return make(
        r=int(facts["rank"]), lora_alpha=float(facts["alpha"]), target_modules=list(pairs(tensors))
    )


def peft_metadata(config: Any) -> dict[str, str]:
    """The same numbers where `load_lora_weights` of a diffusers pipeline looks for them."""
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


def pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A stored adapter by module: (down, up), r x in and out x r, or 4-D for convolutions."""
    modules = [
        name.removeprefix("unet.").removesuffix(f".{_DOWN}")
        for name in tensors
        if name.endswith(_DOWN)
    ]
    return {
        module: (tensors[f"unet.{module}.{_DOWN}"], tensors[f"unet.{module}.{_UP}"])
        for module in modules
    }


def merged(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """What a pair adds to its weight, in float32: scale * up @ down, for matrices and for convolutions."""
    delta = up.float().flatten(1) @ down.float().flatten(1) * scale
    return delta.reshape(up.shape[0], *down.shape[1:])


def narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A computed tensor in `dtype`, or in float32 where numbers are too small for `dtype` and would become 0.

    float16 knows nothing below 6e-8, where a scale that is folded into a layer soon takes its weights.
    """
    cast = value.to(dtype)
    vanished = (cast == 0) & (value.float() != 0)
    small = value.abs() < torch.finfo(dtype).tiny  # subnormal: their digits go before they do
    return (
        value.float()
        if vanished.any() or small.logical_and(value != 0).float().mean() > 0.5
        else cast
    )


def _module(name: str, end: str = "") -> str:
    """A module's name in diffusers' words, however the file has it."""
    prefix = _PREFIXES.match(name)
    rest = name[prefix.end() :] if prefix else name
    if prefix and prefix[2] == "lora_unet_":
        rest = from_flat(rest)
    if old := re.match(
        r"(to_[qkv]|to_out)_lora\.", end
    ):  # diffusers before PEFT kept them in processors
        rest = f"{rest.removesuffix('.processor')}.{old[1]}{'.0' if old[1] == 'to_out' else ''}"
    return to_diffusers(rest) if is_ldm(rest) else rest


def _told_alpha(header: Header) -> float | None:
    own, told = facts_in(header.metadata).get("alpha"), header.metadata.get(_ADAPTER_METADATA)
    beside = header.path.parent / "adapter_config.json"
    try:
        if own:
            return float(own)
        if told:
            numbers = {
                name.removeprefix("unet."): value for name, value in json.loads(told).items()
            }
        elif (
            any(name.startswith("base_model.model.") for name in header.shapes) and beside.is_file()
        ):
            numbers = json.loads(beside.read_text())
        else:
            return None
        if numbers.get("use_rslora") or numbers.get("use_dora") or numbers.get("alpha_pattern"):
            raise Refused(
                f"{header.path} is no plain LoRA: rsLoRA, DoRA or several alphas",
                "merge it into its model",
            )
        return float(numbers["lora_alpha"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"{header.path}: the adapter's numbers cannot be read ({error})", "save it again"
        ) from error


def _gather(
    header: Header, named: Mapping[str, tuple[str, str]], alphas: Mapping[str, float]
) -> Read:
    """Tensors under our names. Raises Refused where a matrix has no partner or does not fit it."""
    tensors = {}
    read = read_tensors(header, named)
    for name, (module, end) in named.items():
        tensors[f"unet.{module}.{end}"] = read[name]
    modules = sorted({module for module, _ in named.values()})
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
                f"{header.path}: the two matrices of {module} do not belong together",
                "the file is broken",
            )
    ranks = {module: len(tensors[f"unet.{module}.{_DOWN}"]) for module in modules}
    return _even(
        tensors, ranks, {module: alphas.get(module, rank) for module, rank in ranks.items()}
    )


def _even(
    tensors: dict[str, Tensor], ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> Read:
    """One rank and one alpha for all modules: lesser ranks are filled up with zeros, scales multiplied into up.

    The product does not change; where ranks and alphas are equal already, as they mostly are, nothing is touched.
    """
    rank = max(ranks.values())
    if _one(ranks.values()) and _one(alphas.values()):
        return tensors, {
            "kind": "adapter",
            "rank": str(rank),
            "alpha": _written(next(iter(alphas.values()))),
        }
    for module, own in ranks.items():
        down, up = f"unet.{module}.{_DOWN}", f"unet.{module}.{_UP}"
        missing = rank - own
        scaled = tensors[up].float() * (alphas[module] / own)
        tensors[down] = torch.cat(
            [tensors[down], tensors[down].new_zeros(missing, *tensors[down].shape[1:])]
        )
        tensors[up] = torch.cat(
            [scaled, scaled.new_zeros(len(scaled), missing, *scaled.shape[2:])], dim=1
        )
    return tensors, {"kind": "adapter", "rank": str(rank), "alpha": str(rank)}


def _written(alpha: float) -> str:
    return str(int(alpha)) if float(alpha).is_integer() else repr(float(alpha))


def _one(values: Iterable[float]) -> bool:
    return len(set(values)) == 1
