"""The pretrained models that transparency is taught to: one row each says how its parts are spoken to."""

from __future__ import annotations

from dataclasses import dataclass

from curation.errors import NotFound, Refused
from training.pretrained.loading import load_index


@dataclass(frozen=True)
class Family:
    """One architecture of diffusers: any model of it, the original or a fine-tuned one, loads by the same row."""

    name: str
    pipeline: str  # the diffusers class that draws an image from a text
    text_encoders: tuple[str, ...]  # the model's subfolders; each has its tokenizer beside it
    sizes: bool  # SDXL's conditioning on original size, crop and target size, and on pooled text
    denoiser: (
        str | None
    )  # the subfolder of the network we train; None where only latent transparency is trained


SD15 = Family(
    name="sd15",
    pipeline="StableDiffusionPipeline",
    text_encoders=("text_encoder",),
    sizes=False,
    denoiser="unet",
)

SD21 = Family(
    name="sd21",
    pipeline="StableDiffusionPipeline",
    text_encoders=("text_encoder",),
    sizes=False,
    denoiser="unet",
)

SDXL = Family(
    name="sdxl",
    pipeline="StableDiffusionXLPipeline",
    text_encoders=("text_encoder", "text_encoder_2"),
    sizes=True,
    denoiser="unet",
)

SD3 = Family(
    name="sd3",
    pipeline="StableDiffusion3Pipeline",
    text_encoders=(),
    sizes=False,
    denoiser=None,
)

FAMILIES: dict[str, Family] = {row.name: row for row in (SD15, SD21, SDXL, SD3)}


def find_family(name: str) -> Family:
    """The row of that name. Raises NotFound."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise NotFound(
            f"no family of models {name!r}", f"choose one of {', '.join(FAMILIES)}"
        ) from None


def check_family(model: str, family: Family) -> None:
    """Whether a model is of a family, by its text encoders. Raises Refused where it is not, NotFound."""
    has_two = "text_encoder_2" in load_index(model)
    if has_two != family.sizes:
        found = "of SDXL's kind" if has_two else "of one text encoder"
        raise Refused(
            f"{model} is a model {found}, not of the family {family.name}",
            "choose the preset of its family",
        )
