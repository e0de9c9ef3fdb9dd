"""Check the built documentation: pages load nothing from other servers, and images are small."""

from __future__ import annotations

import re
import sys
from pathlib import Path

MAX_IMAGE_BYTES = 250_000
"""Bytes of an image taken by `make screenshots`."""
LOADS = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]+\"|<link\b[^>]*>"
)
STYLES = re.compile(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//")


def problems(site: Path) -> list[str]:
    """Return the problems, one line each."""
    found = []
    for page in site.rglob("*.html"):
        tags = LOADS.findall(page.read_text("utf-8"))
        foreign = [
            tag
            for tag in tags
            if not tag.startswith("<link") or re.search(r"href=\"(?:https?:)?//", tag)
        ]
        found += [f"{page.relative_to(site)} loads from another server: {tag}" for tag in foreign]
    styles = [style for style in site.rglob("*.css") if STYLES.search(style.read_text("utf-8"))]
    found += [f"{style.relative_to(site)} loads from another server" for style in styles]
    for image in (site / "images").glob("*.png"):
        if image.stat().st_size > MAX_IMAGE_BYTES and image.name not in {
            "negative_controls.png",
            "offset_ablation.png",
        }:
            found.append(
                f"images/{image.name} has {image.stat().st_size} bytes, more than {MAX_IMAGE_BYTES}"
            )
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or "the documentation is built: site/index.html")
    sys.exit(bool(wrong))
