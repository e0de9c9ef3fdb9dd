"""Numbers of a preset that are set otherwise: read from their text by the type of their column."""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_origin

from curation.errors import NotFound, Refused
from training.presets.preset import Preset

AT_LEAST_ONE = (
    *("image_size", "stride", "latent_channels", "fold", "bucket_step", "workers", "accumulation", "processes"),
    *("transparency_batch", "base_batch", "transparency_images", "base_images", "draw_steps", "draw_batch"),
    *("layer_rank", "layers_images", "layers_batch", "save_images", "sheet_images"),
)
WORDS: dict[str, tuple[str, ...]] = {
    "networks": ("light", "heavy"),
    "denoiser": ("transformer", "unet"),
    "cache_precision": ("fp32", "fp16"),
    "error": ("square", "charbonnier", "decibel"),
    "blend_background": ("natural", "solid"),
    "layer_modules": ("attention", "all"),
    "prediction": ("epsilon", "v_prediction", "model"),
}
"""The columns that hold one of some words; precisions and optimisers are told by those who make them."""

LAYER_ROLES = (("foreground", "background"), ("foreground", "background", "blended"))
"""What may be learnt to be drawn together."""


def check_row(row: Preset) -> Preset:
    """The row, if its numbers can be together. Raises NotFound for an unknown word, Refused for the rest."""
    for column, known in WORDS.items():
        if getattr(row, column) not in known:
            raise NotFound(f"no {column} {getattr(row, column)!r}", f"choose one of {', '.join(known)}")
    for column in AT_LEAST_ONE:
        if getattr(row, column) < 1:
            raise Refused(f"{column} cannot be {getattr(row, column)}", "it is 1 at least")
    for column in ("known_share", "single_share"):
        if not 0 <= getattr(row, column) < 1:
            raise Refused(f"{column} cannot be {getattr(row, column)}", "it is a share: from 0 to less than 1")
    if row.layer_roles not in LAYER_ROLES:
        hint = "; or ".join(",".join(roles) for roles in LAYER_ROLES)
        raise Refused(f"the layers {','.join(row.layer_roles)} are not drawn together", f"--set layer_roles={hint}")
    if row.erosion < 0:
        raise Refused(f"erosion cannot be {row.erosion:g}", "it is 0 or more")
    if row.family is None and row.prediction == "model":
        raise Refused("a denoiser of our own predicts what is said, not what a model does", "--set prediction=epsilon")
    if row.prediction == "epsilon" and row.zero_terminal_snr:
        hint = "--set prediction=v_prediction, or --set zero_terminal_snr=false"
        raise Refused("noise cannot be predicted where there is nothing but noise (zero terminal SNR)", hint)
    return row


def read_number(column: str, text: str, wanted: Any) -> Any:
    """A column's value from its text; several values stand with commas between them, none is "" or "none".

    wanted: the column's type. Raises Refused where the text is not written like one.
    """
    if get_origin(wanted) is UnionType:
        if text in {"", "none"}:
            return None
        wanted = get_args(wanted)[0]
    try:
        if get_origin(wanted) is tuple:
            return tuple(read_number(column, part, get_args(wanted)[0]) for part in text.split(","))
        if wanted is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        return wanted(text)
    except (ValueError, KeyError):
        raise Refused(f"{column} cannot be {text!r}", f"it is written like {wanted.__name__}") from None
