"""The part "layers" for other programs: the adapters of each role as one LoRA, and a script that draws with them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from curation.errors import Refused
from training.interop.adapters import peft_config, peft_metadata, write_kohya
from training.layers.adapters import roles_in, to_peft

FORMS = ("peft", "diffusers", "kohya")
"""The formats that can hold them."""

SCRIPT = "draw_layers.py"

Role = tuple[str, dict[str, Tensor], dict[str, str]]
"""A file's name without its end, its tensors, and the metadata of the file."""


def write_roles(
    tensors: Mapping[str, Tensor], facts: Mapping[str, str], family: str, form: str
) -> dict[str, Role]:
    """The LoRA of each role, by role. Raises Refused where the form has none or the base is no pretrained UNet."""
    if form not in FORMS:
        raise Refused(f"role adapters are not written as {form}", f"formats: {', '.join(FORMS)}")
    written: dict[str, Role] = {}
    for role in roles_in(tensors):
        own = to_peft(tensors, role)
        if not all(name.startswith("unet.") for name in own):
            raise Refused(
                "these role adapters are of a denoiser of our own",
                "--format layerloop holds everything",
            )
        if form == "kohya":
            written[role] = f"layer_{family}_{role}_kohya", write_kohya(own, facts, family), {}
        else:
            written[role] = (
                f"layer_{family}_{role}_lora",
                own,
                peft_metadata(peft_config(own, facts)),
            )
    return written


def script(names: Mapping[str, str], model: str, family: str, base: str | None) -> str:
    """A script that draws with the files in plain diffusers.

    names: each role's file. base: the file of the base, None where it has none that `load_lora_weights` reads.
    """
    kind = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    return _SCRIPT.format(kind=kind, model=model, names=dict(names), base=base)


_SCRIPT = '''"""Draw each layer with its LoRA in plain diffusers: python draw_layers.py "a fox" "a snowy forest"

One prompt for each role, in the order of ROLES. The layers start from the same noise but do not see each other: the
joint attention between layers is Layerloop's (`layerloop draw`). This is what `joined=False` draws there, as opaque
pictures over grey; alpha is found by the alpha decoder of the same export.
"""

import sys

import torch
from diffusers import {kind}

MODEL = {model!r}
BASE = {base!r}  # the LoRA of the base, used beside each role's
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
