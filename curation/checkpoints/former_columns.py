"""Former names of preset columns, which stored checkpoints and weights files keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from curation.errors import NotFound

FORMER_COLUMNS = {
    "average_apart": "ema_on_cpu",
    "compiled": "torch_compile",
    "join_text": "joint_text_attention",
    "known_share": "given_layer_prob",
    "new_weight": "new_sample_weight",
    "optimiser": "optimizer",
    "save_images": "checkpoint_every_images",
    "sharded": "fsdp",
    "sheet_images": "sample_every_images",
    "single_share": "foreground_only_prob",
}
"""Present names of renamed columns. Stored checkpoints and weights keep the former names, since a
checkpoint's id covers its overrides; `present_columns` maps them where they are read."""


def present_columns(
    stored: Mapping[str, Any], inherited: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return overrides by the present names of their columns.

    An override by the present name takes precedence over one by the former name.

    Args:
        stored: Values by column, as a checkpoint or a weights file stores them.
        inherited: The overrides of a parent; if given, only a former name whose value is the
            parent's is mapped, so that the others are rejected.
    """
    found: dict[str, Any] = {}
    for column, value in stored.items():
        if inherited is not None and inherited.get(column) != value:
            continue
        if column in FORMER_COLUMNS:
            found[FORMER_COLUMNS[column]] = value
    mapped = {column for column, present in FORMER_COLUMNS.items() if present in found}
    return found | {column: value for column, value in stored.items() if column not in mapped}


def check_column_names(overrides: Iterable[str]) -> None:
    """Refuse overrides by former column names, which only stored checkpoints may have.

    Args:
        overrides: The columns that a user named.

    Raises:
        NotFound: A column was renamed.
    """
    for column in overrides:
        if column in FORMER_COLUMNS:
            raise NotFound(
                f"a preset has no column {column!r}", f"it is named {FORMER_COLUMNS[column]!r} now"
            )
