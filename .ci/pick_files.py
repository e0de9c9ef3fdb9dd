"""Print three files of each package, picked with a fixed seed, for a review of their language."""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
SEED = 12
PER_FOLDER = 3
ROOTS = ("curation/", "training/", "layerloop/", "annotator_ui/", "tests/", "migrations/", ".ci/")
SUFFIXES = {".py", ".js", ".css", ".html"}


def main() -> None:
    """Print one path per line."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders: dict[str, list[str]] = defaultdict(list)
    for name in listed:
        path = PurePosixPath(name)
        if name.startswith(ROOTS) and path.suffix in SUFFIXES and path.name != "__init__.py":
            folders[str(path.parent)].append(name)
    rng = random.Random(SEED)
    for folder in sorted(folders):
        names = sorted(folders[folder])
        print(*rng.sample(names, min(PER_FOLDER, len(names))), sep="\n")


if __name__ == "__main__":
    main()
