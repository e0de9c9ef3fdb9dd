"""Weight file formats, recognized by tensor names and shapes and never by file name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import StrEnum

from curation.errors import Refused
from training.external_weights import WeightsHeader
from training.interop.relatives import check_lookalikes, check_unsupported

Shapes = Mapping[str, tuple[int, ...]]


class WeightFormat(StrEnum):
    """A format of tensors; its value is the name shown to users."""

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
        """The part of a checkpoint that a file of this format becomes."""
        return "transparency" if self in {WeightFormat.encoder, WeightFormat.decoder} else "base"


LORA_SUFFIX = re.compile(
    r"\.(lora_A(\.default)?|lora_B(\.default)?|lora_down|lora_up|lora\.down|lora\.up"
    r"|to_\w+_lora\.(down|up))\.weight$"
)


def recognize(header: WeightsHeader) -> WeightFormat:
    """Recognize the format of a file by its tensor names and shapes.

    Raises:
        Refused: The format is not supported; the error names the kind of file if it is known.
    """
    # First exclude files that would pass for a supported format.
    check_lookalikes(header)
    for layout, fits in _LAYOUTS.items():
        if fits(header.shapes):
            return layout
    check_unsupported(header)
    first = ", ".join(sorted(header.shapes)[:3])
    raise Refused(
        f"the format of {header.path} is unknown; its first tensors are {first}",
        f"known formats: {'; '.join(WeightFormat)}",
    )


def recognize_parts(header: WeightsHeader) -> list[tuple[WeightFormat, WeightsHeader]]:
    """Recognize the contents of a file: one format, or both networks saved as one module.

    A prefix that all names share ("module.", "model.", "state_dict.") is removed. The Flux port
    saves both networks in one file.

    Raises:
        Refused: The format is not supported.
    """
    # Wrappers may be nested; remove them one at a time.
    for _ in range(_MAX_WRAPPERS):
        if _holds_both(header.shapes):
            return [
                (WeightFormat.encoder, header.within("encoder.")),
                (WeightFormat.decoder, header.within("decoder.")),
            ]
        wrapper = next(
            (
                prefix
                for prefix in _WRAPPERS
                if all(name.startswith(prefix) for name in header.shapes)
            ),
            None,
        )
        if wrapper is None or _SINGLE_FILE.match(next(iter(header.shapes))):
            break
        header = header.within(wrapper)
    return [(recognize(header), header)]


_WRAPPERS = (
    "module.",
    "state_dict.",
    "model_state_dict.",
    "_orig_mod.",
    "ema_model.",
    "ema.",
    "network.",
    "model.",
)
_MAX_WRAPPERS = 4
_SINGLE_FILE = re.compile(r"model\.diffusion_model\.")


def _holds_both(shapes: Shapes) -> bool:
    return "decoder.latent_conv_in.weight" in shapes and any(
        name.startswith("encoder.blocks.") for name in shapes
    )


def sharing_frames(shapes: Shapes) -> tuple[int, bool]:
    """Return the layer count of an attention-sharing file, and whether it takes a given image."""
    numbered = [re.match(r"hookers\.layers\.0\.to_q_lora\.(\d+)\.", name) for name in shapes]
    frames = {int(found[1]) for found in numbered if found}
    controlled = any(
        name.startswith("kwargs_encoder.") or ".control_convs." in name for name in shapes
    )
    return len(frames), controlled


def _is_encoder(shapes: Shapes) -> bool:
    numbered = [re.fullmatch(r"blocks\.(\d+)\.(weight|bias)", name) for name in shapes]
    first = shapes.get("blocks.0.weight", (0, 4, 3, 3))
    return all(numbered) and len(first) == 4 and first[1] % 4 == 0


def _is_decoder(shapes: Shapes) -> bool:
    has_latent_input = any(name.startswith("latent_conv_in.") for name in shapes)
    rgb_to_rgba = (
        shapes.get("conv_in.weight", (0, 0))[1] == 3 and shapes.get("conv_out.weight", (0,))[0] == 4
    )
    return has_latent_input or (rgb_to_rgba and _in_unet(shapes))


def _is_patched(kind: str) -> Callable[[Shapes], bool]:
    return lambda shapes: all(f"::{kind}::" in name for name in shapes)


def _is_lora(shapes: Shapes) -> bool:
    matrices = [name for name in shapes if not name.endswith(".alpha")]
    return bool(matrices) and all(
        LORA_SUFFIX.search(name) and not name.startswith(_TEXT) for name in matrices
    )


def _is_unet(shapes: Shapes) -> bool:
    return _in_unet(shapes) and any(
        name.removeprefix("unet.").startswith("time_embedding.linear_1.") for name in shapes
    )


def _in_unet(shapes: Shapes) -> bool:
    return all(_UNET.match(name) for name in shapes)


_TEXT = ("text_encoder", "lora_te")
_UNET = re.compile(
    r"(unet\.)?(conv_in|conv_norm_out|conv_out|time_embedding|add_embedding"
    r"|down_blocks\.\d|mid_block|up_blocks\.\d)\."
    r"(?!.*motion_modules)"
)
# Tried in this order: the later tests are less specific.
_LAYOUTS: dict[WeightFormat, Callable[[Shapes], bool]] = {
    WeightFormat.encoder: _is_encoder,
    WeightFormat.decoder: _is_decoder,
    WeightFormat.patches: _is_patched("lora"),
    WeightFormat.differences: _is_patched("diff"),
    WeightFormat.sharing: lambda shapes: any(name.startswith("hookers.layers.") for name in shapes),
    WeightFormat.lora: _is_lora,
    WeightFormat.unet: _is_unet,
    WeightFormat.offsets: _in_unet,
}
