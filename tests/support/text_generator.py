"""A captioner without weights, which describes the brightness of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from curation.errors import NotFound


class BrightnessCaptioner:
    """A Captioner; `before` is called before every batch, for tests of concurrent changes."""

    source = "brightness@1"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def caption(self, images: Sequence[NDArray[np.uint8]], prompt: str, tokens: int) -> list[str]:
        """Return the prompt's first word, the sum of all values and the size, to be cleaned."""
        self.batches.append(len(images))
        self.before()
        return [
            f" {prompt.split()[0]}\n of {pixels.astype(int).sum()} {pixels.shape} in {tokens}\0"
            for pixels in images
        ]


CAPTIONERS: dict[str, BrightnessCaptioner] = {}
"""The captioners that tests have made, by model."""


def open_brightness_captioner(model: str) -> BrightnessCaptioner:
    """Return a captioner for LAYERLOOP_CAPTIONER. Raises NotFound for an unknown model."""
    try:
        return CAPTIONERS[model]
    except KeyError:
        raise NotFound(f"there is no folder {model}", "make a captioner first") from None
