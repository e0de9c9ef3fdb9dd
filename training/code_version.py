"""The version of this code, for checkpoints and generated candidates."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import curation


@cache
def code_version() -> str:
    """Return the package's version, with the commit if it runs from a git checkout."""
    root = Path(curation.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return curation.__version__
    # A failure of git is not an error: the version alone is enough.
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return curation.__version__
    return f"{curation.__version__}+{described}"
