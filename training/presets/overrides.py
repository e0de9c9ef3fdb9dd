"""Overrides of a preset's columns: parsed by the column's type, and checked."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from curation.errors import NotFound, Refused
from training.presets.preset import Preset

LAYER_ROLES = (("foreground", "background"), ("foreground", "background", "blended"))
"""The sets of layers that can be generated together."""

_RANGES = {
    "ge": "at least {}",
    "gt": "more than {}",
    "le": "at most {}",
    "lt": "less than {}",
}


def check_preset(row: Preset) -> Preset:
    """Return the row after checking the range of every column and their combination.

    Raises:
        NotFound: A column has an unknown option.
        Refused: A number is out of its range, or two columns contradict each other.
    """
    for column, adapter in _columns().items():
        try:
            adapter.validate_python(getattr(row, column))
        except ValidationError as error:
            raise _explain(column, getattr(row, column), error) from None
    if row.layer_roles not in LAYER_ROLES:
        hint = "; or ".join(",".join(roles) for roles in LAYER_ROLES)
        raise Refused(
            f"the layers {','.join(row.layer_roles)} cannot be generated together",
            f"--set layer_roles={hint}",
        )
    _check_prediction(row)
    _check_sizes(row)
    return row


def _check_prediction(row: Preset) -> None:
    """Check prediction type, noise schedule and loss weighting."""
    if row.family is None and row.prediction == "model":
        raise Refused(
            "prediction=model needs a pretrained model",
            "--set prediction=epsilon",
        )
    if row.prediction == "epsilon" and row.zero_terminal_snr:
        hint = "--set prediction=v_prediction, or --set zero_terminal_snr=false"
        raise Refused(
            "epsilon prediction is undefined at zero terminal SNR, where the input is pure noise",
            hint,
        )
    if row.snr_gamma and row.zero_terminal_snr:
        # min(snr, gamma) / (snr + 1) is 0 where snr is 0: the first level of sampling would never
        # be trained.
        hint = "--set snr_gamma=0, or --set zero_terminal_snr=false"
        raise Refused(
            "min-SNR weighting gives no weight to the last noise level at zero terminal SNR",
            hint,
        )


def _check_sizes(row: Preset) -> None:
    """Check the columns that define the networks' shapes."""
    # The encoder must end at the latent's resolution, the decoder must reach it.
    levels = row.fold * 2 ** (len(row.encoder_widths) - 1)
    if levels != row.stride:
        hint = f"fold x 2^(widths - 1) is {levels} for these encoder_widths"
        raise Refused(
            f"the encoder ends at 1/{levels} of the image size, the latent at 1/{row.stride}", hint
        )
    deepest = row.fold * 2 ** (len(row.decoder_widths) - 1)
    if deepest < row.stride:
        raise Refused(f"the decoder ends at 1/{deepest} of the image size, before the latent "
                      f"(1/{row.stride})",
                      "give decoder_widths more levels")  # fmt: skip
    # Image sizes must divide evenly down to the coarsest level.
    step = max(row.stride, deepest) * (
        row.dit_patch if row.family is None and row.denoiser == "transformer" else 1
    )
    sides = {"image_size": row.image_size} | (
        {"bucket_step": row.bucket_step} if row.buckets else {}
    )
    for column, side in sides.items():
        if side % (row.stride if column == "bucket_step" else step):
            multiple = max(1, side // step) * step
            raise Refused(
                f"invalid {column} {side}",
                f"use a multiple of {step}, such as {multiple} or {multiple + step}",
            )
    # Normalization groups and attention heads must divide the widths.
    uneven = [width for width in row.decoder_widths if width % row.decoder_groups]
    if uneven:
        raise Refused(
            f"invalid width {uneven[0]} in decoder_widths",
            f"use multiples of decoder_groups={row.decoder_groups}",
        )
    if len(row.unet_channels) != len(row.unet_attention):
        raise Refused("unet_channels and unet_attention must have the same length", "set both")
    if row.text_width % max(1, row.text_width // 64):
        raise Refused(
            f"invalid text_width {row.text_width}", "use a multiple of 64, or less than 128"
        )
    # The groups of diffusers' UNet2DConditionModel, as unet_config sets them.
    groups = min(32, row.unet_channels[0] // 4)
    if not groups or any(channels % groups for channels in row.unet_channels):
        raise Refused(f"invalid unet_channels {','.join(map(str, row.unet_channels))}",
                      f"use multiples of {max(groups, 4)}")  # fmt: skip
    if row.family is None and row.denoiser == "transformer" and row.dit_width % 32:
        raise Refused(
            f"invalid dit_width {row.dit_width}", "use a multiple of 32, the width of a head"
        )
    if row.model is None and row.latent_channels > 3 * row.stride**2:
        max_channels = 3 * row.stride**2
        raise Refused(f"invalid latent_channels {row.latent_channels}",
                      f"a linear autoencoder of patches has at most {max_channels}")  # fmt: skip


@cache
def _columns() -> dict[str, TypeAdapter[Any]]:
    """Return the validator of each column, by its annotated type in training.presets.preset."""
    return {
        column: TypeAdapter(kind)
        for column, kind in get_type_hints(Preset, include_extras=True).items()
    }


def _explain(column: str, value: Any, error: ValidationError) -> NotFound | Refused:
    """Convert a validation error to an error that names the allowed range."""
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    first = error.errors()[0]
    limits = first.get("ctx", {})
    if first["type"] == "literal_error":
        return NotFound(f"no {column} {shown!r}", f"choose one of {_choices(column)}")
    ranges = [text.format(limits[name]) for name, text in _RANGES.items() if name in limits]
    return Refused(
        f"invalid {column} {shown}", f"use {ranges[0]}" if ranges else "use a finite number"
    )


def _choices(column: str) -> str:
    """Return the options of a Literal column, optional or not."""
    kind = get_type_hints(Preset)[column]
    options = get_args(kind) if get_origin(kind) in {UnionType, Union} else (kind,)
    return ", ".join(
        str(choice)
        for option in options
        if get_origin(option) is Literal
        for choice in get_args(option)
    )


def parse_value(column: str, text: str, column_type: Any) -> Any:
    """Parse a column's value from text.

    A tuple is written with commas, None as "" or "none".

    Args:
        column: The column's name, for errors.
        text: The value as text.
        column_type: The column's type.

    Raises:
        NotFound: The text is none of the options.
        Refused: The text does not have the column's type.
    """
    if get_origin(column_type) in {UnionType, Union}:
        if text in {"", "none"}:
            return None
        column_type = get_args(column_type)[0]
    if get_origin(column_type) is Literal:
        column_type = type(get_args(column_type)[0])
    try:
        if get_origin(column_type) is tuple:
            return tuple(
                parse_value(column, part, get_args(column_type)[0]) for part in text.split(",")
            )
        if column_type is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        return column_type(text)
    except (ValueError, KeyError):
        if isinstance(column_type, type) and issubclass(column_type, StrEnum):
            raise NotFound(
                f"no {column} {text!r}", f"choose one of {', '.join(column_type)}"
            ) from None
        name = getattr(column_type, "__name__", str(column_type))
        raise Refused(f"invalid {column} {text!r}", f"expected type: {name}") from None
