"""Outcome, findings and layers of one inspected file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from curation.domain import LayerRole
from curation.image_limits import DEFAULT_LIMITS, ImageLimits
from curation.images.headers import InvalidImage
from curation.ingest.archive_members import Member
from curation.ingest.parquet_rows import ParquetRow
from curation.ports import RGBA


class InspectionOutcome(StrEnum):
    """Outcome of a file, from best to worst; the worst of several findings decides."""

    accept = "accept"
    accept_strip = "accept_strip"  # invisible data was removed
    accept_warn = "accept_warn"  # a sample with warnings
    review = "review"  # stored, and queued for human review
    partial = "partial"  # an archive or manifest of which only the valid parts were imported
    duplicate = "duplicate"  # its layer is stored already
    reject = "reject"


FINDINGS: Final[dict[str, tuple[InspectionOutcome, str]]] = {
    "alpha_inverted": (
        InspectionOutcome.review,
        "the frame is opaque and the center is transparent: alpha may be inverted",
    ),
    "cut_at_border": (
        InspectionOutcome.review,
        "the subject touches the border: it may be cropped",
    ),
    "alpha_haze": (InspectionOutcome.review, "low alpha covers the background up to the border"),
    "alpha_noise": (InspectionOutcome.review, "alpha is noisy inside the subject"),
    "binary_alpha": (InspectionOutcome.accept_warn, "alpha is 0 or 255 everywhere: no soft edge"),
    "greyscale": (InspectionOutcome.accept_warn, "the file is grayscale"),
    "odd_colour_space": (
        InspectionOutcome.accept_warn,
        "its color space has no ICC profile (cICP, gAMA, CMYK): its sRGB colors are approximate",
    ),
    "bad_icc": (
        InspectionOutcome.accept_warn,
        "its color profile is broken or not for RGB, and was ignored",
    ),
    "colour_converted": (
        InspectionOutcome.accept_warn,
        "its colors were converted from their own profile to sRGB",
    ),
    "ios_png": (
        InspectionOutcome.accept_warn,
        "an iOS PNG (CgBI): its premultiplied colors were divided by alpha",
    ),
    "lossy_source": (InspectionOutcome.accept_warn, "its colors were compressed lossily"),
    "maybe_premultiplied": (
        InspectionOutcome.accept_warn,
        "colors seem to be premultiplied by alpha: dark fringes are likely",
    ),
    "matte_fringe": (
        InspectionOutcome.accept_warn,
        "edge colors are mixed with white: a light halo over dark backgrounds",
    ),
    "blend_inexact": (
        InspectionOutcome.accept_warn,
        "the blended image is not exactly foreground over background",
    ),
    "hidden_rgb": (InspectionOutcome.accept_strip, "colors under alpha 0 were removed"),
    "text_chunk_dropped": (InspectionOutcome.accept_strip, "text metadata was removed"),
    "trailing_data": (
        InspectionOutcome.accept_strip,
        "data after the end of the image was removed",
    ),
}
"""Findings in an accepted file, by code: the outcome and the sentence that users read."""


@dataclass(frozen=True)
class CompanionLayer:
    """Foreground or background of a pair: the encoded layer and the hash of its visible pixels."""

    layer: bytes = field(repr=False)
    visible: str


@dataclass(frozen=True)
class InspectionResult:
    """Result of inspecting one file, or the files of a pair.

    Attributes:
        name: The file.
        outcome: Whether it is accepted.
        codes: Codes of the findings, the deciding one first.
        sentence: The findings as text.
        layer: The encoded identifying layer: the foreground, or of a pair the blended image; None
            unless it is stored.
        width: Width in pixels.
        height: Height in pixels.
        visible: Hash of the identifying layer's visible pixels.
        fingerprint: Perceptual hash of the identifying layer.
        beside: The other layers of a pair.
    """

    name: str
    outcome: InspectionOutcome
    codes: tuple[str, ...] = ()
    sentence: str = ""
    layer: bytes | None = field(default=None, repr=False)
    width: int = 0
    height: int = 0
    visible: str = ""
    fingerprint: bytes = field(default=b"", repr=False)
    beside: Mapping[LayerRole, CompanionLayer] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The code that decided the outcome; "" if there are no findings."""
        return self.codes[0] if self.codes else ""


@dataclass(frozen=True)
class InspectedFile:
    """Findings of one file, and its clean pixels: one layer, three of a pair, none if refused."""

    outcome: InspectionOutcome
    codes: tuple[str, ...] = ()
    sentence: str = ""
    layers: Mapping[LayerRole, RGBA] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ImportItem:
    """One item to inspect: a file, the files of a pair, or a member of an archive.

    Attributes:
        name: Name in the import: of an archive's member, with the archive's name before it.
        files: Names in the folder: one, or foreground, background and optionally blended image.
        stamp: Sizes and modification times of the files.
        position: Number of files of the listing up to its last one.
        member: The archive member, or the foreground of a pair in an archive.
        others: Background and optionally blended image of a pair in an archive.
        known: The outcome, if it is known without inspection.
        row: The row of a Parquet file.
    """

    name: str
    files: tuple[str, ...]
    stamp: str
    position: int
    member: Member | None = None
    others: tuple[Member, ...] = ()
    known: InspectionResult | None = None
    row: ParquetRow | None = None


@dataclass(frozen=True)
class LoadedItem:
    """An item with the bytes of its files, as sent to a confined process."""

    item: ImportItem
    parts: tuple[bytes, ...] = field(default=(), repr=False)
    limits: ImageLimits = DEFAULT_LIMITS


def refused_result(name: str, bad: InvalidImage) -> InspectionResult:
    """Return the outcome of a refused file."""
    return InspectionResult(name, InspectionOutcome.reject, (bad.code,), bad.sentence)
