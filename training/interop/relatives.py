"""Known files that users mistake for weights of latent transparency, with a hint for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from curation.errors import Refused
from training.external_weights import WeightsHeader

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UnsupportedKind:
    """A kind of file: a test on one tensor's name or on all shapes, a description, and a hint."""

    test: str | Callable[[Shapes], bool]
    description: str
    hint: str

    def is_it(self, shapes: Shapes) -> bool:
        """Return whether a file with these tensors is of this kind."""
        if callable(self.test):
            return self.test(shapes)
        pattern = re.compile(self.test)
        return any(pattern.search(name) for name in shapes)


def check_lookalikes(header: WeightsHeader) -> None:
    """Refuse files that would pass for a supported format. Raises Refused."""
    _check(header, LOOKALIKES)


def check_unsupported(header: WeightsHeader) -> None:
    """Refuse known files that fit no supported format. Raises Refused."""
    _check(header, UNSUPPORTED)


def _check(header: WeightsHeader, known: tuple[UnsupportedKind, ...]) -> None:
    for kind in known:
        if kind.is_it(header.shapes):
            raise Refused(
                f"{header.path} is {kind.description}, not weights of latent transparency",
                kind.hint,
            )


def _first_channels(shapes: Shapes, *names: str) -> int | None:
    """Return the input channels of the first convolution among the names, or None."""
    return next((shapes[name][1] for name in names if len(shapes.get(name, ())) >= 4), None)


def _is_rgba_autoencoder(shapes: Shapes) -> bool:
    return (
        _first_channels(shapes, "encoder.conv_in.weight") == 4
        and "decoder.conv_in.weight" in shapes
    )


def _is_video_autoencoder(shapes: Shapes) -> bool:
    both = any(name.startswith("encoder.") for name in shapes) or any(
        name.startswith("decoder.") for name in shapes
    )
    return both and any(len(shape) == 5 for shape in shapes.values())


def _is_layered_autoencoder(shapes: Shapes) -> bool:
    names = ("encoder.conv_in.weight", "encoder.conv1.weight")
    return _is_video_autoencoder(shapes) and _first_channels(shapes, *names) == 4


def _is_embedding(shapes: Shapes) -> bool:
    flat = len(shapes) <= 4 and all(
        len(shape) in {1, 2} and shape[-1] in _WORD_WIDTHS for shape in shapes.values()
    )
    return flat and not any("lora" in name or "::" in name for name in shapes)


def _is_lora_with_text(shapes: Shapes) -> bool:
    text = any(_TEXT.match(name) for name in shapes)
    return text and any("lora" in name and not _TEXT.match(name) for name in shapes)


def is_text_encoder_key(name: str) -> bool:
    """Return whether a LoRA tensor belongs to a text encoder."""
    return _TEXT.match(name) is not None


_TEXT = re.compile(r"^(base_model\.model\.)?(text_encoder|lora_te)")
_WORD_WIDTHS = {768, 1024, 1280, 4096}
_TRANSFORMER = (
    r"(single_transformer_blocks|transformer_blocks|double_blocks|single_blocks"
    r"|joint_blocks|blocks)"
    r"[._]\d"
)

# Files that pass for a supported format are checked first; UNSUPPORTED come after all formats.
LOOKALIKES: tuple[UnsupportedKind, ...] = (
    UnsupportedKind(
        r"^(base_model\.model\.)?(transformer\.|diffusion_model\.|lora_unet_|lora_transformer_)"
        rf"{_TRANSFORMER}.*lora",
        "a LoRA of a diffusion transformer (Flux, SD 3, Qwen-Image, Wan), such as the Flux port's "
        "layerlora",
        "bases are supported for sd15, sd21 and sdxl; of the Flux port only the two networks are "
        "supported, with --preset sd3",
    ),
    UnsupportedKind(
        _is_lora_with_text,
        "a LoRA of UNet and text encoder, usually of a style",
        "generate with it: layerloop generate --lora FILE, or round open --lora FILE; LoRAs of "
        "transparency are for the UNet alone",
    ),
    UnsupportedKind(
        r"^(controlnet_|control_model\.|input_hint_block\.|lora_controlnet)",
        "a ControlNet",
        "it is an input of generation and is not imported",
    ),
)

