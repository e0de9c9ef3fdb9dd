"""Export a checkpoint for other programs: Forge, ComfyUI, diffusers, PEFT and kohya's scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from curation.domain import Checkpoint, canonical_json
from curation.errors import Refused
from curation.object_store import sha256_of, write_file
from curation.ports import FoundFile, ObjectStore
from training.interop import own_format
from training.interop.adapters import (
    narrowed,
    peft_config,
    peft_metadata,
    write_kohya,
    write_patches,
)
from training.interop.differences import merge_adapter, subtract_weights, write_differences
from training.interop.key_mapping import to_ldm
from training.interop.layer_adapters import SCRIPT, script, write_roles
from training.interop.modes import MODES, SINGLE
from training.interop.transparency_weights import ALPHA_LAST_CHANNELS, alpha_last
from training.presets.preset import Preset
from training.presets.presets import SDXL, find_preset
from training.pretrained.families import find_family
from training.pretrained.loading import load_model
from training.safetensors_io import KEY, load_part

PRECISIONS = {"stored": None, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Form:
    """How one program wants its files: a row of FORMS."""

    name: str
    scale: float  # what the program multiplies an encoder's output by
    stem: str  # how the two networks' files begin


_V1 = Form("released", 1.0, "{v1}vae_transparent_")
_LD = Form("diffusers", 300.0, "ld_diffusers_{family}_vae_transparent_")

FORMS: dict[str, Form] = {
    row.name: row
    for row in (
        _V1,
        replace(_V1, name="comfyui"),
        replace(_V1, name="kohya"),
        _LD,
        replace(_LD, name="peft"),
    )
}
"""Forge and ComfyUI's nodes take an offset as it is, LayerDiffuse_Diffusers' code times 300."""


@dataclass(frozen=True)
class Written:
    """A file to be: its name without the end, what it is, the part it comes from."""

    name: str
    what: str
    part: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def give_out(
    checkpoint: Checkpoint, store: ObjectStore, form: str, precision: str, folder: Path
) -> Sequence[FoundFile]:
    """A checkpoint's files for other programs (the door LAYERLOOP_EXPORTER); each is whole or absent.

    form: a name in FORMS, or "layerloop", which holds every checkpoint to the bit. precision: "stored" leaves every
    number its type, "fp16" and "fp32" give it one. A part that the form cannot hold is in the answer without a path,
    with the reason. Raises NotFound, Corrupt; Refused where the form cannot hold networks or base, or a number leaves
    the type's range.
    """
    if form not in {*FORMS, own_format.NAME} or precision not in PRECISIONS:
        known = (
            f"formats: {', '.join([*FORMS, own_format.NAME])}; precisions: {', '.join(PRECISIONS)}"
        )
        raise Refused(f"no format {form!r} in precision {precision!r}", known)
    if form == own_format.NAME:
        if precision != "stored":
            raise Refused(
                "the format layerloop keeps every number as it is", "leave --precision out"
            )
        return own_format.write_own(checkpoint, store, folder)
    preset = find_preset(checkpoint.preset, checkpoint.changes)
    if replace(preset, **{column: getattr(SDXL, column) for column in _RELEASED}) != preset:
        raise Refused(
            f"no other program knows the networks of preset {preset.name!r}",
            "presets sd15, sd21 and sdxl have those of the release; --format layerloop holds any checkpoint",
        )
    dtype = PRECISIONS[precision]
    files = write_networks(
        *load_part(store, checkpoint.files["transparency"]), preset, FORMS[form], dtype
    )
    texts: dict[str, str] = {}
    left = [_unwritten("backbone", "it is the autoencoder of the model itself")]
    for part in [SINGLE.name, *MODES]:
        if part not in checkpoint.files:
            continue
        base = load_part(store, checkpoint.files[part])
        try:
            files.append(write_base(*base, preset, form))
        except Refused as error:
            if part == SINGLE.name:
                raise
            left.append(_unwritten(part, str(error)))
            continue
        if form == "peft":
            wrapped = {
                name.replace("unet.", "base_model.model.", 1): value
                for name, value in base[0].items()
            }
            config = peft_config(*base)
            files.append(
                Written(
                    "adapter_model",
                    "LoRA in PEFT's own names",
                    "base",
                    wrapped,
                    peft_metadata(config),
                )
            )
            with TemporaryDirectory() as made:  # PEFT would write it in place, whole or not
                config.save_pretrained(made)
                texts |= {file.name: file.read_text("utf-8") for file in Path(made).iterdir()}
    done = {"backbone", "transparency", SINGLE.name, *MODES}
    for part, sha256 in checkpoint.files.items():
        if part in done:
            continue
        try:
            files += _write_more(part, *load_part(store, sha256), preset, form, files, texts)
        except Refused as error:
            left.append(_unwritten(part, str(error)))
    folder.mkdir(parents=True, exist_ok=True)
    written = [_save(file, folder, dtype, checkpoint.id) for file in files]
    for name, text in texts.items():
        write_file(folder / name, text.encode())
    return [*written, *left]


def _write_more(
    part: str,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, str],
    preset: Preset,
    form: str,
    files: Sequence[Written],
    texts: dict[str, str],
) -> list[Written]:
    """Role adapters and styles. Raises Refused for a part that the form cannot hold."""
    if facts.get("kind") == "style":
        return [
            Written(
                part, f"the user's LoRA {facts['name']}, weight {facts['weight']}", part, tensors
            )
        ]
    if part != "layers":
        raise Refused("no other program knows such a part", "--format layerloop holds everything")
    roles = write_roles(tensors, facts, str(preset.family), form)
    base = next(
        (file.name for file in files if file.part == SINGLE.name and file.what == "LoRA"), None
    )
    names = {role: f"{name}.safetensors" for role, (name, _, _) in roles.items()}
    base_file = f"{base}.safetensors" if base else None
    texts[SCRIPT] = script(names, str(preset.model), str(preset.family), base_file)
    return [
        Written(name, f"LoRA of the {role}", part, own, said)
        for role, (name, own, said) in roles.items()
    ]


def _unwritten(part: str, why: str) -> FoundFile:
    return FoundFile("", "", f"not written: {why}", part, 0, 0)


def write_networks(
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, str],
    preset: Preset,
    form: Form,
    dtype: torch.dtype | None = None,
) -> list[Written]:
    """Both networks; the encoder's last layer takes up the scale that the other program does not multiply by.

    The product is the same number, rounded once, to `dtype` or the tensor's own type: to the bit where the scales are
    equal or one is a power of two of the other.
    """
    factor = float(facts.get("offset_scale", preset.offset_scale)) / form.scale
    stem = form.stem.format(
        v1="" if preset.family == "sdxl" else f"layer_{preset.family}_", family=preset.family
    )
    last = preset.latent_channels == ALPHA_LAST_CHANNELS
    files = []
    for network in ("encoder", "decoder"):
        own = {
            name.removeprefix(f"{network}."): t
            for name, t in tensors.items()
            if name.startswith(f"{network}.")
        }
        own = alpha_last(own) if last else own
        said, what = {"channels": "alpha last" if last else "alpha first"}, network
        if network == "encoder":
            own = own if factor == 1 else _folded(own, factor, dtype)
            said["offset_scale"], what = repr(form.scale), f"encoder, offset scale {form.scale:g}"
        files.append(Written(f"{stem}{network}", what, "transparency", own, said))
    return files


_RELEASED = (
    *(
        "stride",
        "networks",
        "encoder_widths",
        "decoder_widths",
        "decoder_layers",
        "decoder_attention",
        "decoder_groups",
    ),
    *("fold", "decoder_residual"),
)
"""The columns that decide the two networks' layout; latents may have any number of channels."""


