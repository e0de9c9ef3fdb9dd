"""The fixture of contract tests that run on a real Label Studio."""

from __future__ import annotations

from tests.support.label_studio import studio

__all__ = ["studio"]
