"""Families of pretrained models: one row each describes the components to load."""

from __future__ import annotations

from dataclasses import dataclass

from curation.errors import NotFound, Refused
from training.pretrained.loading import load_index


@dataclass(frozen=True)
class Family:
    """An architecture of diffusers; original and fine-tuned models load by the same row."""

    name: str
    pipeline: str  # the diffusers text-to-image pipeline class
    text_encoders: tuple[str, ...]  # subfolders; each has its tokenizer beside it
    sizes: bool  # SDXL's conditioning on original size, crop, target size and pooled text
    # Subfolder of the network to train; None where only latent transparency is supported.
    denoiser: str | None


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
    """Return a family by name. Raises NotFound."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise NotFound(
            f"unknown model family {name!r}", f"choose one of {', '.join(FAMILIES)}"
        ) from None


def check_family(model: str, family: Family) -> None:
    """Check by its text encoders that a model belongs to a family.

    Raises:
        NotFound: The model does not exist.
        Refused: The model is of another family.
    """
    has_two = "text_encoder_2" in load_index(model)
    if has_two != family.sizes:
        found = "two text encoders (SDXL)" if has_two else "one text encoder"
        raise Refused(
            f"{model} has {found} and is not of the family {family.name}",
            "choose the preset of its family",
        )
