"""Export of the part "layers": one LoRA per role, and a script that generates with them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from curation.errors import Refused
from training.interop.adapters import peft_config, peft_metadata, write_kohya
from training.layers.adapters import roles_in, to_peft

FORMATS = ("peft", "diffusers", "kohya")
"""The formats that support role adapters."""

SCRIPT = "draw_layers.py"

RoleFile = tuple[str, dict[str, Tensor], dict[str, str]]
"""A file's name without its extension, its tensors, and its metadata."""


def write_roles(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], family: str, format_name: str
) -> dict[str, RoleFile]:
    """Convert the LoRA of each role.

    Args:
        tensors: The stored part "layers".
        metadata: Its metadata, with "rank" and "alpha".
        family: The model family.
        format_name: The target format, one of FORMATS.

    Raises:
        Refused: The format does not support role adapters, or the base is not a pretrained UNet.
    """
    if format_name not in FORMATS:
        raise Refused(
            f"role adapters cannot be written as {format_name}", f"formats: {', '.join(FORMATS)}"
        )
    written: dict[str, RoleFile] = {}
    # One file per role, since a LoRA has no notion of roles.
    for role in roles_in(tensors):
        role_tensors = to_peft(tensors, role)
        if not all(name.startswith("unet.") for name in role_tensors):
            raise Refused(
                "these role adapters belong to a built-in denoiser",
                "--format layerloop exports everything",
            )
        if format_name == "kohya":
            written[role] = (
                f"layer_{family}_{role}_kohya",
                write_kohya(role_tensors, metadata, family),
                {},
            )
        else:
            written[role] = (
                f"layer_{family}_{role}_lora",
                role_tensors,
                peft_metadata(peft_config(role_tensors, metadata)),
            )
    return written


def example_script(names: Mapping[str, str], model: str, family: str, base: str | None) -> str:
    """Return a Python script that generates with the files in plain diffusers.

    Args:
        names: The file of each role.
        model: The hub id or folder of the model.
        family: The model family.
        base: The file of the base, or None if `load_lora_weights` cannot read it.
    """
    kind = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    return _SCRIPT.format(kind=kind, model=model, names=dict(names), base=base)


_SCRIPT = '''"""Generate each layer with its LoRA in plain diffusers.

python draw_layers.py "a fox" "a snowy forest"

Give one prompt for each role, in the order of ROLES. The layers start from the same noise but do
not attend to each other: the joint attention between layers is Layerloop's (`layerloop generate`).
The result equals `joined=False` there, as opaque images over gray; the alpha decoder of the same
export recovers alpha.
"""

import sys

import torch
from diffusers import {kind}

MODEL = {model!r}
BASE = {base!r}  # the LoRA of the base, used together with each role's
ROLES = {names!r}

pipe = {kind}.from_pretrained(MODEL, use_safetensors=True)
if BASE:
    pipe.load_lora_weights(".", weight_name=BASE, adapter_name="base")
for role, file in ROLES.items():
    pipe.load_lora_weights(".", weight_name=file, adapter_name=role)
for role, prompt in zip(ROLES, sys.argv[1:]):
    names = ["base", role] if BASE else [role]
    pipe.set_adapters(names, [1.0] * len(names))
    generator = torch.Generator().manual_seed(0)
    pipe(prompt, generator=generator).images[0].save(f"{{role}}.png")
'''
