"""A captioner behind the real door, without weights: it says how bright a picture is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from curation.errors import NotFound


class Talker:
    """A Captioner; `before` is called ahead of every batch, for tests in which something happens meanwhile."""

    source = "talker@1"

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def caption(self, images: Sequence[NDArray[np.uint8]], prompt: str, tokens: int) -> list[str]:
        """Return the prompt's first word, the sum of all values and the size, with blanks and bytes that need cleaning."""
        self.batches.append(len(images))
        self.before()
        return [
            f" {prompt.split()[0]}\n of {pixels.astype(int).sum()} {pixels.shape} in {tokens}\0"
            for pixels in images
        ]


TALKERS: dict[str, Talker] = {}
"""Those that tests have made, by the model they stand for."""


def open_talker(model: str) -> Talker:
    """Return an OpenCaptioner. Raises NotFound for a model that no test has made."""
    try:
        return TALKERS[model]
    except KeyError:
        raise NotFound(f"there is no folder {model}", "make a talker first") from None
