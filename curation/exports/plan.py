"""The files of a pull, planned before anything is fetched: paths, and keys of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from curation.domain import LayerRole
from curation.errors import Refused
from curation.exports.rendering import Treatment, render_mask
from curation.exports.selection import Selectable, SelectedSample

SPLIT_FOLDERS = {"train": "train", "heldout": "validation"}
"""The folder of each split, by names that readers of folders recognize."""


@dataclass(frozen=True)
class PlannedFile:
    """A file to write: one layer as an image or mask, or a text that is known already.

    Attributes:
        path: Path inside the pulled folder, with slashes.
        sample: Id of the sample, or "" for a file about all samples.
        layer: sha256 of the layer to fetch; "" for a text.
        treatment: How the layer becomes an image; None for a mask.
        text: The content of a text file.
    """

    path: str
    sample: str
    layer: str = ""
    treatment: Treatment | None = None
    text: bytes = b""

    @property
    def key(self) -> str:
        """A name of the content that is known before it is fetched."""
        if not self.layer:
            return f"text {hashlib.sha256(self.text).hexdigest()}"
        return f"{self.treatment.key if self.treatment else 'mask'} {self.layer}"

    def content(self, get: Callable[[str], bytes]) -> bytes:
        """Return the bytes of the file.

        Args:
            get: Function that returns an object of the store by its sha256.

        Raises:
            NotFound: The layer is not in the store.
            Corrupt: The layer cannot be read.
        """
        if not self.layer:
            return self.text
        stored = get(self.layer)
        return self.treatment.render(stored) if self.treatment else render_mask(stored)


@dataclass(frozen=True)
class PullOptions:
    """The options of a pull, besides what is selected.

    Attributes:
        treatment: The treatment of alpha, and the file type.
        roles: The layers of each sample.
        folder: The folder that is written, for configuration files with absolute paths.
        shard_bytes: Size from which a shard is closed.
    """

    treatment: Treatment
    roles: tuple[LayerRole, ...]
    folder: Path
    shard_bytes: int = 256 << 20


class Layout(Protocol):
    """A layout of files, as one program reads them."""

    def files(
        self, selected: Sequence[SelectedSample], options: PullOptions
    ) -> Iterable[PlannedFile]:
        """Yield the files of all samples, and the files about them."""


def image_files(
    base: str, item: SelectedSample, options: PullOptions, roles: Sequence[LayerRole] | None = None
) -> Iterator[PlannedFile]:
    """Yield the image of each role that a sample has: `base.png`, `base.background.png` and so on.

    Args:
        base: Path without its ending.
        item: The sample, with its weight.
        options: Options of the pull.
        roles: The layers; by default those of the options.
    """
    ending = options.treatment.image_type
    for role in present_roles(item.sample, options.roles if roles is None else roles):
        suffix = "" if role is first_role(item.sample, options.roles) else f".{role}"
        path = f"{base}{suffix}.{ending}"
        yield PlannedFile(path, item.sample.id, item.sample.layers[role], options.treatment)


def first_role(sample: Selectable, roles: Sequence[LayerRole]) -> LayerRole:
    """Return the layer that represents a sample: the first of the wanted ones that it has."""
    present = present_roles(sample, roles)
    return present[0] if present else LayerRole.foreground


def present_roles(sample: Selectable, roles: Sequence[LayerRole]) -> list[LayerRole]:
    """Return the wanted layers that a sample has, in the order of the wish."""
    return [role for role in roles if role in sample.layers]


def caption_of(sample: Selectable, roles: Sequence[LayerRole]) -> str:
    """Return the caption of the layer that represents a sample."""
    return sample.caption_for(first_role(sample, roles))


def columns_of(item: SelectedSample, options: PullOptions) -> dict[str, Any]:
    """Return the columns of a sample's row, for layouts with metadata."""
    sample = item.sample
    return {
        "text": caption_of(sample, options.roles),
        "sample_id": sample.id,
        "kind": str(sample.kind),
        "licence": sample.licence,
        "source": sample.source,
        "round": sample.round,
        "weight": item.weight,
    }


def require(condition: bool, layout: str, wish: str, hint: str) -> None:
    """Raise Refused unless a layout supports a wish.

    Args:
        condition: Whether it does.
        layout: Name of the layout.
        wish: The request.
        hint: How to resolve it.

    Raises:
        Refused: It does not.
    """
    if not condition:
        raise Refused(f"--format {layout} does not support {wish}", hint)
