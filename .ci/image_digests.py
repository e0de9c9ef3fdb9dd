"""Pin the images of docker/ to the digests that their registry shows now; `make image-digests`.

It needs docker with buildx and the network. Tags stay beside the digests, for people.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = (ROOT / "docker" / "compose.yaml", ROOT / "docker" / "Dockerfile")
IMAGE = re.compile(
    r"(?P<before>^\s*image: |^ARG PYTHON=)(?P<name>[\w./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?$",
    re.MULTILINE,
)
"""An image with an exact tag; images that are built here have no tag."""


def pin(text: str) -> str:
    """Return the text of a file with the present digest at each image."""
    return IMAGE.sub(
        lambda found: f"{found['before']}{found['name']}@{_digest(found['name'])}", text
    )


def _digest(name: str) -> str:
    command = ["docker", "buildx", "imagetools", "inspect", name]
    done = subprocess.run(
        [*command, "--format", "{{.Manifest.Digest}}"], capture_output=True, text=True, check=False
    )
    digest = done.stdout.strip()
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        sys.exit(f"error: no digest of {name}: {(done.stderr or digest).strip()}")
    return digest


def main() -> None:
    """Pin all files; none is written if an image cannot be looked up."""
    for file, text in [(file, pin(file.read_text("utf-8"))) for file in FILES]:
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
