"""What a weight file of others is, told by the names and shapes of its tensors alone, never by the file's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum

from curation.errors import Refused
from training.files import Header

Shapes = Mapping[str, tuple[int, ...]]


class Layout(StrEnum):
    """How tensors are laid out; the value is what people are told."""

    encoder = "offset encoder"
    decoder = "alpha decoder"
    patches = "low-rank patches in original names (layerdiffusion-v1)"
    differences = "differences in original names (layerdiffusion-v1)"
    offsets = "differences in diffusers' names (LayerDiffuse_Diffusers)"
    lora = "LoRA (PEFT, diffusers or kohya)"
    sharing = "attention sharing of SD 1.5 (layerdiffusion-v1)"
    unet = "a whole UNet in diffusers' names"

    @property
    def part(self) -> str:
        """The part of a checkpoint that it becomes."""
        return "transparency" if self in {Layout.encoder, Layout.decoder} else "base"


LORA_ENDS = re.compile(
    r"\.(lora_A(\.default)?|lora_B(\.default)?|lora_down|lora_up|lora\.down|lora\.up|to_\w+_lora\.(down|up))\.weight$"
)

_STRANGERS: tuple[tuple[str, str, str], ...] = (
    (
        r"^model\.diffusion_model\.",
        "a whole Stable Diffusion checkpoint",
        "convert it with diffusers, and give the folder with --set model=FOLDER",
    ),
    (
        r"^(first_stage_model|encoder\.(down_blocks|conv_in|down)|decoder\.(up_blocks|conv_in|up))\.",
        "an image autoencoder (VAE)",
        "the model brings its own; give the offset encoder and the alpha decoder",
    ),
    (r"^(controlnet_|control_model\.|input_hint_block\.)", "a ControlNet", "it is given when drawing, not imported"),
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter", "it is given when drawing, not imported"),
    (
        r"^(text_model\.|cond_stage_model\.|conditioner\.|text_encoder|lora_te)",
        "weights of a text encoder",
        "only UNets learn transparency; leave the text encoder out",
    ),
    (r"motion_modules\.", "a motion module", "only pictures are drawn here"),
    (
        r"^(transformer|double_blocks|single_blocks|transformer_blocks|joint_blocks)\.",
        "weights of a diffusion transformer",
        "only UNets of Stable Diffusion are read",
    ),
    (
        r"hada_|lokr_|[.]b?oft_|dora_scale|lora_magnitude_vector|ia3_|lora_mid|diff_b|set_weight",
        "an adapter of another kind than LoRA",
        "DoRA, LoHa, LoKr and the like: merge it into its model, and import the UNet",
    ),
    (r"::", "a file of mixed patches", "one kind of patch a file: all ::lora:: or all ::diff::"),
)
"""Files that people mistake for weights of latent transparency: a pattern of tensor names, what it is, what to do."""


def recognise(header: Header) -> Layout:
    """The layout of a file. Raises Refused, with what the file is where that is known, for all others."""
    for layout, fits in _LAYOUTS.items():
        if fits(header.shapes):
            return layout
    for pattern, what, hint in _STRANGERS:
        if any(re.search(pattern, name) for name in header.shapes):
            raise Refused(f"{header.path} is {what}, not weights of latent transparency", hint)
    first = ", ".join(sorted(header.shapes)[:3])
    raise Refused(f"{header.path} is of no kind known here; it begins with {first}", f"known: {'; '.join(Layout)}")


def frames_of(shapes: Shapes) -> tuple[int, bool]:
    """Of an attention-sharing file: how many layers it draws together, and whether it is led by an image."""
    numbered = [re.match(r"hookers\.layers\.0\.to_q_lora\.(\d+)\.", name) for name in shapes]
    frames = {int(found[1]) for found in numbered if found}
    controlled = any(name.startswith("kwargs_encoder.") or ".control_convs." in name for name in shapes)
    return len(frames), controlled


def _is_encoder(shapes: Shapes) -> bool:
    places = [re.fullmatch(r"blocks\.(\d+)\.(weight|bias)", name) for name in shapes]
    first = shapes.get("blocks.0.weight", ())
    return all(places) and len(first) == 4 and first[1] % 4 == 0


def _is_decoder(shapes: Shapes) -> bool:
    return "latent_conv_in.weight" in shapes and "conv_out.weight" in shapes and "conv_in.weight" in shapes


def _is_patched(kind: str) -> Callable[[Shapes], bool]:
    return lambda shapes: all(f"::{kind}::" in name for name in shapes)


def _is_lora(shapes: Shapes) -> bool:
    matrices = [name for name in shapes if not name.endswith(".alpha")]
    return bool(matrices) and all(LORA_ENDS.search(name) and not name.startswith(_TEXT) for name in matrices)


def _is_unet(shapes: Shapes) -> bool:
    return _in_unet(shapes) and any(
        name.removeprefix("unet.").startswith("time_embedding.linear_1.") for name in shapes
    )


def _in_unet(shapes: Shapes) -> bool:
    return all(_UNET.match(name) for name in shapes)


_TEXT = ("text_encoder", "lora_te")
_UNET = re.compile(
    r"(unet\.)?(conv_in|conv_norm_out|conv_out|time_embedding|add_embedding|down_blocks\.\d|mid_block|up_blocks\.\d)\."
    r"(?!.*motion_modules)"
)
_LAYOUTS: dict[Layout, Callable[[Shapes], bool]] = {
    Layout.encoder: _is_encoder,
    Layout.decoder: _is_decoder,
    Layout.patches: _is_patched("lora"),
    Layout.differences: _is_patched("diff"),
    Layout.sharing: lambda shapes: any(name.startswith("hookers.layers.") for name in shapes),
    Layout.lora: _is_lora,
    Layout.unet: _is_unet,
    Layout.offsets: _in_unet,
}
