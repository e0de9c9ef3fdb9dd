"""The fixtures of tests that have a round at a real Label Studio."""

from __future__ import annotations

from tests.support.label_studio import backend, labeled, studio

__all__ = ["backend", "labeled", "studio"]
