"""Image sizes in user input."""

from __future__ import annotations

import re

from curation.errors import Refused


def parse_size(text: str | None) -> tuple[tuple[int, int] | None, float | None]:
    """Parse "832x1216" into (width, height), or "2:3" into their ratio.

    Returns:
        The size or None, and the ratio or None.

    Raises:
        Refused: The text is neither.
    """
    if text is None:
        return None, None
    # Both x and the multiplication sign are accepted; ":" marks an aspect ratio.
    found = re.fullmatch(r"(\d{1,5})([x×:])(\d{1,5})", text.strip().lower())
    width, height = (int(found[1]), int(found[3])) if found else (0, 0)
    if found and found[2] == ":" and width and height:
        return None, width / height
    if found is None or min(width, height) < 8:
        raise Refused(
            f"invalid size {text!r}", "write pixels, like 832x1216, or an aspect, like 2:3"
        )
    return (width, height), None
