"""Numbers of a preset that are set otherwise: read from their text by the type of their column."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from curation.errors import NotFound, Refused
from training.presets.preset import Preset

LAYER_ROLES = (("foreground", "background"), ("foreground", "background", "blended"))
"""What may be learnt to be drawn together."""

_RANGES = {"ge": "{} at least", "gt": "more than {}", "le": "{} at most", "lt": "less than {}"}


def check_row(row: Preset) -> Preset:
    """Return the row if every number is in the range of its column and all fit together.

    Raises:
        NotFound: A column holds a word that it does not know.
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
            f"the layers {','.join(row.layer_roles)} are not drawn together",
            f"--set layer_roles={hint}",
        )
    _check_prediction(row)
    _check_sizes(row)
    return row


def _check_prediction(row: Preset) -> None:
    if row.family is None and row.prediction == "model":
        raise Refused(
            "a denoiser of our own predicts what is said, not what a model does",
            "--set prediction=epsilon",
        )
    if row.prediction == "epsilon" and row.zero_terminal_snr:
        hint = "--set prediction=v_prediction, or --set zero_terminal_snr=false"
        raise Refused(
            "noise cannot be predicted where there is nothing but noise (zero terminal SNR)", hint
        )
    if row.snr_gamma and row.zero_terminal_snr:
        # min(snr, gamma) / (snr + 1) is 0 where snr is 0: the level that sampling begins at would never be trained.
        hint = "--set snr_gamma=0, or --set zero_terminal_snr=false"
        raise Refused(
            "min-SNR weighting gives the last noise level of a zero terminal SNR schedule no weight",
            hint,
        )


def _check_sizes(row: Preset) -> None:
    """Check the numbers that the shapes of the networks are computed from."""
    levels = row.fold * 2 ** (len(row.encoder_widths) - 1)
    if levels != row.stride:
        hint = f"fold x 2^(widths - 1) is {levels} for these encoder_widths"
        raise Refused(
            f"the encoder ends at 1/{levels} of the image, the latent is 1/{row.stride}", hint
        )
    deepest = row.fold * 2 ** (len(row.decoder_widths) - 1)
    if deepest < row.stride:
        raise Refused(f"the decoder ends at 1/{deepest} of the image, before the latent (1/{row.stride})",
                      "give decoder_widths more levels")  # fmt: skip
    step = max(row.stride, deepest) * (
        row.dit_patch if row.family is None and row.denoiser == "transformer" else 1
    )
    sides = {"image_size": row.image_size} | (
        {"bucket_step": row.bucket_step} if row.buckets else {}
    )
    for column, side in sides.items():
        if side % (row.stride if column == "bucket_step" else step):
            near = max(1, side // step) * step
            raise Refused(
                f"{column} cannot be {side}",
                f"it is a multiple of {step}, such as {near} or {near + step}",
            )
    uneven = [width for width in row.decoder_widths if width % row.decoder_groups]
    if uneven:
        raise Refused(
            f"decoder_widths cannot hold {uneven[0]}",
            f"multiples of decoder_groups={row.decoder_groups}",
        )
    if len(row.unet_channels) != len(row.unet_attention):
        raise Refused("unet_channels and unet_attention are lists of one length", "set both")
    if row.text_width % max(1, row.text_width // 64):
        raise Refused(
            f"text_width cannot be {row.text_width}", "it is a multiple of 64, or less than 128"
        )
    groups = min(
        32, row.unet_channels[0] // 4
    )  # of diffusers' UNet2DConditionModel, as unet_config gives them
    if not groups or any(channels % groups for channels in row.unet_channels):
        raise Refused(f"unet_channels cannot be {','.join(map(str, row.unet_channels))}",
                      f"multiples of {max(groups, 4)}")  # fmt: skip
    if row.family is None and row.denoiser == "transformer" and row.dit_width % 32:
        raise Refused(
            f"dit_width cannot be {row.dit_width}", "it is a multiple of 32, the width of a head"
        )
    if row.model is None and row.latent_channels > 3 * row.stride**2:
        raise Refused(f"latent_channels cannot be {row.latent_channels}",
                      f"a linear autoencoder of patches has {3 * row.stride**2} at most")  # fmt: skip


@cache
def _columns() -> dict[str, TypeAdapter[Any]]:
    """The validator of each column, by its annotated type in training.presets.preset."""
    return {
        column: TypeAdapter(kind)
        for column, kind in get_type_hints(Preset, include_extras=True).items()
    }


def _explain(column: str, value: Any, error: ValidationError) -> NotFound | Refused:
    """Say which range a value leaves, in one sentence."""
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    first = error.errors()[0]
    limits = first.get("ctx", {})
    if first["type"] == "literal_error":
        return NotFound(f"no {column} {shown!r}", f"choose one of {_choices(column)}")
    said = [words.format(limits[name]) for name, words in _RANGES.items() if name in limits]
    return Refused(
        f"{column} cannot be {shown}", f"it is {said[0]}" if said else "it is a finite number"
    )


def _choices(column: str) -> str:
    """The words of a column whose type is a Literal, alone or beside None."""
    kind = get_type_hints(Preset)[column]
    options = get_args(kind) if get_origin(kind) in {UnionType, Union} else (kind,)
    return ", ".join(
        str(word)
        for option in options
        if get_origin(option) is Literal
        for word in get_args(option)
    )


def read_number(column: str, text: str, wanted: Any) -> Any:
    """A column's value from its text; several values stand with commas between them, none is "" or "none".

    wanted: the column's type. Raises Refused where the text is not written like one.
    """
    if get_origin(wanted) in {UnionType, Union}:
        if text in {"", "none"}:
            return None
        wanted = get_args(wanted)[0]
    if get_origin(wanted) is Literal:
        wanted = type(get_args(wanted)[0])
    try:
        if get_origin(wanted) is tuple:
            return tuple(read_number(column, part, get_args(wanted)[0]) for part in text.split(","))
        if wanted is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        return wanted(text)
    except (ValueError, KeyError):
        name = getattr(wanted, "__name__", str(wanted))
        raise Refused(f"{column} cannot be {text!r}", f"it is written like {name}") from None