UNSUPPORTED: tuple[UnsupportedKind, ...] = (
    UnsupportedKind(
        r"^model\.diffusion_model\.",
        "a whole Stable Diffusion checkpoint",
        "convert it with diffusers (from_single_file, then save_pretrained), and give the folder: "
        "--set model=FOLDER",
    ),
    UnsupportedKind(
        _is_layered_autoencoder,
        "the RGBA autoencoder of Qwen-Image-Layered or a similar model",
        "it has alpha in its own channels, and neither an offset encoder nor an alpha decoder",
    ),
    UnsupportedKind(
        _is_video_autoencoder,
        "an autoencoder of video models (Wan, Wan-Alpha, Qwen-Image)",
        "give the offset encoder and the alpha decoder of LayerDiffuse",
    ),
    UnsupportedKind(
        _is_rgba_autoencoder,
        "an autoencoder of four channels (AlphaVAE)",
        "it has alpha in its own channel; LayerDiffuse's offset encoder and alpha decoder are two "
        "other networks",
    ),
    UnsupportedKind(
        r"^((encoder|decoder)\.layers\.\d|taesd|\d+\.conv\.\d)",
        "a tiny autoencoder (TAESD)",
        "it is for previews; the model has its own autoencoder",
    ),
    UnsupportedKind(
        r"^(first_stage_model|encoder\.(down_blocks|conv_in|down)"
        r"|decoder\.(up_blocks|conv_in|up))\.",
        "an image autoencoder (VAE)",
        "the model has its own; give the offset encoder and the alpha decoder",
    ),
    UnsupportedKind(
        r"^adapter\.(body|conv_in)\.",
        "a T2I-Adapter",
        "it is an input of generation and is not imported",
    ),
    UnsupportedKind(
        r"^(image_proj|ip_adapter)\.",
        "an IP-Adapter",
        "it is an input of generation and is not imported",
    ),
    UnsupportedKind(
        r"^(emb_params|string_to_param|clip_[lg])|^<.*>$",
        "a textual inversion (an embedding of a word)",
        "load it into a pipeline: pipe.load_textual_inversion(FILE)",
    ),
    UnsupportedKind(
        r"^(text_model\.|cond_stage_model\.|conditioner\.|text_encoder|lora_te)",
        "weights of a text encoder",
        "only the UNet is fine-tuned for transparency; leave the text encoder out",
    ),
    UnsupportedKind(
        r"^(vision_model|visual)\.",
        "weights of an image encoder (CLIP)",
        "give the weights of transparency",
    ),
    UnsupportedKind(r"motion_modules\.", "a motion module", "video is not supported"),
    UnsupportedKind(
        r"^(conv_first\.|model\.0\.weight|body\.\d+\.rdb)",
        "an upscaler",
        "give the weights of transparency",
    ),
    UnsupportedKind(
        rf"^(transformer\.)?{_TRANSFORMER}|^(model\.)?(transformer|img_in|x_embedder)\.",
        "weights of a diffusion transformer",
        "only UNets of Stable Diffusion are supported",
    ),
    UnsupportedKind(
        r"hada_|lokr_|[.]b?oft_|dora_scale|lora_magnitude_vector|ia3_|lora_mid|diff_b|set_weight",
        "an adapter other than a LoRA (DoRA, LoHa, LoKr or similar)",
        "merge it into its model, and import the UNet",
    ),
    UnsupportedKind(
        r"::",
        "a file of mixed patches",
        "a file must have one kind of patch: all ::lora:: or all ::diff::",
    ),
    UnsupportedKind(
        _is_embedding,
        "a textual inversion (an embedding of a word)",
        "load it into a pipeline: pipe.load_textual_inversion(FILE)",
    ),
)