def _folded(
    encoder: Mapping[str, Tensor], factor: float, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    last = max(int(name.split(".")[1]) for name in encoder)
    folded = {
        name: value.double() * factor
        for name, value in encoder.items()
        if name.startswith(f"blocks.{last}.")
    }
    return {
        **encoder,
        **{name: narrowed(value, dtype or encoder[name].dtype) for name, value in folded.items()},
    }


def write_base(
    tensors: Mapping[str, Tensor], facts: Mapping[str, str], preset: Preset, form: str
) -> Written:
    """A base in the words of a program. Raises Refused where it has none for this kind."""
    mode = facts.get("mode")
    file = _write_base(tensors, facts, preset, form)
    if mode is None:
        return file
    stem = file.name.partition("_transparent")[0].removesuffix("_attn")
    told = {"mode": mode}  # some modes look alike
    return replace(
        file, name=f"{stem}_{mode}", what=f"{file.what}, {MODES[mode]}", part=mode, metadata=told
    )


def _write_base(
    tensors: Mapping[str, Tensor], facts: Mapping[str, str], preset: Preset, form: str
) -> Written:
    family, kind = str(preset.family), facts["kind"]
    v1 = "layer_xl_" if family == "sdxl" else f"layer_{family}_"
    match kind, form:
        case "adapter", "released" | "comfyui" if family != "sdxl":
            raise Refused(
                f"a LoRA of {family} cannot be written as {form}: of SD 1.5 Forge and ComfyUI's LayerDiffuse read "
                "attention sharing alone",
                "write it as --format kohya, and load it there as any other LoRA",
            )
        case "adapter", "released" | "comfyui":
            return Written(
                f"{v1}transparent_attn",
                "low-rank patches",
                "base",
                write_patches(tensors, facts, family),
            )
        case "adapter", "kohya":
            return Written(
                f"{v1}transparent_kohya", "LoRA", "base", write_kohya(tensors, facts, family)
            )
        case "adapter", "peft":
            config = peft_config(tensors, facts)
            return Written("pytorch_lora_weights", "LoRA", "base", tensors, peft_metadata(config))
        case "adapter", "diffusers":
            return Written(
                f"ld_diffusers_{family}_attn", "differences", "base", merge_adapter(tensors, facts)
            )
        case "difference", "released" | "comfyui":
            return Written(
                f"{v1}transparent_conv", "differences", "base", write_differences(tensors, family)
            )
        case "difference", "diffusers":
            return Written(f"ld_diffusers_{family}_attn", "differences", "base", tensors)
        case "weights", "diffusers":
            return Written("diffusion_pytorch_model", "the whole UNet", "base", tensors)
        case "weights", "comfyui":
            whole = {
                f"model.diffusion_model.{to_ldm(name, family)}": value
                for name, value in tensors.items()
            }
            return Written(f"{v1}transparent_unet", "the whole UNet", "base", whole)
        case "weights", "released":
            added = write_differences(subtract_weights(tensors, _start(preset)), family)
            return Written(f"{v1}transparent_conv", "differences", "base", added)
        case "sharing", "released" | "comfyui":
            return Written(f"{v1}transparent_attn", "attention sharing", "base", tensors)
    raise Refused(
        f"a base of kind {kind!r} cannot be written as {form}",
        _HINTS.get(kind, "nobody else reads it"),
    )


_HINTS = {
    "adapter": "formats: released, comfyui, diffusers, peft, kohya",
    "difference": "formats: released, comfyui, diffusers",
    "weights": "formats: diffusers, comfyui, released; it is no LoRA",
    "sharing": "formats: released, comfyui",
}


def _start(preset: Preset) -> dict[str, Tensor]:
    """The UNet that a full training began with."""
    from diffusers import UNet2DConditionModel

    family = find_family(str(preset.family))
    unet = load_model(UNet2DConditionModel, str(preset.model), family.denoiser, preset.variant)
    return dict(unet.state_dict())


def _save(file: Written, folder: Path, dtype: torch.dtype | None, checkpoint: str) -> FoundFile:
    """Write under another name, then rename: what has the name is whole."""
    tensors = {name: _as(value, name, dtype) for name, value in sorted(file.tensors.items())}
    gone = sum(
        int(((tensors[name] == 0) & (value != 0).to(tensors[name].device)).sum())
        for name, value in file.tensors.items()
    )
    what = (
        f"{file.what}; {gone:,} numbers are too small for {precision_name(dtype)} and became 0"
        if gone
        else file.what
    )
    said = {**file.metadata, "checkpoint": checkpoint}
    metadata = (
        {KEY: canonical_json(said)} if "lora_adapter_metadata" not in said else dict(file.metadata)
    )
    target = folder / f"{file.name}.safetensors"
    half = target.with_suffix(".half")
    save_file(tensors, half, metadata)
    half.replace(target)
    numbers = sum(value.numel() for value in tensors.values())
    return FoundFile(str(target), sha256_of(target), what, file.part, len(tensors), numbers)


def precision_name(dtype: torch.dtype | None) -> str:
    """The word of a precision, as it is asked for."""
    return next((name for name, one in PRECISIONS.items() if one == dtype), str(dtype))


def _as(value: Tensor, name: str, dtype: torch.dtype | None) -> Tensor:
    cast = value.detach().to(dtype or value.dtype).contiguous()
    if not torch.isfinite(cast).all():
        raise Refused(
            f"{name} has numbers beyond the range of {cast.dtype}", "write it with --precision fp32"
        )
    return cast.clone()
