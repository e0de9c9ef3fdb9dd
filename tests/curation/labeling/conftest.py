"""The fixtures of tests that have a round at a real Label Studio."""

from __future__ import annotations

from tests.support.label_studio import desk, seat, studio

__all__ = ["desk", "seat", "studio"]
